//! Services → elements of the sets in our nftables tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cluster::types::{Family, Service};
use crate::cluster::{Cluster, endpoints};
use crate::state::Element;

/// The elements that a Service asks for: its addresses, and its endpoints on this node in whatever condition (a
/// connection to itself outlives its readiness). Endpoints of other nodes need none, so that their changes do not
/// reach nftables.
pub(super) fn of(
    cluster: &Cluster,
    service: &Service,
    addresses: &[IpAddr],
    node_name: &str,
) -> BTreeSet<Element> {
    let mut elements = BTreeSet::new();
    for &address in addresses {
        elements.insert(Element::ServiceAddress(address));
        elements.extend(
            endpoints::local(cluster, service, node_name, Family::of(address))
                .map(|endpoint| Element::Hairpin(endpoint.address)),
        );
    }
    elements
}
