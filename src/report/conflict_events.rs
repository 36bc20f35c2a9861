//! Decides which contested addresses the API server is told of, as Events of Services that do not get an address, or
//! that share one with a node.
//!
//! Whoever made the Service finds the Event there, without the logs of a node. These Events are an addition to
//! kube-proxy's (contract 10.1). One Event has all contested addresses of a Service that were found at the same time.
//!
//! All nodes see that two Services claim one address, and thousands must not each write an Event. One node does,
//! without asking the others: the node of the first endpoint, by address, of the Service that has the address. If that
//! Service has no endpoint on a known node, the other Service's first endpoint decides; if neither has one, nobody
//! writes. (A new Service mostly becomes known before it has any endpoint.)
//!
//! That an external IP is a node's own is told by that node, so at most as many nodes write as the Service lists
//! addresses. This is not done for a load balancer's addresses: with some load balancers (that of K3s) every node's own
//! address is one of each Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::contested::Contested;
use super::{kubernetes_events, named};
use crate::api::events::{Happening, Regarding};
use crate::cluster::Cluster;
use crate::cluster::types::ServiceKey;
use crate::desired::claims::Conflict;
use crate::reconcile::note::Owner;

/// The Events that node `node_name` writes about what was found so far.
pub(super) fn of(contested: &Contested, cluster: &Cluster, node_name: &str) -> Vec<Happening> {
    let mut by_loser: BTreeMap<&ServiceKey, Vec<&Conflict>> = BTreeMap::new();
    for conflict in &contested.conflicts {
        by_loser.entry(&conflict.loser).or_default().push(conflict);
    }
    // Each Service's endpoints are searched once, however many entry points it shares with another.
    let mut first_nodes = BTreeMap::new();
    let mut first = |service| *first_nodes.entry(service).or_insert_with(|| first_node(cluster, service));
    let mut notes: BTreeMap<&ServiceKey, Vec<String>> = BTreeMap::new();
    for (loser, mut conflicts) in by_loser {
        conflicts
            .retain(|conflict| first(&conflict.winner).or_else(|| first(&conflict.loser)) == Some(node_name));
        if !conflicts.is_empty() {
            let has = |conflict: &&Conflict| format!("{} ({})", conflict.server, conflict.winner);
            let note = kubernetes_events::held_by_others(&named(conflicts.iter().map(has)));
            notes.entry(loser).or_default().push(note);
        }
    }
    let mut of_node: BTreeMap<&ServiceKey, Vec<IpAddr>> = BTreeMap::new();
    for (shared, owner) in &contested.shared {
        let external = cluster.service(&shared.service).and_then(|service| service.external.as_deref());
        let is_external = external.is_some_and(|external| external.external_ips.contains(&shared.address));
        if is_external && matches!(owner, Owner::Node | Owner::NodeObject) {
            of_node.entry(&shared.service).or_default().push(shared.address);
        }
    }
    for (service, addresses) in of_node {
        let note = kubernetes_events::of_node(&named(&addresses), addresses.len() == 1, node_name);
        notes.entry(service).or_default().push(note);
    }
    let event = |(key, notes): (&ServiceKey, Vec<String>)| {
        let uid = cluster.service(key).and_then(|service| service.uid);
        kubernetes_events::address_conflict(Regarding::Service { key: key.clone(), uid }, &notes)
    };
    notes.into_iter().map(event).collect()
}

/// The node of a Service's first endpoint, by address, among its endpoints on known nodes.
fn first_node<'a>(cluster: &'a Cluster, service: &ServiceKey) -> Option<&'a str> {
    let endpoints = cluster.slices(service).flat_map(|slice| &slice.endpoints);
    let placed = endpoints.filter_map(|endpoint| Some((endpoint.address, endpoint.node.as_deref()?)));
    placed.min().map(|(_, node)| node)
}

#[cfg(test)]
mod tests;
