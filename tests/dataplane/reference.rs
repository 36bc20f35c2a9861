//! The promises of Services, stated independently: a model of what Kubernetes' reference (kube-proxy's iptables and
//! nftables modes) does with the first packet of a connection, without a line of the program under test.

use std::net::IpAddr;

use ipnet::IpNet;
use kube_ipvs::cluster::types::Family;

use crate::cluster::{Condition, Entry, Policy, Service};
use crate::topology::{Kind, Place, find};

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// These endpoints take turns, and each sees the client this way.
    Reaches(Vec<Reached>),
    /// The client learns at once that nobody answers.
    Refused,
    /// The client hears nothing.
    Dropped,
}

/// An endpoint that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) pod: &'static str,
    pub(crate) seen: Seen,
    /// Its answer goes astray: it sees a pod's own address, and answers that pod directly, past the node that
    /// translated the request. The reference does this to pods that send requests to another node.
    pub(crate) astray: bool,
}

/// What an endpoint sees of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// The client's own address.
    Client,
    /// An address of the node that took the packet in.
    Node,
}

impl Seen {
    /// The addresses that count as this.
    pub(crate) fn addresses(self, client: &Place, node: &'static str, family: Family) -> Vec<IpAddr> {
        match self {
            Self::Client => vec![client.address(family)],
            Self::Node => find(node).node_addresses(family),
        }
    }
}

/// The origin of a connection, as seen by the node that takes it in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A pod of the cluster: the source is in the pods' network.
    Pod,
    /// The node itself.
    Node,
    /// Anybody else, including other nodes.
    Elsewhere,
}

/// What happens to a connection from a client to an entry of a Service.
pub(crate) fn fate(service: &Service, entry: Entry, client: &Place) -> Fate {
    let node = entry.node(client);
    let origin = match client.kind {
        Kind::Pod => Origin::Pod,
        Kind::Node if client.name == node => Origin::Node,
        Kind::Node | Kind::Outside => Origin::Elsewhere,
    };
    if usable(service, |_| true).is_empty() {
        return Fate::Refused;
    }
    if entry == Entry::LoadBalancerIp && !is_allowed(service, client) {
        return Fate::Dropped;
    }
    let internal = entry == Entry::ClusterIp;
    let anywhere = if internal {
        service.internal == Policy::Cluster
    } else {
        // Clients inside the cluster need no load balancer to choose a node, whatever the internal policy.
        service.external == Policy::Cluster || origin != Origin::Elsewhere
    };
    let endpoints = usable(service, |pod| anywhere || find(pod).node == node);
    let masqueraded = if internal {
        origin != Origin::Pod
    } else {
        service.external == Policy::Cluster || origin == Origin::Node
    };
    let reached = |pod: &'static str| {
        let seen = if masqueraded || pod == client.name { Seen::Node } else { Seen::Client };
        let elsewhere = |place: &Place| place.node != node;
        let astray = seen == Seen::Client && elsewhere(client) && elsewhere(find(pod));
        Reached { pod, seen, astray }
    };
    let reached: Vec<_> = endpoints.into_iter().map(reached).collect();
    if reached.is_empty() { Fate::Dropped } else { Fate::Reaches(reached) }
}

/// The endpoints that are used in a part of the cluster: the ready ones or, if there are none, those that still serve
/// while they terminate.
fn usable(service: &Service, is_in_part: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let in_condition = |condition| {
        let is = |pod: &&'static str| is_in_part(pod) && service.condition(pod) == condition;
        service.endpoints.iter().copied().filter(is).collect::<Vec<_>>()
    };
    let ready = in_condition(Condition::Ready);
    if ready.is_empty() { in_condition(Condition::ServingTerminating) } else { ready }
}

/// Whether a client may use the load balancer's address.
fn is_allowed(service: &Service, client: &Place) -> bool {
    let is_in = |range: &&str| {
        let range: IpNet = range.parse().expect("a network");
        Family::ALL.iter().any(|family| range.contains(&client.address(*family)))
    };
    service.source_ranges.is_empty() || service.source_ranges.iter().any(is_in)
}
