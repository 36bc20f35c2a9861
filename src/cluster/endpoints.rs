//! The endpoints of a Service, whatever their condition.

use std::collections::BTreeSet;

use foldhash::HashSet;

use super::Cluster;
use super::types::{Endpoint, EndpointSlice, Family, Protocol, Service, ServiceKey};
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

/// Which endpoints the slices of a Service have, whatever their condition.
///
/// Caches which ports are in which slice, for the Service asked about last: a Service may have thousands of slices, and
/// the question comes up for each of its virtual servers.
#[derive(Debug)]
pub struct InSlices<'a> {
    cluster: &'a Cluster,
    last: Option<(ServiceKey, Vec<Ports<'a>>)>,
}

/// The ports of a slice and its endpoints.
type Ports<'a> = (HashSet<(Protocol, u16)>, &'a [Endpoint]);

impl<'a> InSlices<'a> {
    /// Starts with an empty cache.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, last: None }
    }

    /// Which of these endpoints, given in order, any slice of the Service has for this protocol. Takes them all at
    /// once, since it looks at each endpoint of the Service.
    pub fn among(
        &mut self,
        service: &ServiceKey,
        protocol: Protocol,
        servers: &[RealServerKey],
    ) -> BTreeSet<RealServerKey> {
        debug_assert!(servers.is_sorted());
        let mut found = BTreeSet::new();
        if servers.is_empty() {
            return found;
        }
        let ports: BTreeSet<u16> = servers.iter().map(|server| server.port).collect();
        for (known, endpoints) in self.slices(service) {
            for &port in ports.iter().filter(|port| known.contains(&(protocol, **port))) {
                let all = endpoints.iter().map(|endpoint| RealServerKey { address: endpoint.address, port });
                found.extend(all.filter(|server| servers.binary_search(server).is_ok()));
            }
        }
        found
    }

    fn slices(&mut self, service: &ServiceKey) -> &[Ports<'a>] {
        if self.last.as_ref().is_none_or(|(last, _)| last != service) {
            let ports = |slice: &'a EndpointSlice| {
                (slice.ports.iter().map(|port| (port.protocol, port.port)).collect(), &*slice.endpoints)
            };
            self.last = Some((service.clone(), self.cluster.slices(service).map(ports).collect()));
        }
        self.last.as_ref().map_or(&[], |(_, slices)| slices)
    }
}

/// Whether any endpoint of the Service has hints.
pub fn have_hints(cluster: &Cluster, service: &Service) -> bool {
    cluster.slices(&service.key).any(|slice| slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some()))
}
