//! The Node object of the node: the start waits for it, and some of its changes end the program, which leaves the data
//! plane as it is.

use crate::control_plane::{NODE, cluster};
use crate::proxy::Proxy;
use crate::tools::{kernel, wait_for};

pub fn the_start_waits_for_the_node() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    cluster.delete("Node", NODE);
    let before = kernel();
    let mut proxy = cluster.proxy(&folder, "proxy");
    wait_for("it waits", 20, || proxy.log().contains("\"Waiting for the Node object\" node=\"node1\""));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(kernel(), before, "nothing is written for a node that does not exist");
    cluster.create_node();
    proxy.wait_synced();
    let log = proxy.log();
    for line in [
        "\"Successfully retrieved NodeIPs\" NodeIPs=[\"192.0.2.2\", \"::1\"]",
        "\"kube-proxy running in dual-stack mode\" primary ipFamily=\"IPv4\"",
        "\"Kube-proxy configuration may be incomplete or incorrect\" err=\"nodePortAddresses is unset; ",
    ] {
        assert!(log.contains(line), "{line} is missing:\n{log}");
    }
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
    // Started anew, it takes the node as it is now.
    let mut proxy = cluster.proxy(&folder, "deleted");
    proxy.wait_synced();
    let before = kernel();
    cluster.delete("Node", NODE);
    assert_ended(proxy, "Node is being deleted");
    assert_eq!(kernel(), before);
    // For the next test.
    cluster.create_node();
}

fn assert_ended(mut proxy: Proxy, why: &str) {
    assert_eq!(proxy.wait(), Some(1));
    let log = proxy.log();
    assert!(log.contains(&format!("\"command failed\" err=\"{why}\"")), "{log}");
}
