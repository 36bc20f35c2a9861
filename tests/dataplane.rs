//! The data plane with real packets: every row is a client, a protocol and an IP family, asking through a service
//! address of a cluster of two nodes, each with a running kube-ipvs. The hosts are network namespaces
//! (`dataplane/topology.rs`); the Services come from manifests.
//!
//! Clients and servers are threads of this process in those namespaces, so a row takes milliseconds. The clusters are
//! created when the first row needs them, and shared by all rows.

#[path = "dataplane/changes.rs"]
mod changes;
#[path = "dataplane/cluster.rs"]
mod cluster;
#[path = "dataplane/conformance.rs"]
mod conformance;
#[path = "common/host.rs"]
mod host;
#[path = "common/lab.rs"]
#[expect(dead_code, unused_macros, unused_imports, reason = "each test program uses its own part of this")]
mod lab;
#[path = "dataplane/neighbours.rs"]
mod neighbours;
#[path = "dataplane/nodes.rs"]
mod nodes;
#[path = "common/proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod proxy;
#[path = "dataplane/reference.rs"]
mod reference;
#[path = "dataplane/refusals.rs"]
mod refusals;
#[path = "dataplane/requests.rs"]
mod requests;
#[path = "dataplane/table.rs"]
mod table;
#[path = "common/talk.rs"]
mod talk;
#[path = "dataplane/topology.rs"]
mod topology;

use std::process::ExitCode;
use std::sync::LazyLock;

use cluster::{Cluster, Condition, Policy, Service};
use libtest_mimic::Trial;

/// All clients except endpoints that ask themselves: pods, nodes and clients outside, on and through both nodes.
const CLIENTS: [&str; 6] = ["pod-1b", "pod-2b", "node-1", "node-2", "outside-1", "outside-2"];

/// The Services that no row changes.
static SERVICES: LazyLock<[Service; 5]> = LazyLock::new(|| {
    [
        Service::exposed("both", 10, &["pod-1a", "pod-2a"]),
        Service { affinity_seconds: Some(10_800), ..Service::exposed("sticky", 13, &["pod-1a", "pod-2a"]) },
        Service {
            affinity_seconds: Some(10_800),
            external: Policy::Local,
            ..Service::exposed("sticky-local", 12, &["pod-1a", "pod-2a"])
        },
        Service::exposed("none", 14, &[]),
        Service::exposed("unready", 15, &["pod-1a", "pod-2a"]).all(Condition::NotReady),
    ]
});

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let of_the_table = table::SERVICES.iter().map(|(_, service)| service);
    Cluster::start(SERVICES.iter().chain(of_the_table), &[])
});
static MASQUERADING_ALL: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::start(&*SERVICES, &["--masquerade-all"]));

fn service(name: &str) -> &'static Service {
    SERVICES.iter().find(|service| service.name == name).expect("a Service of this name")
}

fn main() -> ExitCode {
    lab::run_trials(|| {
        // The table comes last: it leaves some thousand connections behind.
        requests::rows()
            .chain(refusals::rows())
            .chain(changes::rows())
            .chain(neighbours::rows())
            .chain(nodes::rows())
            .chain(conformance::rows())
            .collect()
    })
}

/// A row, named after its subject.
fn row(words: &[&dyn std::fmt::Display], run: impl FnOnce() + Send + 'static) -> Trial {
    let words: Vec<_> = words.iter().map(|word| word.to_string().to_lowercase()).collect();
    Trial::test(words.join("/"), move || {
        run();
        Ok(())
    })
}
