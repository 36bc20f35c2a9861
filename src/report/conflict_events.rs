//! Which contested addresses the API server is told of, as Events of the Services that do not get them, or share them with a node:
//! whoever made the Service finds them there, without the logs of a node. An addition to kube-proxy's Events (contract 10.1).
//! One Event has all of a Service's that were found at the same time.
//!
//! All nodes see two Services claim one address, and thousands must not each write an Event. One does, without asking the others:
//! that on which the first endpoint of the Service that has it is, by address; if it has none, of the other. Where neither has
//! one on a known node, nobody does. (A new Service is mostly told of before it has any.)
//!
//! That an external IP is a node's own is told by that node. So many nodes at most write as the Service lists addresses. Not so
//! of a load balancer's addresses: to some load balancers (that of K3s) each node's own is one, of each Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::contested::Contested;
use super::{kubernetes_events, named};
use crate::api::events::{Happening, Regarding};
use crate::cluster::Cluster;
use crate::cluster::types::ServiceKey;
use crate::desired::claims::Conflict;
use crate::reconcile::note::Owner;

/// The Events that the node of this name writes of what was found by now.
pub(super) fn of(contested: &Contested, cluster: &Cluster, node_name: &str) -> Vec<Happening> {
    let mut by_loser: BTreeMap<&ServiceKey, Vec<&Conflict>> = BTreeMap::new();
    for conflict in &contested.conflicts {
        by_loser.entry(&conflict.loser).or_default().push(conflict);
    }
    // Each Service is looked through once, however many entry points it has in common with another.
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

/// The node on which the first endpoint of a Service is, by address, of those on a known node.
fn first_node<'a>(cluster: &'a Cluster, service: &ServiceKey) -> Option<&'a str> {
    let endpoints = cluster.slices(service).flat_map(|slice| &slice.endpoints);
    let placed = endpoints.filter_map(|endpoint| Some((endpoint.address, endpoint.node.as_deref()?)));
    placed.min().map(|(_, node)| node)
}

#[cfg(test)]
mod tests;
