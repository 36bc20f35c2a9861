//! What changes of the own Node mean.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{Change, Event};
use crate::cluster::node_ips::NodeIps;
use crate::cluster::types::Node;

/// What is known of the own Node.
pub(super) struct OwnNode {
    name: Arc<str>,
    needs_pod_cidrs: bool,
    /// The Node as last seen.
    node: Option<Node>,
    /// Whether the start is over: before, no change means anything.
    started: bool,
    /// What the Node has lost, as last logged: kubelet writes the object every few minutes.
    said: Option<&'static str>,
}

/// What to do about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// The Node has its first addresses, for which the start had stopped waiting.
    HasAddresses,
    /// The Node has lost something that it had; the previous value stays in use. Returned only when the loss is new.
    Unusable(&'static str),
    /// The program has to be started anew.
    StartAnew(&'static str),
}

const NO_ADDRESS: &str = "no InternalIP or ExternalIP in status.addresses is an IP address";
const OTHER_POD_CIDRS: &str = "PodCIDRs changed for the node";
const NO_POD_CIDRS: &str = "no network in spec.podCIDRs, which --detect-local-mode=NodeCIDR needs";

impl OwnNode {
    pub(super) fn new(name: &str, needs_pod_cidrs: bool) -> Self {
        Self { name: name.into(), needs_pod_cidrs, node: None, started: false, said: None }
    }

    /// The start is over: from now on changes mean something.
    pub(super) fn go_on(&mut self) {
        self.started = true;
    }

    pub(super) fn exists(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.node.as_ref().map_or(&[], |node| &node.addresses)
    }

    pub(super) fn pod_cidrs(&self) -> &[IpNet] {
        self.node.as_ref().map_or(&[], |node| &node.pod_cidrs)
    }

    /// Why the needed pod networks of the node are unknown; `None`: they are known or not needed.
    pub(super) fn lacks_pod_cidrs(&self) -> Option<&'static str> {
        match &self.node {
            _ if !self.needs_pod_cidrs => None,
            None => Some("it does not exist"),
            Some(node) if node.pod_cidrs.is_empty() => Some(NO_POD_CIDRS),
            Some(_) => None,
        }
    }

    /// Takes in an event; returns what is to be passed on, and what it means. Until the start is over, no event means
    /// anything.
    pub(super) fn hear(&mut self, event: Event) -> (Option<Event>, Verdict) {
        let change = match event {
            Event::Node(change) => change,
            other => return (Some(other), Verdict::GoOn),
        };
        let (mut node, replace) = match change {
            Change::Upsert(node) if node.name == self.name => (Some(node), false),
            Change::Upsert(_) => return (None, Verdict::GoOn),
            Change::Delete(name) if name != self.name => return (None, Verdict::GoOn),
            Change::Delete(_) => (None, false),
            Change::Replace(nodes) => (nodes.into_iter().find(|node| node.name == self.name), true),
        };
        let verdict = if self.started { self.compare(node.as_mut()) } else { Verdict::GoOn };
        self.node.clone_from(&node);
        let change = match (node, replace) {
            (node, true) => Change::Replace(node.into_iter().collect()),
            (Some(node), false) => Change::Upsert(node),
            (None, false) => Change::Delete(self.name.clone()),
        };
        (Some(Event::Node(change)), verdict)
    }

    /// What a change of the Node means. Where the new Node lacks something, it gets the old value.
    fn compare(&mut self, new: Option<&mut Node>) -> Verdict {
        let Some(old) = &self.node else {
            let has_addresses = new.is_some_and(|new| !new.addresses.is_empty());
            return if has_addresses { Verdict::HasAddresses } else { Verdict::GoOn };
        };
        let Some(new) = new else { return Verdict::StartAnew("Node is being deleted") };
        let has_other_networks = self.needs_pod_cidrs && new.pod_cidrs != old.pod_cidrs;
        if new.addresses.is_empty() && !old.addresses.is_empty() {
            new.addresses.clone_from(&old.addresses);
            // A Node that was registered anew has neither for a while. A different network is a change all the same.
            if new.pod_cidrs.is_empty() {
                new.pod_cidrs.clone_from(&old.pod_cidrs);
            } else if has_other_networks {
                return Verdict::StartAnew(OTHER_POD_CIDRS);
            }
            let is_new = self.said.replace(NO_ADDRESS) != Some(NO_ADDRESS);
            return if is_new { Verdict::Unusable(NO_ADDRESS) } else { Verdict::GoOn };
        }
        self.said = None;
        // What counts is the first address, and the first one of the other family.
        let (has, had) = (NodeIps::new(&new.addresses, None), NodeIps::new(&old.addresses, None));
        if had.is_some() && has != had {
            return Verdict::StartAnew("NodeIPs changed for the node");
        }
        if has_other_networks {
            return Verdict::StartAnew(OTHER_POD_CIDRS);
        }
        if has == had { Verdict::GoOn } else { Verdict::HasAddresses }
    }
}
