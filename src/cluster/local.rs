//! What a Service has on this node: for its health check port, and for metrics.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Cluster;
use super::types::{Endpoint, EndpointSlice, Family, Service, ServicePort};

/// What a Service has on one node, compared to elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// How many addresses are ready on the node, whatever their ports. A terminating endpoint is not, though it may
    /// still get traffic: load balancers must turn to other nodes by then (contract 8.4).
    pub ready_addresses: usize,
    /// Whether any of its ports has endpoints that can get traffic, but none of them is on the node.
    pub lacks_endpoints: bool,
}

/// Where endpoints can get traffic.
#[derive(Clone, Copy, Default)]
struct Usable {
    here: bool,
    anywhere: bool,
}

/// What a Service has, in one family, on the node of this name.
pub fn of(cluster: &Cluster, service: &Service, node_name: &str, family: Family) -> Local {
    let mut ready: BTreeSet<IpAddr> = BTreeSet::new();
    // Slices without ports are left out: they hold pods that lack the port that the Service names.
    let slices = cluster.slices(&service.key);
    let slices = slices.filter(|slice| slice.family == family && !slice.ports.is_empty());
    // Each endpoint is looked at once, whatever the number of ports.
    let mut usable_of: Vec<(&EndpointSlice, Usable)> = Vec::new();
    for slice in slices {
        let mut usable = Usable::default();
        for endpoint in &slice.endpoints {
            let is_here = endpoint.node.as_deref() == Some(node_name);
            let is_usable = is_usable(endpoint);
            usable.anywhere |= is_usable;
            usable.here |= is_usable && is_here;
            if endpoint.ready && is_here {
                ready.insert(endpoint.address);
            }
        }
        usable_of.push((slice, usable));
    }
    let lacks = |port: &ServicePort| {
        let of_port = || usable_of.iter().filter(|(slice, _)| slice.port(port).is_some());
        of_port().any(|(_, usable)| usable.anywhere) && !of_port().any(|(_, usable)| usable.here)
    };
    Local { ready_addresses: ready.len(), lacks_endpoints: service.ports.iter().any(lacks) }
}

/// Whether an endpoint can get traffic: because it is ready, or as a fallback if no endpoint is.
fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.serves_while_terminating()
}
