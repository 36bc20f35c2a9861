//! The endpoints of a Service, whatever their condition.

use super::Cluster;
use super::types::{Endpoint, Family, Protocol, Service, ServiceKey};
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

/// Whether any slice of the Service has this endpoint for this protocol, in whatever condition.
pub fn contains(cluster: &Cluster, service: &ServiceKey, protocol: Protocol, server: RealServerKey) -> bool {
    cluster.slices(service).any(|slice| {
        slice.ports.iter().any(|port| port.protocol == protocol && port.port == server.port)
            && slice.endpoints.iter().any(|endpoint| endpoint.address == server.address)
    })
}

/// Whether any endpoint of the Service says for whom it is meant.
pub fn have_hints(cluster: &Cluster, service: &Service) -> bool {
    cluster.slices(&service.key).any(|slice| slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some()))
}
