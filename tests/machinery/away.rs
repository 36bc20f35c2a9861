//! The API server goes away, and comes back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::control_plane::{ControlPlane, cluster, join_node};
use crate::lab::shell;
use crate::objects::{ready, service, slice};
use crate::pods::in_pod;
use crate::proxy::{eventually, get};
use crate::table::{comes_to, shows};
use crate::tools::{ipvsadm, kernel, wait_for};

/// How long the program may take to notice the API server's return: it looks less and less often.
const NOTICED: Duration = Duration::from_mins(1);

/// Two Services with endpoints.
fn populate(control_plane: &ControlPlane) {
    for (name, address, protocol) in [("a", "10.96.1.1", "TCP"), ("b", "10.96.1.2", "UDP")] {
        let ports = json!([{"port": 80, "protocol": protocol}]);
        control_plane.create(service(name, json!({"clusterIP": address, "ports": ports})));
        let slice = slice(&format!("{name}-1"), name, &[("", 8080, protocol)], &["10.244.0.1", "10.244.0.2"]);
        control_plane.create(slice);
    }
}

const SERVERS: &str = "TCP 10.96.1.1:80 rr
  -> 10.244.0.1:8080 Masq 1 0 0
  -> 10.244.0.2:8080 Masq 1 0 0
UDP 10.96.1.2:80 rr
  -> 10.244.0.1:8080 Masq 1 0 0
  -> 10.244.0.2:8080 Masq 1 0 0
";
const ADDRESSES: [&str; 2] = ["10.96.1.1", "10.96.1.2"];

pub fn a_killed_api_server_takes_nothing_away() {
    let mut cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    populate(&cluster);
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    shows(&cluster, SERVERS, &ADDRESSES);
    let before = ipvsadm();

    // Acknowledged just before the server is killed: reported again afterwards.
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    cluster.create(slice("c-1", "c", &[("", 8080, "TCP")], &["10.244.0.3"]));
    cluster.create(service("c", json!({"clusterIP": "10.96.1.3", "ports": ports})));
    cluster.kill();
    while_it_restarts(&mut cluster, || {
        let now = ipvsadm();
        assert!(before.lines().all(|line| now.contains(line)), "before:\n{before}now:\n{now}{}", proxy.log());
    });

    // At once, before anyone may have noticed the server's return.
    cluster.patch(
        "EndpointSlice",
        "a-1",
        json!({"endpoints": ready(&["10.244.0.1", "10.244.0.2", "10.244.0.4"])}),
    );
    let ports = json!([{"port": 81, "protocol": "TCP"}]);
    cluster.create(service("d", json!({"clusterIP": "10.96.1.4", "ports": ports})));
    cluster.create(slice("d-1", "d", &[("", 8080, "TCP")], &["10.244.0.3"]));
    let more = "TCP 10.96.1.3:80 rr\n  -> 10.244.0.3:8080 Masq 1 0 0\n\
                TCP 10.96.1.4:81 rr\n  -> 10.244.0.3:8080 Masq 1 0 0\n";
    wait_for("changes made after the restart", NOTICED.as_secs(), || {
        let now = ipvsadm();
        assert!(before.lines().all(|line| now.contains(line)), "before:\n{before}now:\n{now}{}", proxy.log());
        ["10.96.1.3:80", "10.96.1.4:81", "10.244.0.4:8080"].iter().all(|part| now.contains(part))
    });
    let servers = SERVERS.replace("UDP", "  -> 10.244.0.4:8080 Masq 1 0 0\nUDP") + more;
    shows(&cluster, &servers, &["10.96.1.1", "10.96.1.2", "10.96.1.3", "10.96.1.4"]);
    for kind in ["delete_virtual_server", "delete_real_server", "delete_address"] {
        let count = proxy.count("kube_ipvs_writes_total", &format!("kind=\"{kind}\""));
        assert_eq!(count, 0, "{kind}: nothing was withdrawn\n{}", proxy.log());
    }
    assert_eq!(proxy.count("kube_ipvs_drift_total", ""), 0, "{}", proxy.log());

    for name in ["c", "d"] {
        cluster.delete("Service", name);
    }
    cluster.patch("EndpointSlice", "a-1", json!({"endpoints": ready(&["10.244.0.1", "10.244.0.2"])}));
    comes_to(&cluster, SERVERS, &ADDRESSES);
}

pub fn without_an_api_server_it_waits() {
    let mut cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    populate(&cluster);
    let mut proxy = cluster.proxy(&folder, "before");
    proxy.wait_synced();
    shows(&cluster, SERVERS, &ADDRESSES);
    proxy.kill();
    cluster.kill();

    // On this node, with everything from an earlier run; and on a fresh node.
    shell("ip netns add fresh; ip -n fresh link set lo up");
    in_pod("fresh", join_node);
    let (left, nothing) = (kernel(), in_pod("fresh", kernel));
    let mut proxy = cluster.proxy(&folder, "here");
    let mut other = in_pod("fresh", || cluster.proxy(&folder, "fresh"));
    wait_for("it listens", 10, || proxy.log().contains("\"Serving\" name=\"healthz\""));
    // Load balancers must not send traffic yet; a restart would not help.
    for (path, healthy) in [("/healthz", false), ("/livez", true)] {
        let body = get("127.0.0.1:10256", path);
        assert!(body.contains(&format!("\"healthy\":{healthy}")), "{path}: {body}");
    }
    wait_for("health says why", 10, || {
        let body = get("127.0.0.1:10256", "/healthz");
        body.contains("the first complete sync since the start has not finished")
            && body.contains("watch services: ")
    });
    while_it_restarts(&mut cluster, || {
        for (proxy, before, now) in [(&proxy, &left, kernel()), (&other, &nothing, in_pod("fresh", kernel))] {
            let synced = proxy.log().contains("First sync complete");
            assert!(synced || now == *before, "before:\n{before}now:\n{now}{}", proxy.log());
        }
    });
    for proxy in [&proxy, &other] {
        assert!(proxy.log().contains("services: "), "it says what it waits for: {}", proxy.log());
    }
    for proxy in [&mut proxy, &mut other] {
        eventually(NOTICED, || proxy.log().contains("First sync complete"));
        proxy.wait_synced();
    }
    assert_eq!(proxy.writes(), 0, "{}", proxy.log());
    assert_eq!(kernel(), left);
    in_pod("fresh", || shows(&cluster, SERVERS, &ADDRESSES));
}

/// Starts the API server again, and keeps looking at something during this and a little longer.
fn while_it_restarts(control_plane: &mut ControlPlane, mut look: impl FnMut()) {
    std::thread::scope(|scope| {
        // For some of this time nobody even listens. A look may take half a second on a busy machine.
        let begun = Instant::now();
        let mut looks = 0;
        while looks < 6 || begun.elapsed() < Duration::from_secs(2) {
            look();
            looks += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        let restart = scope.spawn(|| control_plane.restart());
        while !restart.is_finished() {
            look();
            std::thread::sleep(Duration::from_millis(500));
        }
    });
}
