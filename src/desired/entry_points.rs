//! Services → entry points: each address and port where a Service is reached, and what has to be done there
//! (contract 4.4 and 5.2).
//!
//! A virtual server has one set of endpoints for all clients, but policy `Local` needs two: traffic from outside goes
//! to this node's endpoints only, while clients inside the cluster reach all endpoints. Clients inside are therefore
//! sent to another virtual server: that of the cluster IP or, if the internal policy is `Local` too, one made for this
//! purpose on a port of the cluster IP that the Service does not use.

use std::net::IpAddr;

use crate::cluster::types::{External, Policy, Service, ServicePort};
use crate::state::VirtualServerKey;

/// Where a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryPoint {
    pub(super) server: VirtualServerKey,
    pub(super) role: Role,
    /// Which endpoints it leads to.
    pub(super) policy: Policy,
}

/// What kind of entry point it is, in the order of precedence of claims ([`claims`](super::claims)).
///
/// The API server allocates cluster IPs and node ports, and a controller writes a load balancer's addresses, but anyone
/// who may write Services may put any address among the external IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A cluster IP.
    Cluster,
    /// Where clients inside the cluster are sent from external entry points, if not to the cluster IP's own ports.
    Inside,
    /// A node port on an address of the node.
    NodePort,
    /// A load balancer's address, to which the Service's source ranges apply.
    Balanced,
    /// An external IP.
    External,
}

impl Role {
    /// Whether clients outside the cluster use it.
    pub(super) fn is_external(self) -> bool {
        matches!(self, Self::External | Self::Balanced | Self::NodePort)
    }
}

/// The entry points of one port of a Service, in the family of this cluster IP. `inside` is the port's way inside
/// ([`ways_inside`](super::ways_inside)). If an address has two roles, the first one counts.
pub(super) fn of<'a>(
    service: &'a Service,
    port: &'a ServicePort,
    cluster_ip: IpAddr,
    inside: VirtualServerKey,
    node_port_addresses: impl Iterator<Item = IpAddr> + 'a,
) -> impl Iterator<Item = EntryPoint> + 'a {
    let server =
        |address, port_number| VirtualServerKey { address, protocol: port.protocol, port: port_number };
    let cluster = EntryPoint {
        server: server(cluster_ip, port.port),
        role: Role::Cluster,
        policy: service.internal_policy,
    };
    let external = service.external.as_deref();
    let policy = external.map_or(Policy::Cluster, |external| external.policy);
    let point = move |address, number, role| EntryPoint { server: server(address, number), role, policy };
    let same_family = move |address: &IpAddr| address.is_ipv4() == cluster_ip.is_ipv4();
    let addresses = move |list: fn(&External) -> &[IpAddr]| {
        external.map_or(&[][..], list).iter().copied().filter(same_family)
    };
    let balanced =
        addresses(|external| &external.load_balancer_ips).map(move |a| point(a, port.port, Role::Balanced));
    let others =
        addresses(|external| &external.external_ips).map(move |a| point(a, port.port, Role::External));
    let node_ports = node_port_addresses
        .filter(same_family)
        .filter_map(move |address| Some(point(address, port.node_port?, Role::NodePort)));
    let inside = (inside != cluster.server).then_some(EntryPoint {
        server: inside,
        role: Role::Inside,
        policy: Policy::Cluster,
    });
    std::iter::once(cluster).chain(balanced).chain(others).chain(node_ports).chain(inside)
}
