//! Where facts come from, and in which encoding.

use super::*;

#[test]
fn manifests_are_a_source_of_their_own() {
    let wanted = Source::Manifests(vec!["a".into(), "b".into()]);
    assert_eq!(with_flags(&["--manifests=a", "--manifests=b"]).unwrap().options.source, wanted);
    assert_eq!(with_file(&["--manifests=a", "--manifests=b"], "").unwrap().options.source, wanted);
    // The flag does not count beside a file.
    assert_eq!(
        with_file(&["--manifests=a", "--manifests=b", "--kubeconfig=k"], "").unwrap().options.source,
        wanted
    );
}

#[test]
fn objects_come_in_protocol_buffers_unless_json_is_preferred() {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let warnings = |merged: &Merged| {
        let about = |notice: &&Notice| notice.message.starts_with("Only protocol buffers");
        merged.notices.iter().filter(about).map(|notice| notice.detail.clone()).collect::<Vec<_>>()
    };
    let asked = |merged: Merged| {
        let Source::Api { protobuf, .. } = merged.options.source else { panic!("no API server") };
        (protobuf, warnings(&merged))
    };
    for (accepted, named, protobuf) in [
        ("", "", true),
        ("", PROTOBUF, true),
        ("", "application/json", false),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json", true),
        ("text/plain, application/json;q=0.9, application/vnd.kubernetes.protobuf", PROTOBUF, false),
        ("*/*", PROTOBUF, false),
    ] {
        let body = format!("clientConnection: {{acceptContentTypes: '{accepted}', contentType: '{named}'}}");
        assert_eq!(asked(with_file(&[], &body).unwrap()), (protobuf, vec![]), "{body}");
    }
    assert_eq!(asked(with_flags(&["--kube-api-content-type=application/json"]).unwrap()), (false, vec![]));
    let (protobuf, told) = asked(with_flags(&["--kube-api-content-type=application/yaml"]).unwrap());
    assert!(
        protobuf && told[0].starts_with("--kube-api-content-type: \"application/yaml\": allowed"),
        "{told:?}"
    );
    let (protobuf, told) = asked(with_file(&[], "clientConnection: {acceptContentTypes: a}").unwrap());
    assert!(
        protobuf && told[0].starts_with("clientConnection.acceptContentTypes: \"a\": allowed"),
        "{told:?}"
    );
}
