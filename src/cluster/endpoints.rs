//! The slices of one Service → the endpoints of one of its ports, merged, and those that get traffic.

use std::collections::BTreeMap;

use super::Cluster;
use super::types::{Endpoint, Family, Service, ServicePort};
use crate::state::RealServerKey;

/// What the conditions of an endpoint mean for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conditions {
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// The endpoints of a Service port that new connections go to: those that are ready or, where none is, those that
/// still serve while they terminate (contract 5.2, KEP-1669). Slices name ports as the Service does; entries for the
/// same address and port are one endpoint.
pub fn usable(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<RealServerKey> {
    let merged = merge(cluster, service, port, family);
    let chosen = |wanted: fn(&Conditions) -> bool| -> Vec<RealServerKey> {
        merged.iter().filter(|(_, conditions)| wanted(conditions)).map(|(key, _)| *key).collect()
    };
    let ready = chosen(|conditions| conditions.ready);
    if ready.is_empty() { chosen(|conditions| conditions.serving && conditions.terminating) } else { ready }
}

/// The endpoints of a Service, of any port and in any condition, that run on this node, of one family.
pub fn local<'a>(
    cluster: &'a Cluster,
    service: &Service,
    node_name: &'a str,
    family: Family,
) -> impl Iterator<Item = &'a Endpoint> {
    cluster
        .slices(&service.key)
        .filter(move |slice| slice.family == family)
        .flat_map(|slice| &slice.endpoints)
        .filter(move |endpoint| endpoint.node.as_deref() == Some(node_name))
}

/// One entry per address and port. Of several, one that is not terminating wins, whichever slice it stands in: a pod
/// that moves from one slice to another is in both for a while (contract 5.1).
fn merge(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<RealServerKey, Conditions> {
    let mut merged = BTreeMap::new();
    for slice in cluster.slices(&service.key).filter(|slice| slice.family == family) {
        let Some(slice_port) =
            slice.ports.iter().find(|known| known.name == port.name && known.protocol == port.protocol)
        else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let key = RealServerKey { address: endpoint.address, port: slice_port.port };
            let conditions = Conditions {
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
            };
            merged
                .entry(key)
                .and_modify(|known| {
                    if !conditions.terminating {
                        *known = conditions;
                    }
                })
                .or_insert(conditions);
        }
    }
    merged
}
