//! Behaviour that needs a network (over TCP, with the real clock), or depends on the process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kube_ipvs::api::client::connect;
use kube_ipvs::api::watch::Settings;
use kube_ipvs::options::LogFormat;
use kube_ipvs::telemetry;
use tokio::process::Command;

use crate::common::fake_apiserver::{FakeApiServer, Kind};
use crate::common::kubeconfig::kubeconfig;
use crate::common::objects::{node, service, slice};
use crate::common::relay::Relay;
use crate::session::{self, NODE, Of, Session};

session::tests![
    a_restart_withdraws_nothing,
    a_server_that_comes_late_is_waited_for,
    a_half_open_connection_is_noticed,
    who_asks_is_named,
    a_renewed_token_is_used,
    a_plugin_is_asked_again_when_its_token_is_denied,
    without_any_authority_it_says_so,
    outside_of_a_pod_it_says_so,
    a_proxy_in_the_environment_is_not_looked_at,
    a_pod_without_credentials_says_so,
    a_pod_whose_api_server_is_a_service_is_warned,
];

fn server() -> FakeApiServer {
    let server = FakeApiServer::new();
    server.put(service("a", "10.96.0.1"));
    server.put(slice("a-1", "a", &["10.1.0.1"]));
    server.put(node(NODE, "192.0.2.1"));
    server
}

const FIRST: [&str; 3] = [
    "replace [default/a 10.96.0.1:80]",
    "replace [default/a-1 of default/a (10.1.0.1)]",
    "replace [worker (192.0.2.1)]",
];

async fn client(address: SocketAddr) -> kube::Client {
    connect(None, Some(&format!("http://{address}"))).await.unwrap()
}

async fn a_restart_withdraws_nothing() {
    let server = server();
    let mut relay = Relay::to(server.serve().await).await;
    let mut session = Session::start(client(relay.address).await, Settings::default());
    assert_eq!(session.first().await, FIRST);
    relay.stop().await;
    for of in [Of::Services, Of::Slices, Of::Node] {
        session.until(of, |status| status.last_error.is_some()).await;
    }
    server.put(service("b", "10.96.0.2"));
    server.delete(Kind::Slices, "a-1");
    relay.restart();
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.0.2:80");
    assert_eq!(session.next(Of::Slices).await, "delete default/a-1");
    assert_eq!(session.counters(Of::Services)[3], 0, "no relist");
}

async fn a_server_that_comes_late_is_waited_for() {
    let server = server();
    let mut relay = Relay::to(server.serve().await).await;
    relay.stop().await;
    let mut session = Session::start(client(relay.address).await, Settings::default());
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let error = session.status(Of::Services).last_error.unwrap();
    assert!(error.starts_with("watch services: ") && error.contains("Connection refused"), "{error}");
    relay.restart();
    assert_eq!(session.first().await, FIRST);
}

/// Audit logs tell programs apart by this name: its form is that of Kubernetes' own components.
async fn who_asks_is_named() {
    let server = server();
    let mut session = Session::start(client(server.serve().await).await, Settings::default());
    assert_eq!(session.first().await, FIRST);
    let (name, system) = (concat!("kube-ipvs/v", env!("CARGO_PKG_VERSION")), "linux");
    let expected = format!("{name} ({system}/{})", std::env::consts::ARCH);
    assert_eq!(server.received(Kind::Services)[0].user_agent, expected);
}

async fn a_half_open_connection_is_noticed() {
    let server = server();
    let relay = Relay::to(server.serve().await).await;
    let limit = Duration::from_millis(300);
    let settings = Settings { progress_timeout: limit, idle_timeout: limit, ..Settings::default() };
    let mut session = Session::start(client(relay.address).await, settings);
    assert_eq!(session.first().await, FIRST);
    relay.carry(false);
    server.put(service("b", "10.96.0.2"));
    // The silence is noticed, and the watch is tried over a new connection, which is as dead.
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let error = session.status(Of::Services).last_error.unwrap();
    assert_eq!(&*error, "watch services: nothing received for 300ms");
    relay.carry(true);
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.0.2:80");
    assert_eq!(session.counters(Of::Services)[3], 0, "no relist");
}

async fn a_renewed_token_is_used() {
    a_token_is_renewed("{tokenFile: token}").await;
}

/// The token has no expiry of its own.
async fn a_plugin_is_asked_again_when_its_token_is_denied() {
    let user = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, \"\
                printf '{\\\"status\\\": {\\\"token\\\": \\\"%s\\\"}}' $(cat FOLDER/token)\"]}}";
    a_token_is_renewed(user).await;
}

/// A user's token comes from the file `token`. The server begins to require another one, and then the file has that.
async fn a_token_is_renewed(user: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (token, kubeconfig) = (folder.path().join("token"), folder.path().join("kubeconfig"));
    let server = server();
    server.require_token("first");
    std::fs::write(&token, "first\n").unwrap();
    let mut relay = Relay::to(server.serve().await).await;
    write_kubeconfig(&kubeconfig, relay.address, &user.replace("FOLDER", folder.path().to_str().unwrap()));
    let mut session = Session::start(connect(Some(&kubeconfig), None).await.unwrap(), Settings::default());
    assert_eq!(session.first().await, FIRST);

    server.require_token("second");
    relay.stop().await;
    relay.restart();
    let is_denied = |error: &str| error.starts_with("watch services: unauthorized: ");
    session.until(Of::Services, |status| status.last_error.as_deref().is_some_and(is_denied)).await;
    std::fs::write(&token, "second\n").unwrap();
    server.put(service("b", "10.96.0.2"));
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.0.2:80");
}

fn write_kubeconfig(file: &Path, server: SocketAddr, user: &str) {
    std::fs::write(file, kubeconfig(&format!("{{server: 'http://{server}'}}"), user)).unwrap();
}

/// Run again with this variable, this program does nothing but connect; see [`as_child`].
const CHILD: &str = "APISERVER_TEST_CONNECTS_TO";

/// The kubeconfig that the child uses, if any.
const KUBECONFIG: &str = "APISERVER_TEST_KUBECONFIG";

/// If this process is such a child: connects, prints the result, and is done.
pub fn as_child() -> Option<ExitCode> {
    let master = std::env::var(CHILD).ok()?;
    let kubeconfig = std::env::var_os(KUBECONFIG);
    telemetry::init(0, LogFormat::Text);
    crate::session::on_the_clock(async {
        let kubeconfig = kubeconfig.as_ref().map(Path::new);
        match connect(kubeconfig, Some(master.as_str()).filter(|master| !master.is_empty())).await {
            Ok(_) => println!("ok"),
            Err(error) => println!("{error}"),
        }
    });
    Some(ExitCode::SUCCESS)
}

fn child(master: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CHILD, master);
    for variable in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT_443_TCP_ADDR"] {
        command.env_remove(variable);
    }
    command
}

async fn said(mut command: Command) -> String {
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

async fn without_any_authority_it_says_so() {
    let bare = async |master: &str| {
        let mut command = child(master);
        command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nonexistent");
        said(command).await
    };
    let text = bare("https://127.0.0.1:1").await;
    let expected = "server https://127.0.0.1:1/: no certificate authority is given (by a kubeconfig), and the \
                    system's own certificates cannot be used: ";
    assert!(text.starts_with(expected) && text.lines().count() == 1, "{text}");
    assert_eq!(bare("http://127.0.0.1:1").await, "ok", "where nothing is verified nothing is needed");
}

async fn outside_of_a_pod_it_says_so() {
    let expected = "neither --kubeconfig nor --master is given, and this is not a pod: KUBERNETES_SERVICE_HOST is \
                    not set (or use --manifests, which needs no API server)";
    assert_eq!(said(child("")).await, expected);
}

/// A credential plugin is not told of a proxy either.
async fn a_proxy_in_the_environment_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let (kubeconfig, told) = (folder.path().join("kubeconfig"), folder.path().join("told"));
    let user = "{exec: {apiVersion: client.authentication.k8s.io/v1, provideClusterInfo: true, command: sh, \
                args: [-c, \"echo $KUBERNETES_EXEC_INFO > TOLD; echo '{\\\"status\\\": {\\\"token\\\": \\\"a\\\"}}'\"]}}";
    let user = user.replace("TOLD", told.to_str().unwrap());
    write_kubeconfig(&kubeconfig, SocketAddr::from(([127, 0, 0, 1], 1)), &user);
    let mut command = child("");
    command.env(KUBECONFIG, &kubeconfig).env("HTTPS_PROXY", "http://no such host");
    assert_eq!(said(command).await, "ok");
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    let cluster = told["spec"]["cluster"].as_object().unwrap();
    assert_eq!(cluster.keys().collect::<Vec<_>>(), ["server"], "{told}");
}

async fn a_pod_without_credentials_says_so() {
    let mut command = child("");
    command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    if Path::new(folder).exists() {
        // In this case this machine is a pod, and has the credentials.
        assert_eq!(said(command).await, "ok");
    } else {
        let expected =
            format!("in-cluster credentials: {folder}/ca.crt: No such file or directory (os error 2)");
        assert_eq!(said(command).await, expected);
    }
}

async fn a_pod_whose_api_server_is_a_service_is_warned() {
    for (host, of_service, warns) in [
        ("10.96.0.1", Some("10.96.0.1"), true),
        ("10.96.0.1", None, true),
        ("fd00:10:96::1", Some("fd00:10:96::1"), true),
        // Set by hand, in the pod.
        ("192.0.2.1", Some("10.96.0.1"), false),
    ] {
        let mut command = child("");
        command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", "443");
        command.envs(of_service.map(|address| ("KUBERNETES_PORT_443_TCP_ADDR", address)));
        let output = command.output().await.unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        let warnings: Vec<&str> = log.lines().filter(|line| line.starts_with('W')).collect();
        assert_eq!(warnings.len(), usize::from(warns), "{host} {of_service:?}: {log}");
        let names = |line: &&str| line.contains("Service address") && line.contains(host);
        assert!(warnings.iter().all(names), "{log}");
    }
}
