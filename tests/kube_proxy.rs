//! Comparison with the real kube-proxy of a Kubernetes release: it and kube-ipvs run on nodes of the same topology, and
//! get the same objects from the real API machinery. `make compare` runs this; `make test` does not, since kube-proxy
//! has to be built from source first, with the many libraries of the release.
//!
//! Needs `KUBEBUILDER_ASSETS`, and the program that `KUBE_PROXY` names (`tests/lab/kube-proxy/build.sh`).

#![expect(clippy::unwrap_used, reason = "this is all test code; clippy knows only #[test] functions as such")]

#[path = "kube_proxy/anything.rs"]
mod anything;
#[path = "dataplane/cluster.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod cluster;
#[path = "kube_proxy/control_plane.rs"]
mod control_plane;
#[path = "common/host.rs"]
mod host;
#[path = "takeover/kube_proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod kube_proxy;
#[path = "common/kubeconfig.rs"]
mod kubeconfig;
#[path = "common/lab.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod lab;
#[path = "takeover/others.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod others;
#[path = "kube_proxy/program.rs"]
mod program;
#[path = "common/proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod proxy;
#[path = "common/real_apiserver.rs"]
#[expect(dead_code, unreachable_pub, reason = "each test program uses its own part of this")]
mod real_apiserver;
#[path = "kube_proxy/recordings.rs"]
mod recordings;
#[path = "dataplane/reference.rs"]
mod reference;
#[path = "kube_proxy/same.rs"]
mod same;
#[path = "kube_proxy/switch.rs"]
mod switch;
#[path = "dataplane/table.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod table;
#[path = "common/talk.rs"]
mod talk;
#[path = "dataplane/topology.rs"]
mod topology;
#[path = "takeover/traffic.rs"]
mod traffic;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use self::cluster::Cluster;
use self::kube_proxy::NODES;
use self::proxy::Proxy;
use self::recordings::{
    iptables_mode_leaves_what_is_recorded, ipvs_mode_leaves_what_is_recorded,
    nftables_mode_leaves_what_is_recorded,
};
use self::same::{
    ipvs_mode_has_the_same_state, of_anything_ipvs_mode_makes_the_same_state,
    of_changes_it_makes_the_same_state, the_reference_is_what_iptables_mode_does,
    the_reference_is_what_nftables_mode_does,
};
use self::switch::{from_iptables_mode_and_back, from_ipvs_mode_and_back, from_nftables_mode_and_back};

/// Looks until two looks with this pause between them see the same; returns the last one.
fn at_rest<T>(pause: Duration, look: impl Fn() -> T, is_same: impl Fn(&T, &T) -> bool) -> T {
    let mut last = look();
    for _ in 0..10 {
        thread::sleep(pause);
        let now = look();
        if is_same(&last, &now) {
            return now;
        }
        last = now;
    }
    panic!("it goes on changing");
}

fn main() -> std::process::ExitCode {
    let missing = real_apiserver::assets().and_then(|_| program::path()).err();
    lab::run_unless(
        missing.as_deref(),
        lab::tests![
            ipvs_mode_leaves_what_is_recorded,
            iptables_mode_leaves_what_is_recorded,
            nftables_mode_leaves_what_is_recorded,
            from_ipvs_mode_and_back,
            from_iptables_mode_and_back,
            from_nftables_mode_and_back,
            ipvs_mode_has_the_same_state,
            of_anything_ipvs_mode_makes_the_same_state,
            of_changes_it_makes_the_same_state,
            the_reference_is_what_iptables_mode_does,
            the_reference_is_what_nftables_mode_does,
        ],
    )
}

/// Starts kube-ipvs on a node, fed by the API server.
fn start_ours(cluster: &Cluster, node: &'static str, kubeconfig: PathBuf) -> Proxy {
    let mut proxy = cluster.host(node).run(move || {
        let folder = tempfile::tempdir().unwrap().keep();
        let kubeconfig = kubeconfig.to_string_lossy();
        Proxy::on_node(&folder, node, node, topology::POD_NETWORKS, &["--kubeconfig", &kubeconfig])
    });
    proxy.wait_synced();
    proxy
}
