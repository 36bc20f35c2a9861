//! What prevents a start: one clear line in the log, and the kernel stays as it is.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::control_plane::{cluster, start};
use crate::proxy::Proxy;
use crate::tools::kernel;

/// Waits for the end, and returns the one line that says why.
fn why(mut proxy: Proxy) -> String {
    let status = proxy.wait();
    let log = proxy.log();
    assert_eq!(status, Some(1), "{log}");
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with('E')).collect();
    assert_eq!(errors.len(), 1, "one line says it:\n{log}");
    assert!(
        errors[0].contains("\"command failed\" err=") && log.ends_with(&format!("{}\n", errors[0])),
        "{log}"
    );
    errors[0].to_owned()
}

pub fn who_is_denied_is_told_what() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let before = kernel();
    for (user, reason) in
        [("nobody", "forbidden: "), ("stranger", "unauthorized: the server does not accept the credentials")]
    {
        let line = why(cluster.proxy_as(user, &folder, user));
        let asked = ["services", "endpointslices.discovery.k8s.io", "nodes"]
            .iter()
            .any(|resource| line.contains(&format!("watch {resource}: {reason}")));
        assert!(asked, "verb, resource and reason: {line}");
        assert_eq!(kernel(), before, "{user}");
    }
}

pub fn a_wrong_kubeconfig_is_explained() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let before = kernel();
    let good = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    // The file names the certificate by a relative path.
    let authority = cluster.kubeconfig().with_file_name("certs").join("apiserver.crt");
    let good = good.replace("certs/apiserver.crt", &authority.to_string_lossy());
    let authority = authority.to_string_lossy();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_string_lossy();
    let mut number = 0;
    let mut explained = |text: Option<String>, expected: &[&str]| {
        number += 1;
        let file = write(&folder, number, text.as_deref());
        let line = why(start(&folder, &format!("proxy{number}"), &file, &[]));
        let named = format!("--kubeconfig {}: ", file.display());
        for part in expected.iter().chain(&[&*named]) {
            assert!(line.contains(part), "{part} is missing: {line}");
        }
        assert_eq!(kernel(), before, "{line}");
    };
    explained(None, &["No such file or directory"]);
    explained(Some(String::new()), &["current-context"]);
    explained(Some("]".into()), &["not a kubeconfig"]);
    explained(Some("clusters: {a: b}\n".into()), &["not a kubeconfig"]);
    let mut changed = |from: &str, to: &str, expected: &[&str]| {
        assert!(good.contains(from), "{from} is not in {good}");
        explained(Some(good.replace(from, to)), expected);
    };
    changed("current-context: here", "current-context: there", &["current-context: ", "there", "here"]);
    changed("cluster: lab,", "cluster: prod,", &["contexts[here].context.cluster: ", "prod", "lab"]);
    changed("user: proxy}}", "user: root}}", &["contexts[here].context.user: ", "root", "proxy"]);
    changed("server: https", "server: ftp", &["clusters[lab].cluster.server: ", "http or https"]);
    changed("server: https", "other: https", &["clusters[lab].cluster.server: is not set"]);
    changed(&authority, "/nonexistent", &["clusters[lab].cluster.certificate-authority: /nonexistent: "]);
    changed(&authority, &empty, &["clusters[lab].cluster.certificate-authority: holds no certificate"]);
    changed("token: proxy", "tokenFile: /nonexistent", &["users[proxy].user.tokenFile: /nonexistent: "]);
    changed("token: proxy", "client-certificate: /nonexistent", &["users[proxy].user.client-certificate: "]);
}

fn write(folder: &TempDir, number: u32, text: Option<&str>) -> PathBuf {
    let file = folder.path().join(format!("kubeconfig{number}"));
    if let Some(text) = text {
        std::fs::write(&file, text).unwrap();
    }
    file
}
