//! The Node object of the node: the start waits for it, and some of its changes end the program, which leaves the data
//! plane as it is.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::control_plane::{NODE, cluster};
use crate::lab::shell;
use crate::objects::{service, slice};
use crate::pods::{in_pod, pod};
use crate::proxy::{Proxy, get};
use crate::table::shows;
use crate::tools::{kernel, wait_for};

pub fn the_start_waits_for_the_node() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    cluster.delete("Node", NODE);
    let before = kernel();
    let mut proxy = cluster.proxy(&folder, "proxy");
    wait_for("it waits", 20, || proxy.log().contains("\"Waiting for the Node object\" node=\"node1\""));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(kernel(), before, "nothing is written for a node that does not exist");
    cluster.create_node();
    proxy.wait_synced();
    let log = proxy.log();
    for line in [
        "\"Starting service config controller\"",
        "\"Starting endpoint slice config controller\"",
        "\"Starting node config controller\"",
        "\"Successfully retrieved NodeIPs\" NodeIPs=[\"192.0.2.2\", \"::1\"]",
        "\"kube-proxy running in dual-stack mode\" primary ipFamily=\"IPv4\"",
        "\"Kube-proxy configuration may be incomplete or incorrect\" err=\"nodePortAddresses is unset; ",
    ] {
        assert!(log.contains(line), "{line} is missing:\n{log}");
    }
}

/// Where there is a cloud controller, kubelet leaves the addresses to it, and it may reach the API server only by its
/// service address: by what this program writes.
pub fn a_start_without_the_node_goes_on() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    cluster.create(service("web", json!({"clusterIP": "10.96.7.2", "ports": [{"port": 80}]})));
    cluster.create(slice("web-1", "web", &[("", 8080, "TCP")], &["10.244.7.4"]));
    cluster.delete("Node", NODE);
    let mut proxy = cluster.proxy(&folder, "alone");
    wait_for("it goes on", 60, || {
        proxy.log().contains("\"Timed out waiting for node to exist\" node=\"node1\"")
    });
    proxy.wait_synced();
    shows(&cluster, "TCP 10.96.7.2:80 rr\n  -> 10.244.7.4:8080 Masq 1 0 0\n", &["10.96.7.2"]);
    let health = || get("127.0.0.1:10256", "/healthz");
    let body = health();
    let why = "\"nodeEligible\":false,\"healthy\":true";
    assert!(body.contains(why) && body.contains("the node has no Node object"), "{body}");
    assert!(get("127.0.0.1:10256", "/livez").contains("\"healthy\":true"));

    cluster.create_node_without_address();
    wait_for("it is eligible", 20, || health().contains("\"nodeEligible\":true,\"healthy\":true"));
    cluster.set_node_address("192.0.2.2");
    let retrieved = "\"Successfully retrieved NodeIPs\" NodeIPs=[\"192.0.2.2\", \"::1\"]";
    wait_for("the address is taken in", 20, || proxy.log().contains(retrieved));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(proxy.log().matches("Version info").count(), 1, "{}", proxy.log());
    assert_eq!(proxy.terminate().0, Some(0));
}

pub fn a_node_that_changes_ends_the_program() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = cluster.proxy(&folder, "moves");
    proxy.wait_synced();
    let before = kernel();
    cluster.set_node_address("192.0.2.3");
    assert_ended(proxy, "NodeIPs changed for the node");
    assert_eq!(kernel(), before);
    // After a restart, it uses the node as it is now.
    let mut proxy = cluster.proxy(&folder, "deleted");
    proxy.wait_synced();
    let before = kernel();
    cluster.delete("Node", NODE);
    assert_ended(proxy, "Node is being deleted");
    assert_eq!(kernel(), before);
    // For the next test.
    cluster.create_node();
}

/// Where the user wants that (`--detect-local-mode=NodeCIDR`), the Node says which clients are masqueraded.
pub fn pods_are_those_in_the_networks_of_the_node() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let start = |name| cluster.proxy_with(&folder, name, &["--detect-local-mode", "NodeCIDR"]);
    pod("ours", "10.244.7.2", "10.244.7.1");
    pod("elsewhere", "10.244.8.2", "10.244.8.1");
    pod("backend", "10.244.7.3", "10.244.7.1");
    cluster.create(service("web", json!({"clusterIP": "10.96.7.1", "ports": [{"port": 80}]})));
    cluster.create(slice("web-1", "web", &[("", 8080, "TCP")], &["10.244.7.3"]));

    wait_for("the pods' devices have their addresses", 10, || !shell("ip addr").contains("tentative"));
    let before = kernel();
    let mut proxy = start("first");
    wait_for("it waits", 20, || proxy.log().contains("\"Waiting for the Node object\" node=\"node1\""));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(kernel(), before, "nothing is written before the Node has networks\n{}", proxy.log());

    let servers = "TCP 10.96.7.1:80 rr\n  -> 10.244.7.3:8080 Masq 1 0 0\n";
    let listener = in_pod("backend", || TcpListener::bind("10.244.7.3:8080").unwrap());
    // The server's node has the gateway's address on the device that leads to the server.
    let asks = |client, expected: &str| {
        let service = SocketAddr::from(([10, 96, 7, 1], 80));
        let _stream =
            in_pod(client, || TcpStream::connect_timeout(&service, Duration::from_secs(5)).unwrap());
        let (_, source) = listener.accept().unwrap();
        assert_eq!(source.ip().to_string(), expected, "{client}\n{}", shell("nft list ruleset"));
    };
    assert!(cluster.set_pod_networks(&["10.244.7.0/24", "fd00:10:244:7::/64"]), "they are set once");
    proxy.wait_synced();
    shows(&cluster, servers, &["10.96.7.1"]);
    let rules = shell("nft list ruleset");
    assert!(rules.contains("fd00:10:244:7::/64") && !rules.contains("10.244.0.0/16"), "{rules}");
    asks("ours", "10.244.7.2");
    asks("elsewhere", "10.244.7.1");

    // Other networks end the program; after a restart, it uses the new ones.
    let before = kernel();
    let is_same = cluster.set_pod_networks(&["10.244.8.0/24"]);
    let why = if is_same { "PodCIDRs changed for the node" } else { "Node is being deleted" };
    assert_ended(proxy, why);
    assert_eq!(kernel(), before);
    let mut proxy = start("second");
    proxy.wait_synced();
    asks("ours", "10.244.7.1");
    asks("elsewhere", "10.244.8.2");
    // For the next test.
    cluster.delete("Node", NODE);
    cluster.create_node();
}

fn assert_ended(mut proxy: Proxy, why: &str) {
    assert_eq!(proxy.wait(), Some(1));
    let log = proxy.log();
    assert!(log.contains(&format!("\"command failed\" err=\"{why}\"")), "{log}");
}
