//! What the program tells others about itself: Events at the API server, and metrics.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::control_plane::cluster;
use crate::lab::shell;
use crate::objects::{service, slice};
use crate::promtool;
use crate::proxy::get;
use crate::tools::{kernel, wait_for};

/// Type, reason, action, regarding API version, kind, name and uid of an Event.
fn told(event: &Value) -> [&str; 7] {
    let regarding = &event["regarding"];
    [
        &event["type"],
        &event["reason"],
        &event["action"],
        &regarding["apiVersion"],
        &regarding["kind"],
        &regarding["name"],
        &regarding["uid"],
    ]
    .map(|value| value.as_str().unwrap_or_default())
}

pub fn what_happens_is_told() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let _holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 31000)).unwrap();
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    let balanced = || {
        service(
            "balanced",
            json!({
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "clusterIP": "10.96.1.9", "ports": [{"port": 80}],
            }),
        )
    };
    cluster.create(balanced());
    let uid = cluster.uid("balanced");
    let starting = ["Normal", "Starting", "StartKubeProxy", "v1", "Node", "node1", "node1"];
    let failed = ["Warning", "FailedToStartServiceHealthcheck", "Listen", "v1", "Service", "balanced", &uid];
    for expected in [starting, failed] {
        wait_for(&format!("{expected:?}\n{}", proxy.log()), 30, || {
            cluster.events().iter().any(|event| told(event) == expected)
        });
    }
    let events = cluster.events();
    let event = events.iter().find(|event| told(event) == failed).unwrap();
    assert_eq!(event["reportingController"], "kube-proxy");
    assert_eq!(event["reportingInstance"], "kube-proxy-node1");
    assert_eq!(
        event["note"],
        "node node1 failed to start healthcheck \"default/balanced\" on port 31000: 0.0.0.0:31000: \
         Address already in use (os error 98)"
    );
    assert_eq!(cluster.described("balanced"), ["FailedToStartServiceHealthcheck"]);
    cluster.delete("Service", "balanced");
    cluster.create(balanced());
    assert_ne!(cluster.uid("balanced"), uid);
    wait_for(&format!("the new one is told of\n{}", proxy.log()), 30, || {
        cluster.described("balanced") == ["FailedToStartServiceHealthcheck"]
    });
    assert!(proxy.log().contains("\"Failed to start healthcheck\" service=\"default/balanced\" port=31000"));

    let page = get("127.0.0.1:10249", "/metrics");
    let host = cluster.host();
    for series in [
        &*format!("rest_client_requests_total{{code=\"200\",host=\"{host}\",method=\"GET\"}}"),
        &*format!("rest_client_requests_total{{code=\"201\",host=\"{host}\",method=\"POST\"}}"),
        &*format!("rest_client_request_size_bytes_count{{host=\"{host}\",verb=\"POST\"}}"),
        &*format!("rest_client_response_size_bytes_count{{host=\"{host}\",verb=\"POST\"}}"),
        "kube_ipvs_watch_healthy{resource=\"services\"} 1",
        "kube_ipvs_watch_events_total{resource=\"endpointslices.discovery.k8s.io\"}",
    ] {
        assert!(page.lines().any(|line| line.starts_with(series)), "{series} is missing:\n{page}");
    }
    // 3: the page parses, and the linter has findings, which `tests/monitoring.rs` checks.
    let (code, output) = promtool::run(&["check", "metrics"], &page);
    assert_eq!(code, 3, "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
}

/// A dry run gets the same facts as a start, and reports only to its reader.
pub fn a_dry_run_asks_the_api_server_and_tells_it_nothing() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    cluster.create(service("web", json!({"clusterIP": "10.96.8.1", "ports": [{"port": 80}]})));
    cluster.create(slice("web-1", "web", &[("", 8080, "TCP")], &["10.244.8.2"]));
    let (before, events) = (kernel(), cluster.events());
    // Ports that are taken do not matter: a dry run serves nobody.
    let _holders = [10256, 10249].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let mut proxy = cluster.proxy_with(&folder, "proxy", &["--dry-run", "--bind-address-hard-fail"]);
    assert_eq!(proxy.wait(), Some(0), "{}", proxy.log());
    let line = "  add real server TCP 10.96.8.1:80 -> 10.244.8.2:8080 weight 1, of default/web\n";
    assert!(proxy.log().contains(line), "{}", proxy.log());
    assert_eq!(kernel(), before);
    assert_eq!(cluster.events(), events);
}

/// The Service's owner runs `kubectl describe service`, and does not read logs of nodes.
pub fn a_service_whose_address_is_contested_is_told_so() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    let external = |cluster_ip: &str, address: &str| json!({"clusterIP": cluster_ip, "ports": [{"port": 80}], "externalIPs": [address]});
    cluster.create(service("older", external("10.96.1.7", "203.0.113.7")));
    let mut endpoints = slice("older-1", "older", &[("", 8080, "TCP")], &["10.244.0.1"]);
    endpoints["endpoints"][0]["nodeName"] = json!("node1");
    cluster.create(endpoints);
    let serves = || shell("ipvsadm -Sn").contains("-a -t 203.0.113.7:80 -r 10.244.0.1:8080");
    wait_for(&format!("it is served\n{}", proxy.log()), 30, serves);
    cluster.create(service("younger", external("10.96.1.8", "203.0.113.7")));
    cluster.create(service("of-node", external("10.96.1.9", "192.0.2.2")));
    for (name, note) in [
        (
            "younger",
            "other Services have what this one asks for, and keep it (cluster IPs come before node ports, load balancers' \
             addresses and external IPs, in this order, then the older one): TCP 203.0.113.7:80 (default/older)",
        ),
        (
            "of-node",
            "external IP 192.0.2.2 is node node1's own: there it stays the node's, but for the Service's ports",
        ),
    ] {
        let uid = cluster.uid(name);
        let expected = ["Warning", "AddressConflict", "ServeAddress", "v1", "Service", name, &uid];
        wait_for(&format!("{expected:?}\n{}", proxy.log()), 30, || {
            cluster.events().iter().any(|event| told(event) == expected && event["note"] == note)
        });
        assert_eq!(cluster.described(name), ["AddressConflict"]);
    }
    assert!(!cluster.events().iter().any(|event| event["regarding"]["name"] == "older"), "{}", proxy.log());
}

/// Where the user wants that, an address that another program uses ends the program, and the API server learns why.
pub fn an_end_for_want_of_an_address_is_told() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let _holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 10256)).unwrap();
    let mut proxy = cluster.proxy_with(&folder, "proxy", &["--bind-address-hard-fail"]);
    assert_eq!(proxy.wait(), Some(1), "{}", proxy.log());
    let expected =
        ["Warning", "FailedToStartProxierHealthcheck", "StartKubeProxy", "v1", "Node", "node1", "node1"];
    let events = cluster.events();
    let event = events.iter().find(|event| told(event) == expected);
    let event = event.unwrap_or_else(|| panic!("{events:?}\n{}", proxy.log()));
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("cannot serve healthz on 0.0.0.0:10256: Address already in use"), "{note}");
}
