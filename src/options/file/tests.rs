use super::*;

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn parse_body(body: &str) -> Result<Loaded, FileError> {
    parse(&format!("{HEADER}{body}"))
}

fn configuration(body: &str) -> Configuration {
    parse_body(body).unwrap_or_else(|error| panic!("{body}: {error}")).configuration
}

#[test]
fn json_works_as_it_is() {
    let text = "{\n\t\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\",\n\t\"kind\": \"KubeProxyConfiguration\",\n\
                \t\"ipvs\": {\"udpTimeout\": \"5s\", \"scheduler\": null}\n}\n";
    assert_eq!(parse(text).unwrap().configuration, configuration("ipvs: {udpTimeout: 5s}"));
}

#[test]
fn nothing_is_nothing_however_it_is_said() {
    for body in [
        "ipvs:",
        "ipvs: null\niptables: ~\nlogging: {}\nclientConnection:\nkubeIPVS:",
        "logging: {options: }",
        "ipvs: {tcpTimeout: 0}",
        "ipvs: {tcpTimeout: \"\"}",
    ] {
        let loaded = parse_body(body).unwrap();
        assert_eq!((loaded.configuration, loaded.notices), (configuration(""), vec![]), "{body:?}");
    }
}

#[test]
fn what_is_only_not_strict_is_a_notice() {
    for (body, detail) in [
        ("mod: ipvs", "unknown field \"mod\""),
        ("ipvs: {schedular: rr}\nx: {y: 1}", "unknown field \"ipvs.schedular\", unknown field \"x\""),
        ("conntrack: {maxPerNode: 1}", "unknown field \"conntrack.maxPerNode\""),
        ("logging: {options: {text: {x: 1}}}", "unknown field \"logging.options.text.x\""),
        ("logging: {vmodule: [{x: 1}]}", "unknown field \"logging.vmodule.0.x\""),
        ("kubeIPVS: {drainTimeout: 1s}", "unknown field \"kubeIPVS.drainTimeout\""),
        // Fields of forks.
        (
            "serviceProxyName: x\nnftables: {tableName: y}",
            "unknown field \"serviceProxyName\", unknown field \"nftables.tableName\"",
        ),
    ] {
        let notices = parse_body(body).unwrap().notices;
        let wanted = Notice::info("Using lenient decoding as strict decoding failed", detail.to_owned());
        assert_eq!(notices, [wanted], "{body}");
    }
}

#[test]
fn the_last_of_duplicates_wins() {
    let loaded =
        parse_body("ipvs: {scheduler: lc, bogus: 1, scheduler: wlc}\nmode: iptables\nmode: ipvs").unwrap();
    assert_eq!(loaded.configuration.ipvs.scheduler, "wlc");
    assert_eq!(loaded.configuration.mode, "ipvs");
    assert_eq!(
        loaded.notices[0].detail,
        "ipvs: duplicate field `scheduler` at line 3 column 7, unknown field \"ipvs.bogus\""
    );
}

/// A file that has both lines already, before which a script writes them again.
#[test]
fn what_kind_of_object_it_is_may_be_said_twice() {
    let loaded = parse(&format!("kind: Other\n{HEADER}{HEADER}mode: ipvs")).unwrap();
    assert_eq!(loaded.configuration.mode, "ipvs");
    assert!(loaded.notices[0].detail.contains("duplicate field `kind`"), "{:?}", loaded.notices);
    parse(&format!("x: &x\n  {}\n<<: *x", HEADER.replace('\n', "\n  "))).unwrap();
    let other = parse(&format!("{HEADER}kind: Other")).unwrap_err().to_string();
    assert!(other.contains("kind: Invalid value: \"Other\""), "{other}");
}

/// The results are those of kube-proxy 1.37.
#[test]
fn mappings_merge_others() {
    for (body, scheduler, strict_arp) in [
        ("x: &x {scheduler: sh}\nipvs: {<<: *x}", "sh", false),
        ("ipvs: {<<: {scheduler: lc}}", "lc", false),
        ("x: &x {ipvs: {scheduler: sh}}\n<<: *x", "sh", false),
        ("x: &x {ipvs: {scheduler: sh}}\n<<: *x\nipvs: {strictARP: true}", "", true),
        // The last value wins.
        ("x: &x {scheduler: sh, strictARP: true}\nipvs: {<<: *x, scheduler: rr}", "rr", true),
        ("x: &x {scheduler: sh, strictARP: true}\nipvs: {scheduler: rr, <<: *x}", "sh", true),
        ("ipvs: {scheduler: rr, <<: {scheduler: sh, strictARP: true}, scheduler: lc}", "lc", true),
        ("x: &x {scheduler: sh, scheduler: lc}\nipvs: {<<: *x}", "lc", false),
        // Of a list, the first mapping wins.
        ("x: &x {scheduler: sh}\nz: &z {scheduler: lc, strictARP: true}\nipvs: {<<: [*x, *z]}", "sh", true),
        ("x: &x {scheduler: sh}\nz: &z {strictARP: true}\nipvs: {<<: *x, <<: *z}", "sh", true),
        ("x: &x {scheduler: sh}\nz: &z {<<: *x, strictARP: true}\nipvs: {<<: *z}", "sh", true),
    ] {
        let ipvs = configuration(body).ipvs;
        assert_eq!((&*ipvs.scheduler, ipvs.strict_arp), (scheduler, strict_arp), "{body}");
    }
    let gates = configuration("x: &x {A: true, B: true}\nfeatureGates: {<<: *x, B: false}").feature_gates;
    assert_eq!(gates, [("A".to_owned(), true), ("B".to_owned(), false)].into());
}

#[test]
fn what_is_merged_is_no_unknown_field() {
    let notices = parse_body("x: &x {scheduler: sh, bogus: 1}\nipvs: {<<: *x}").unwrap().notices;
    let detail = "unknown field \"x\", unknown field \"ipvs.bogus\"".to_owned();
    assert_eq!(notices, [Notice::info("Using lenient decoding as strict decoding failed", detail)]);
    assert_eq!(parse_body("ipvs: {<<: {scheduler: sh}}").unwrap().notices, []);
}

#[test]
fn only_mappings_can_be_merged() {
    let wanted = "failed to decode: ipvs: << merges a mapping or a list of mappings, found";
    for (body, found) in [
        ("ipvs: {<<: 5}", "the number 5 at line 3 column 7"),
        ("ipvs: {<<: }", "null at line 3 column 7"),
        ("ipvs: {<<: [{scheduler: lc}, x]}", "\"x\" at line 3 column 7"),
    ] {
        assert_eq!(parse_body(body).unwrap_err().to_string(), format!("{wanted} {found}"), "{body}");
    }
    // A merged value has a wrong type: no line is named, for the field may stand on none.
    assert_eq!(
        parse_body("x: &x {strictARP: maybe}\nipvs: {<<: *x}").unwrap_err().to_string(),
        "failed to decode: ipvs.strictARP: must be true or false, found \"maybe\""
    );
}

#[test]
fn what_is_wrong_is_named_with_field_and_line() {
    for (body, line) in [
        (
            "hostnameOverride: 5",
            "hostnameOverride: must be a string, found the number 5: write it in quotes at line 3 column 19",
        ),
        ("ipvs: 5", "ipvs: invalid type: integer `5`, expected a mapping at line 3 column 7"),
        (
            "ipvs:\n  tcpTimeout: 30",
            "ipvs.tcpTimeout: Invalid value: 30: a duration needs a unit: write for example 30s at line 4 column 15",
        ),
        (
            "logging:\n  verbosity: 1.5",
            "logging.verbosity: must be a whole number, found the number 1.5 at line 4 column 14",
        ),
    ] {
        let error = parse_body(body).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to decode: {line}"), "{body}");
    }
    // A duplicate field and another error: both are reported.
    assert_eq!(
        parse_body("mode: a\nmode: b\niptables:\n  masqueradeAll: maybe").unwrap_err().to_string(),
        "failed lenient decoding: iptables.masqueradeAll: must be true or false, found \"maybe\" (strict: duplicate \
         field `mode`)"
    );
}

#[test]
fn another_kind_of_file_is_refused() {
    for (text, line) in [
        ("", "apiVersion: Required value: must be \"kubeproxy.config.k8s.io/v1alpha1\""),
        ("mode: ipvs", "apiVersion: Required value: must be \"kubeproxy.config.k8s.io/v1alpha1\""),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {ipvs: 5}",
            "apiVersion: Invalid value: \"v1\": must be \"kubeproxy.config.k8s.io/v1alpha1\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: KubeProxyConfiguration",
            "apiVersion: Invalid value: \"kubeproxy.config.k8s.io/v1alpha2\": must be \"kubeproxy.config.k8s.io/v1alpha1\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
            "kind: Required value: must be \"KubeProxyConfiguration\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration",
            "kind: Invalid value: \"KubeletConfiguration\": must be \"KubeProxyConfiguration\"",
        ),
        ("hello", "invalid type: string \"hello\", expected a mapping with apiVersion, kind and settings"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to decode: {line}"), "{text:?}");
    }
}

#[test]
fn a_syntax_error_has_a_line() {
    let error = parse_body("ipvs:\n  scheduler: [rr\nmode: ipvs\n").unwrap_err().to_string();
    assert!(error.starts_with("failed to decode: ") && error.contains("line 5"), "{error}");
}

#[test]
fn only_the_first_document_counts() {
    let text = format!("---\n{HEADER}mode: ipvs\n---\nmode: 5\n");
    assert_eq!(parse(&text).unwrap().configuration.mode, "ipvs");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(body: String) {
        let _ = parse(&body);
        let _ = parse_body(&body);
    }

    /// Whatever is read can be written, and is read back unchanged.
    #[test]
    fn what_is_read_is_written_and_read_again(
        mode in ".*",
        cidrs in proptest::option::of(proptest::collection::vec(".*", 0..3)),
        bit in proptest::option::of(-5..40_i64),
        nanoseconds: i64,
    ) {
        let mut written = Configuration { mode, ..Configuration::default() };
        written.ipvs.exclude_cidrs = cidrs;
        written.iptables.masquerade_bit = bit;
        written.ipvs.tcp_timeout = crate::options::duration::GoDuration::from_nanoseconds(nanoseconds);
        written.set_defaults();
        let loaded = parse(&text(&written)).expect("it was written by this program");
        proptest::prop_assert_eq!(loaded.configuration, written);
        proptest::prop_assert_eq!(loaded.notices, vec![]);
    }
}
