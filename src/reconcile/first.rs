//! The Services that everything else needs to start: the API and DNS. A new node is of use once they work, however
//! many Services there are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cluster::types::Service;
use crate::cluster::{Cluster, Touched};

/// `default/kubernetes`, and whatever in `kube-system` has port 53 (DNS goes by several names); and the Services that have
/// an address or a node port of theirs too, by whatever number of steps: who has what is known of all of them only.
pub(super) fn services(cluster: &Cluster) -> Touched {
    let mut found = Touched::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let mut node_ports: BTreeSet<u16> = BTreeSet::new();
    loop {
        let before = found.len();
        for service in cluster.services() {
            let concerned = is_needed(service)
                || addresses_of(service).any(|address| addresses.contains(&address))
                || node_ports_of(service).any(|number| node_ports.contains(&number));
            if concerned && found.insert(service.key.clone()) {
                addresses.extend(addresses_of(service));
                node_ports.extend(node_ports_of(service));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn is_needed(service: &Service) -> bool {
    match (service.key.namespace(), service.key.name()) {
        ("default", "kubernetes") => true,
        ("kube-system", _) => service.ports.iter().any(|port| port.port == 53),
        _ => false,
    }
}

fn addresses_of(service: &Service) -> impl Iterator<Item = IpAddr> {
    let external = service.external.as_deref().into_iter();
    let external =
        external.flat_map(|external| external.load_balancer_ips.iter().chain(&external.external_ips));
    service.cluster_ips.iter().chain(external).copied()
}

fn node_ports_of(service: &Service) -> impl Iterator<Item = u16> {
    service.ports.iter().filter_map(|port| port.node_port)
}
