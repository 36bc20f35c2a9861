//! What a Service has on this node: for its health check port, and for numbers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Cluster;
use super::types::{Endpoint, Family, Service};

/// What a Service has on one node, and elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// How many addresses are ready on the node, whatever their ports. One that is ending is not, though it may still
    /// get traffic: load balancers must turn to other nodes by then (contract 8.4).
    pub ready_addresses: usize,
    /// Whether an endpoint on the node can get traffic.
    pub usable_here: bool,
    /// Whether an endpoint anywhere can.
    pub usable_anywhere: bool,
}

/// What a Service has on the node of this name, of one family.
pub fn of(cluster: &Cluster, service: &Service, node_name: &str, family: Family) -> Local {
    let mut ready: BTreeSet<IpAddr> = BTreeSet::new();
    let mut local = Local::default();
    // Endpoints without any port are in slices of their own: pods that lack the port that the Service means.
    let slices = cluster.slices(&service.key);
    let slices = slices.filter(|slice| slice.family == family && !slice.ports.is_empty());
    for endpoint in slices.flat_map(|slice| &slice.endpoints) {
        let is_here = endpoint.node.as_deref() == Some(node_name);
        let is_usable = is_usable(endpoint);
        local.usable_anywhere |= is_usable;
        local.usable_here |= is_usable && is_here;
        if endpoint.ready && is_here {
            ready.insert(endpoint.address);
        }
    }
    local.ready_addresses = ready.len();
    local
}

/// Whether it gets traffic: because it is ready, or for want of one that is.
fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.serving && endpoint.terminating
}
