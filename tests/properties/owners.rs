//! Which of several Services owns an address, protocol and port, judged by their facts alone.

use std::collections::BTreeMap;

use kube_ipvs::cluster::Cluster;
use kube_ipvs::cluster::types::{External, Service, ServiceKey};
use kube_ipvs::desired::Desired;
use kube_ipvs::state::VirtualServerKey;

/// The right by which a Service asks for an entry point: the smallest one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    ClusterIp,
    WayInside,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

/// The first right that applies, since a Service may have an address twice.
fn right(cluster: &Cluster, service: &Service, server: &VirtualServerKey) -> Right {
    let VirtualServerKey { address, protocol, port } = server;
    let ports = || service.ports.iter().filter(|known| known.protocol == *protocol);
    let is_port = ports().any(|known| known.port == *port);
    let is_node_port = ports().any(|known| known.node_port == Some(*port));
    let nothing = External::default();
    let external = service.external.as_deref().unwrap_or(&nothing);
    if service.cluster_ips.contains(address) {
        if is_port { Right::ClusterIp } else { Right::WayInside }
    } else if is_node_port && cluster.node_addresses().iter().any(|known| known.address == *address) {
        Right::NodePort
    } else if is_port && external.load_balancer_ips.contains(address) {
        Right::LoadBalancer
    } else if is_port && external.external_ips.contains(address) {
        Right::ExternalIp
    } else {
        panic!("{} asks for {server}, which it does not have", service.key)
    }
}

/// Asserts that each owner has the best right and, among several Services with that right, is the oldest.
pub(crate) fn assert_by_right(desired: &Desired, cluster: &Cluster) {
    let mut first: BTreeMap<VirtualServerKey, (Right, i64, &ServiceKey)> = BTreeMap::new();
    for service in cluster.services() {
        for server in desired.virtual_servers_of(&service.key) {
            let claim = (right(cluster, service, &server), service.created_seconds, &service.key);
            let known = first.entry(server).or_insert(claim);
            *known = claim.min(*known);
        }
    }
    for (server, (right, _, service)) in first {
        assert_eq!(desired.owner(&server), Some(service), "{server}: {right:?}");
    }
}
