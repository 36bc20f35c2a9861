//! Effects of what a node is told: no pod network, or an address that none of its devices has.

use std::sync::LazyLock;

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;
use serde_json::json;

use crate::cluster::{Cluster, Entry, Policy, Service};
use crate::row;
use crate::topology::find;

/// A cluster whose pod network is not configured, as where the CNI plugin has none.
static WITHOUT_PODS: LazyLock<Cluster> = LazyLock::new(|| {
    let local = |name, number, endpoints| Service {
        external: Policy::Local,
        ..Service::exposed(name, number, endpoints)
    };
    let services = [local("away", 10, &["pod-2a"]), local("here", 11, &["pod-1a", "pod-2a"])];
    Cluster::start(&services, &["--cluster-cidr", ""])
});

/// The Node object of node-1 has the external IPs of the Services: somebody outside translates them.
static TRANSLATED: LazyLock<Cluster> = LazyLock::new(|| {
    let services = [
        Service::exposed("policy-cluster", 10, &["pod-2a"]),
        Service { external: Policy::Local, ..Service::exposed("policy-local", 11, &["pod-2a"]) },
    ];
    let cluster = Cluster::without_proxies(&services);
    let node = find("node-1");
    let address = |kind: &str, address: String| json!({"type": kind, "address": address});
    let own = Family::ALL.map(|family| address("InternalIP", node.address(family).to_string()));
    let outside = services.iter().flat_map(|service| {
        Family::ALL.map(|family| {
            address("ExternalIP", service.target(Entry::ExternalIp, node, family).ip().to_string())
        })
    });
    let addresses: Vec<_> = own.into_iter().chain(outside).collect();
    cluster.put_object(
        "node-1",
        &json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": addresses},
        }),
    );
    cluster.start_proxies(&[]);
    cluster
});

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let entries = [Entry::LoadBalancerIp, Entry::ExternalIp, Entry::OwnNodePort];
    let unknown = Family::ALL.into_iter().flat_map(move |family| {
        entries.map(|entry| {
            row(&[&"nodes", &"without-pods", &entry, &family], move || policy_local_leads_away(entry, family))
        })
    });
    let translated = Family::ALL.into_iter().flat_map(|family| {
        ["policy-cluster", "policy-local"].map(|name| {
            row(&[&"nodes", &"translated-elsewhere", &name, &family], move || {
                an_address_that_no_device_has(name, family);
            })
        })
    });
    unknown.chain(translated)
}

/// The servers that answer this client's requests.
fn answers(cluster: &Cluster, client: &str, service: &Service, entry: Entry, family: Family) -> Vec<String> {
    let target = service.target(entry, find(client), family);
    let ask = || cluster.ask(client, Protocol::Tcp, target);
    (0..4).map(|_| ask().unwrap_or_else(|error| panic!("{client} to {target}: {error}")).0).collect()
}

/// A pod that is not recognized as one reaches the endpoints of this node or, if there are none, those of others.
fn policy_local_leads_away(entry: Entry, family: Family) {
    let local = |name, number| Service { external: Policy::Local, ..Service::exposed(name, number, &[]) };
    for client in ["pod-1b", "node-1"] {
        let away = answers(&WITHOUT_PODS, client, &local("away", 10), entry, family);
        assert!(away.iter().all(|server| server == "pod-2a"), "{client}: {away:?}");
    }
    let here = answers(&WITHOUT_PODS, "pod-1b", &local("here", 11), entry, family);
    assert!(here.iter().all(|server| server == "pod-1a"), "{here:?}");
}

/// Otherwise packets from the node and its pods to its own address would leave the node.
fn an_address_that_no_device_has(name: &str, family: Family) {
    let number = if name == "policy-local" { 11 } else { 10 };
    let service = Service::exposed(name, number, &[]);
    for client in ["pod-1b", "node-1"] {
        let found = answers(&TRANSLATED, client, &service, Entry::ExternalIp, family);
        assert!(found.iter().all(|server| server == "pod-2a"), "{client}: {found:?}");
    }
    let address = service.target(Entry::ExternalIp, find("node-1"), family).ip();
    let addresses = TRANSLATED.host("node-1").shell("ip -o address show dev kube-ipvs0");
    assert!(!addresses.contains(&format!(" {address}/")), "it is not ours to have");
}
