//! Services → elements of the sets in our nftables tables.

use std::net::IpAddr;

use ipnet::IpNet;

use super::entry_points::{EntryPoint, Role, inside};
use super::node::NodeFacts;
use crate::cluster::topology::Endpoints;
use crate::cluster::types::{External, Family, Policy, Protocol, Service, ServicePort};
use crate::cluster::{Cluster, endpoints};
use crate::state::{Element, VirtualServerKey};

/// The elements about an entry point, in order. `cluster_ip` is the Service's in the entry point's family.
pub(super) fn of_entry_point(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    point: EntryPoint,
    chosen: &Endpoints,
    node: &NodeFacts,
) -> Vec<Element> {
    let server = point.server;
    let on_device = point.role != Role::NodePort && !node.taken.contains(&server.address);
    let mut elements = Vec::new();
    if !on_device {
        elements.push(Element::Owned(server));
    }
    match (point.role.is_external(), point.policy) {
        (true, Policy::Cluster) => elements.push(Element::Masquerade(server)),
        (true, Policy::Local) => {
            let to = inside(service, port, cluster_ip);
            elements.push(Element::InCluster(server, to.address, to.port));
        }
        (false, _) => {}
    }
    if point.role == Role::Inside {
        elements.push(Element::Internal(server));
    }
    match point.policy {
        Policy::Local if chosen.local.is_empty() && !chosen.cluster.is_empty() => {
            elements.push(Element::Dropped(server));
        }
        _ if !on_device && chosen.cluster.is_empty() => elements.push(Element::Refused(server)),
        _ => {}
    }
    if point.role == Role::Balanced {
        let allowed = allowed(service, server.address, node);
        if !allowed.is_empty() {
            elements.push(Element::Restricted(server));
            elements.extend(allowed.into_iter().map(|network| Element::Allowed(server, network)));
        }
    }
    elements.sort_unstable();
    elements
}

/// Who may use a load balancer's address; nothing: everybody. A node inside of the ranges often has the address itself
/// as its source, since it is one of the node's (contract 6.5).
fn allowed(service: &Service, address: IpAddr, node: &NodeFacts) -> Vec<IpNet> {
    let ranges = service.external.as_deref().map_or(&[][..], |external| &external.source_ranges);
    let mut allowed: Vec<IpNet> =
        ranges.iter().filter(|range| Family::of(range.addr()) == Family::of(address)).copied().collect();
    let is_inside = |own: &IpAddr| !own.is_loopback() && allowed.iter().any(|range| range.contains(own));
    let node_is_inside = match node.ips {
        // The one that it is known by (contract 3.5), whatever other addresses it has.
        Some(ips) => is_inside(&ips.of(Family::of(address))),
        None => node.node_port_addresses.iter().any(is_inside),
    };
    if node_is_inside {
        allowed.push(IpNet::from(address));
    }
    // Disjoint: of ranges that lie in each other the kernel keeps one.
    IpNet::aggregate(&allowed)
}

/// The elements about a Service's address.
pub(super) fn of_address(
    element: Element,
    address: IpAddr,
    node: &NodeFacts,
) -> impl Iterator<Item = Element> {
    let shared = node.taken.contains(&address).then_some(Element::SharedAddress(address));
    std::iter::once(element).chain(shared)
}

/// Where load balancers ask for a Service's health check node port on its address: some send their question where they send
/// the traffic, and would find a port that the Service does not have.
pub(super) fn of_health_checks(external: &External, address: IpAddr) -> Option<Element> {
    let port = external.health_check_node_port?;
    Some(Element::HealthCheck(VirtualServerKey { address, protocol: Protocol::Tcp, port }))
}

/// The endpoints of one family that may reach themselves through this node, in whatever condition (a connection to
/// itself outlives its readiness): those on this node. Endpoints of other nodes need none, so that their changes do not
/// reach nftables; but where pods of other nodes come by with their own address, which only policy `Local` of entry
/// points from outside allows.
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
