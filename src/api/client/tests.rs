#[path = "../../../tests/common/kubeconfig.rs"]
mod text;

use std::path::Path;

use self::text::kubeconfig;
use super::in_cluster::{self, missing_variable};
use super::kubeconfig::server_url;
use super::{TokenFile, connect};

/// The verdict on this kubeconfig, without the folder's name.
async fn verdict(text: &str, master: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    std::fs::write(folder.path().join("token"), "secret\n").unwrap();
    match connect(Some(&file), master).await {
        Ok(_) => "ok".into(),
        Err(error) => {
            format!("{:#}", anyhow::Error::from(error)).replace(folder.path().to_str().unwrap(), ".")
        }
    }
}

#[tokio::test]
async fn errors_name_file_and_field() {
    let http = "{server: 'http://127.0.0.1:1'}";
    let insecure = "{server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}";
    let with_authority =
        |field: &str| kubeconfig(&format!("{{server: 'https://127.0.0.1:1', {field}}}"), "{}");
    for (text, expected) in [
        (kubeconfig(http, "{}"), "ok"),
        (kubeconfig(http, "{tokenFile: token}"), "ok"),
        (kubeconfig(insecure, "{token: secret}"), "ok"),
        (kubeconfig("{server: '127.0.0.1:1'}", "{}"), "ok"),
        (
            "apiVersion: v1".into(),
            "--kubeconfig ./kubeconfig: current-context: is not set; contexts of this file: none",
        ),
        (
            kubeconfig(http, "{}").replace("current-context: here", "current-context: there"),
            "--kubeconfig ./kubeconfig: current-context: no context is named \"there\"; contexts of this file: here",
        ),
        (
            kubeconfig(http, "{}").replace("cluster: lab,", "cluster: prod,"),
            "--kubeconfig ./kubeconfig: contexts[here].context.cluster: no cluster is named \"prod\"; clusters of \
             this file: lab",
        ),
        (
            kubeconfig(http, "{}").replace("user: proxy}", "user: root}"),
            "--kubeconfig ./kubeconfig: contexts[here].context.user: no user is named \"root\"; users of this \
             file: proxy",
        ),
        (
            kubeconfig("{}", "{}"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.server: is not set: the URL of the API server is \
             needed, here or by --master",
        ),
        (
            kubeconfig("{server: 'https://a b'}", "{}"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.server: \"https://a b\": invalid uri character; a \
             URL like https://192.0.2.1:6443 is needed",
        ),
        (
            kubeconfig("{server: 'ftp://a'}", "{}"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.server: \"ftp://a\": the scheme must be http or https",
        ),
        (
            kubeconfig("{server: 'http://a', proxy-url: 'socks5://b'}", "{}"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.proxy-url: \"socks5://b\": proxies are not supported",
        ),
        (
            with_authority("certificate-authority: ca.crt"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.certificate-authority: ./ca.crt: No such file or \
             directory (os error 2)",
        ),
        (
            with_authority("certificate-authority: token"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.certificate-authority: holds no certificate",
        ),
        (
            with_authority("certificate-authority-data: '%%%'"),
            "--kubeconfig ./kubeconfig: clusters[lab].cluster.certificate-authority-data: not base64: Invalid \
             symbol 37, offset 0.",
        ),
        (
            kubeconfig(http, "{tokenFile: nowhere}"),
            "--kubeconfig ./kubeconfig: users[proxy].user.tokenFile: ./nowhere: No such file or directory (os \
             error 2)",
        ),
        (
            kubeconfig(http, "{tokenFile: empty}"),
            "--kubeconfig ./kubeconfig: users[proxy].user.tokenFile: ./empty: the file is empty, a token is needed",
        ),
        (
            kubeconfig(
                http,
                "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /nonexistent/plugin}}",
            ),
            "--kubeconfig ./kubeconfig: users[proxy].user.exec: /nonexistent/plugin: No such file or \
             directory (os error 2)",
        ),
        (
            kubeconfig(insecure, "{client-certificate: me.crt}"),
            "--kubeconfig ./kubeconfig: users[proxy].user.client-certificate: ./me.crt: No such file or directory \
             (os error 2)",
        ),
        (
            kubeconfig(insecure, "{client-certificate-data: YQ==}"),
            "--kubeconfig ./kubeconfig: users[proxy].user.client-key: is missing",
        ),
    ] {
        assert_eq!(verdict(&text, None).await, expected, "{text}");
    }
}

/// As in client-go.
#[tokio::test]
async fn what_is_set_to_nothing_is_not_set() {
    let server = "{server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}";
    for field in [
        "tokenFile",
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "as",
        "as-uid",
    ] {
        assert_eq!(verdict(&kubeconfig(server, &format!("{{{field}: ''}}")), None).await, "ok", "{field}");
    }
    // If one of these two were set, a missing scheme would mean https.
    for field in ["certificate-authority", "certificate-authority-data"] {
        let text = kubeconfig(&format!("{{server: '127.0.0.1:1', {field}: ''}}"), "{}");
        assert_eq!(verdict(&text, None).await, "ok", "{field}");
    }
    let text = kubeconfig(&server.replace('}', ", tls-server-name: ''}"), "{}");
    assert_eq!(verdict(&text, None).await, "ok");
    // Credentials that are set take precedence over a plugin.
    let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: /nonexistent/plugin}";
    for fields in ["token: ''", "tokenFile: ''", "username: '', password: ''"] {
        let asked = verdict(&kubeconfig(server, &format!("{{{fields}, {exec}}}")), None).await;
        assert!(asked.contains("users[proxy].user.exec: /nonexistent/plugin: "), "{fields}: {asked}");
    }
}

#[tokio::test]
async fn an_authority_in_a_file_may_be_renewed_there() {
    let folder = tempfile::tempdir().unwrap();
    let (file, authority) = (folder.path().join("kubeconfig"), folder.path().join("ca.crt"));
    std::fs::write(&authority, "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n").unwrap();
    let data = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFRSUQKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
    let with_data = format!(", certificate-authority-data: {data}");
    for (more, expected) in [("", Some(authority)), (&*with_data, None)] {
        let cluster = format!("{{server: 'https://127.0.0.1:1', certificate-authority: ca.crt{more}}}");
        std::fs::write(&file, kubeconfig(&cluster, "{}")).unwrap();
        let (config, _) = super::kubeconfig::settings(&file, None).await.unwrap();
        assert_eq!(config.root_cert, Some(vec![vec![1, 2, 3]]));
        assert_eq!(config.root_cert_file, expected, "what is in the kubeconfig itself goes before");
    }
}

/// Nobody knows which of them was meant: client-go refuses such a file too.
#[tokio::test]
async fn a_name_that_is_there_twice_is_refused() {
    let text = kubeconfig("{server: 'http://127.0.0.1:1'}", "{}");
    for (list, once, twice) in [
        ("contexts", "contexts: [", "contexts: [{name: here}, "),
        ("clusters", "clusters: [", "clusters: [{name: lab}, "),
        ("users", "users: [", "users: [{name: proxy}, "),
    ] {
        let name = twice.rsplit(' ').nth(1).unwrap().trim_end_matches("},");
        let expected = format!("--kubeconfig ./kubeconfig: {list}: {name:?} is there twice, allowed once");
        assert_eq!(verdict(&text.replace(once, twice), None).await, expected);
    }
}

#[tokio::test]
async fn an_unreadable_file_and_one_of_another_shape_are_told_apart() {
    let missing = connect(Some(Path::new("/nonexistent/kubeconfig")), None).await.err().unwrap();
    assert_eq!(
        format!("{:#}", anyhow::Error::from(missing)),
        "--kubeconfig /nonexistent/kubeconfig: No such file or directory (os error 2)"
    );
    let half = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&half, b"\xff\xfea\0b").unwrap();
    let half = connect(Some(half.path()), None).await.err().unwrap().to_string();
    assert!(
        half.ends_with(": not a kubeconfig: the file is UTF-16 and ends in the middle of a character"),
        "{half}"
    );
    let broken = verdict("clusters: {a: b}\n", None).await;
    assert!(broken.starts_with("--kubeconfig ./kubeconfig: not a kubeconfig: "), "{broken}");
    assert_eq!(broken.lines().count(), 1, "{broken}");
}

#[tokio::test]
async fn master_replaces_the_server() {
    let without_server = kubeconfig("{tls-server-name: 'not a name'}", "{}");
    assert_eq!(verdict(&without_server, Some("http://127.0.0.1:1")).await, "ok");
    assert_eq!(
        verdict(&without_server, Some("ftp://127.0.0.1")).await,
        "--master \"ftp://127.0.0.1\": the scheme must be http or https"
    );
    assert!(connect(None, Some("127.0.0.1:8080")).await.is_ok());
    let error = connect(None, Some("http://")).await.err().unwrap().to_string();
    assert!(error.starts_with("--master \"http://\": "), "{error}");
}

#[test]
fn a_url_without_scheme_gets_the_one_that_fits() {
    assert_eq!(server_url("a:1", false).unwrap(), "http://a:1/");
    assert_eq!(server_url("a:1", true).unwrap(), "https://a:1/");
    assert_eq!(server_url("http://a:1/prefix", true).unwrap(), "http://a:1/prefix");
}

#[test]
fn a_pod_is_known_by_two_variables() {
    let only = |there: &'static str| move |name: &str| (name == there).then(|| "x".into());
    assert_eq!(missing_variable(|_| Some("x".into())), None);
    assert_eq!(missing_variable(|_| Some(String::new().into())), Some("KUBERNETES_SERVICE_HOST"));
    assert_eq!(missing_variable(only("KUBERNETES_SERVICE_HOST")), Some("KUBERNETES_SERVICE_PORT"));
}

/// A pod with these variables, and these files in the place of its service account: the server, or what is wrong.
fn pod(host: &str, port: &str, files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let lookup = |name: &str| Some(if name.ends_with("HOST") { host } else { port }.into());
    match in_cluster::read(lookup, folder.path()) {
        Ok(config) => {
            let token = config.auth_info.token_file.unwrap();
            assert_eq!(token, folder.path().join("token").to_str().unwrap());
            assert_eq!(config.root_cert_file, Some(folder.path().join("ca.crt")));
            format!("{} {:?}", config.cluster_url, config.root_cert.unwrap())
        }
        Err(error) => error.to_string().replace(folder.path().to_str().unwrap(), "."),
    }
}

#[test]
fn a_pod_needs_no_file_but_the_authority_and_the_token() {
    let pem = |tag: &str| format!("-----BEGIN {tag}-----\nAQID\n-----END {tag}-----\n");
    let authority = pem("CERTIFICATE") + &pem("PUBLIC KEY");
    let files = [("ca.crt", authority.as_str())];
    assert_eq!(pod("10.96.0.1", "443", &files), "https://10.96.0.1:443/ [[1, 2, 3]]");
    assert_eq!(pod("fd00::1", "6443", &files), "https://[fd00::1]:6443/ [[1, 2, 3]]");
    assert_eq!(pod("api.test", "6443", &files), "https://api.test:6443/ [[1, 2, 3]]");
    for (host, port, files, expected) in [
        (
            "a b",
            "443",
            &files[..],
            "KUBERNETES_SERVICE_HOST: \"a b\": invalid uri character; an address or name is needed, without scheme and port",
        ),
        (
            "10.96.0.1",
            "https",
            &files,
            "KUBERNETES_SERVICE_PORT: \"https\": invalid digit found in string; a port is needed, a number from 1 to 65535",
        ),
        ("10.96.0.1", "443", &[], "./ca.crt: No such file or directory (os error 2)"),
        (
            "10.96.0.1",
            "443",
            &[("ca.crt", "-----BEGIN A-----\n%\n-----END A-----\n")],
            "./ca.crt: not PEM: invalid data: Invalid symbol 37, offset 0.",
        ),
    ] {
        assert_eq!(pod(host, port, files), format!("in-cluster credentials: {expected}"));
    }
}

#[test]
fn a_token_is_read_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "first\n").unwrap();
    let token = TokenFile::open(&path).unwrap();
    assert_eq!(token.header(), "Bearer first");
    assert!(token.header().is_sensitive());
    std::fs::write(&path, "second").unwrap();
    assert_eq!(token.header(), "Bearer second");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(token.header(), "Bearer second", "the last one known");
}
