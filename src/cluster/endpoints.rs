//! The endpoints of a Service, whatever their condition.

use std::collections::BTreeSet;

use super::Cluster;
use super::types::{Endpoint, Family, Protocol, Service, ServiceKey, SlicePort};
use crate::state::RealServerKey;

/// The endpoints of a Service, of any port and in any condition, of one family.
pub fn all<'a>(
    cluster: &'a Cluster,
    service: &Service,
    family: Family,
) -> impl Iterator<Item = &'a Endpoint> {
    cluster
        .slices(&service.key)
        .filter(move |slice| slice.family == family)
        .flat_map(|slice| &slice.endpoints)
}

/// Which of these endpoints, given in order, any slice of the Service has for this protocol, in whatever condition. All at
/// once, since it looks at each endpoint of the Service.
pub fn among(
    cluster: &Cluster,
    service: &ServiceKey,
    protocol: Protocol,
    servers: &[RealServerKey],
) -> BTreeSet<RealServerKey> {
    debug_assert!(servers.is_sorted());
    let mut found = BTreeSet::new();
    if servers.is_empty() {
        return found;
    }
    // Of one virtual server, nearly always one: a Service may have thousands, and this is asked for each of them.
    let ports: BTreeSet<u16> = servers.iter().map(|server| server.port).collect();
    for slice in cluster.slices(service) {
        let asked = |port: &&SlicePort| port.protocol == protocol && ports.contains(&port.port);
        for port in slice.ports.iter().filter(asked) {
            let all = slice.endpoints.iter();
            let all = all.map(|endpoint| RealServerKey { address: endpoint.address, port: port.port });
            found.extend(all.filter(|server| servers.binary_search(server).is_ok()));
        }
    }
    found
}

/// Whether any endpoint of the Service says for whom it is meant.
pub fn have_hints(cluster: &Cluster, service: &Service) -> bool {
    cluster.slices(&service.key).any(|slice| slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some()))
}
