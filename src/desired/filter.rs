//! Services → elements of the sets in our nftables tables.

use std::net::IpAddr;

use ipnet::IpNet;

use super::entry_points::{EntryPoint, Role};
use super::node::NodeFacts;
use crate::cluster::topology::Endpoints;
use crate::cluster::types::{External, Family, Policy, Protocol, Service};
use crate::cluster::{Cluster, endpoints};
use crate::state::{Element, VirtualServerKey};

/// The elements about an entry point, in order. `inside` is where clients inside the cluster are sent from this entry
/// point, if they are sent anywhere; `leads` says which of the chosen endpoints it leads to.
pub(super) fn of_entry_point(
    service: &Service,
    inside: VirtualServerKey,
    point: EntryPoint,
    leads: Policy,
    chosen: &Endpoints,
    node: &NodeFacts,
) -> Vec<Element> {
    let server = point.server;
    let holder = node.holder(&server.address, point.role.is_external());
    let on_device = point.role != Role::NodePort && holder.is_none();
    let mut elements = Vec::new();
    if !on_device {
        elements.push(Element::Owned(server));
    }
    if point.role.is_external() {
        if point.policy == Policy::Cluster {
            elements.push(Element::Masquerade(server));
        }
        if point.policy == Policy::Local || node.is_away(&server.address) {
            elements.push(Element::InCluster(server, inside.address, inside.port));
        }
    }
    if point.role == Role::Inside {
        elements.push(Element::Internal(server));
    }
    match leads {
        Policy::Local if chosen.local.is_empty() && !chosen.cluster.is_empty() => {
            elements.push(Element::Dropped(server));
        }
        _ if !on_device && chosen.cluster.is_empty() => elements.push(Element::Refused(server)),
        _ => {}
    }
    if point.role == Role::Balanced {
        let ranges = service.external.as_deref().map_or(&[][..], |external| &external.source_ranges);
        let is_alike = |range: &&IpNet| Family::of_network(range) == Family::of(server.address);
        let ranges: Vec<IpNet> = ranges.iter().filter(is_alike).copied().collect();
        if !ranges.is_empty() {
            elements.push(Element::Restricted(server));
            let allowed = allowed(ranges, server.address, node);
            elements.extend(allowed.into_iter().map(|network| Element::Allowed(server, network)));
        }
    }
    elements.sort_unstable();
    elements
}

/// The sources that may use a load balancer's address: the ranges. This node has no access merely because it is this
/// node.
///
/// Its connections often have the address itself as their source, since the address is one of the node's. This source
/// is allowed if the node is inside the ranges (contract 6.5), and otherwise not, whatever range the address is in.
/// Nobody else can have this source.
fn allowed(mut ranges: Vec<IpNet>, address: IpAddr, node: &NodeFacts) -> Vec<IpNet> {
    let is_inside = |own: &IpAddr| !own.is_loopback() && ranges.iter().any(|range| range.contains(own));
    let node_is_inside = match node.ips {
        // The address that the node is known by (contract 3.5) decides, whatever other addresses the node has.
        Some(ips) => is_inside(&ips.of(Family::of(address))),
        None => node.node_port_addresses.iter().any(is_inside),
    };
    // The ranges are made disjoint: of nested ones, the kernel keeps only one.
    if node_is_inside {
        ranges.push(IpNet::from(address));
        IpNet::aggregate(&ranges)
    } else {
        IpNet::aggregate(&ranges).into_iter().flat_map(|range| without(range, address)).collect()
    }
}

/// What is left of a network without one address: at each level of halving, the half that does not contain the address.
fn without(network: IpNet, address: IpAddr) -> Vec<IpNet> {
    if !network.contains(&address) {
        return vec![network];
    }
    // A network of one address has no halves.
    let halves = network.subnets(network.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, address)).collect()
}

/// Where load balancers may ask for a Service's health check node port on one of its addresses. Some send their query
/// to the address that they send the traffic to: without this element, it would be refused there, as at any port that
/// the Service does not have.
pub(super) fn of_health_checks(external: &External, address: IpAddr) -> Option<Element> {
    let port = external.health_check_node_port?;
    Some(Element::HealthCheck(VirtualServerKey { address, protocol: Protocol::Tcp, port }))
}

/// The endpoints of one family that may reach themselves through this node: those on this node.
///
/// Their condition does not matter, since an endpoint's connection to itself outlives its readiness. Endpoints of other
/// nodes need no element, so their changes do not reach nftables, unless pods of other nodes pass through this node
/// with their own address, which only policy `Local` of external entry points allows.
pub(super) fn hairpins<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    family: Family,
    node: &'a NodeFacts,
) -> impl Iterator<Item = Element> + 'a {
    let comes_by = |external: &External| external.policy == Policy::Local && external.is_reached(service);
    let all = service.external.as_deref().is_some_and(comes_by);
    endpoints::all(cluster, service, family)
        .filter(move |endpoint| all || endpoint.node.as_deref() == Some(&*node.name))
        .map(|endpoint| Element::Hairpin(endpoint.address))
}
