//! The node's own Node object, where the API server is the source. The start waits for the Node and its addresses, for
//! a limited time (contract 3.3, except for that time, which is the one of kube-proxy 1.34 to 1.37). Some changes of
//! the Node end the program, so that it is started anew with the new facts (3.4).
//!
//! With an external cloud provider, a start that insisted on addresses would wait for itself: kubelet leaves the
//! addresses to the cloud's controller, which may reach the API server only by its service address.
//!
//! All events of the source pass through here. Files need no Node: a Node in them is followed like every other object.

mod families;
mod held_back;
mod host_network;
mod rules;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::source::TOGETHER;
use crate::api::Event;
use crate::cluster::node_ips::NodeIps;
use crate::cluster::types::Family;
use crate::options::ProxyOptions;
use crate::options::proxy::LocalDetector;
use crate::vlog;
use families::Listening;
use held_back::HeldBack;
use rules::{OwnNode, Verdict};

/// How long the start waits for the Node and its addresses, once an API server tells of Nodes.
const FOR_ADDRESSES: Duration = Duration::from_secs(30);
/// How long it waits after that for the pod networks of the node, where it needs them.
const FOR_POD_CIDRS: Duration = Duration::from_mins(5);

/// The state after the wait for the Node, with the events of the source that are still to be passed on.
pub(super) struct Gate {
    own: OwnNode,
    held_back: HeldBack,
    told: mpsc::Receiver<Event>,
}

/// The result of the wait.
pub(super) enum Waited {
    /// The Node is complete, or was waited for long enough.
    GoOn(Box<Gate>),
    /// The program or the source ends; the source's task says why.
    Ended,
}

/// Waits up to 30 seconds for the own Node to exist and to have an address; logs when the start goes on without. Where
/// the pod networks of the Node decide what is local traffic, waits up to five minutes more for them.
///
/// The wait has no limit until the first event about Nodes, which is their complete list: where no API server answers,
/// a new start would find none either, and nobody knows whether the Node exists.
///
/// # Errors
/// The pod networks are needed and did not come in time; the error says what is missing.
pub(super) async fn wait(
    node_name: &str,
    options: &ProxyOptions,
    mut told: mpsc::Receiver<Event>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Waited> {
    let needs_pod_cidrs = options.local_detector == LocalDetector::NodeCidr;
    let mut own = OwnNode::new(node_name, needs_pod_cidrs);
    let mut held_back = HeldBack::default();
    let mut wait = Wait::ForNodes;
    vlog!(0, node = node_name, "Waiting for the Node object");
    loop {
        wait = wait.next(&own);
        let deadline = match wait {
            Wait::ForNodes => None,
            Wait::ForAddresses(until) | Wait::ForPodCidrs(until) => Some(until),
            Wait::Over => break,
        };
        // All arms are cancel-safe.
        tokio::select! {
            event = told.recv() => match event {
                // Until the wait is over, no change of the Node ends the program.
                Some(event) => {
                    if wait == Wait::ForNodes && matches!(event, Event::Node(_)) {
                        wait = Wait::ForAddresses(Instant::now() + FOR_ADDRESSES);
                    }
                    if let Some(event) = own.hear(event).0 {
                        held_back.put(event);
                    }
                }
                None => return Ok(Waited::Ended),
            },
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                wait = match wait {
                    Wait::ForAddresses(_) => Wait::after_addresses(&own),
                    _ => bail!("timed out waiting for node {node_name:?}: {}", own.lacks_pod_cidrs().unwrap_or_default()),
                };
            }
            () = shutdown.cancelled() => return Ok(Waited::Ended),
        }
    }
    if !own.exists() {
        tracing::error!(node = node_name, "Timed out waiting for node to exist");
    } else if own.addresses().is_empty() {
        tracing::error!(node = node_name, "Timed out waiting for node to be assigned IPs");
    }
    own.go_on();
    Ok(Waited::GoOn(Box::new(Gate { own, held_back, told })))
}

/// What the start waits for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The first event about Nodes.
    ForNodes,
    /// The Node and its addresses, until this moment.
    ForAddresses(Instant),
    /// The Node's pod networks, until this moment.
    ForPodCidrs(Instant),
    Over,
}

impl Wait {
    /// What to wait for by what is known now.
    fn next(self, own: &OwnNode) -> Self {
        match self {
            Self::ForAddresses(_) if !own.addresses().is_empty() => Self::after_addresses(own),
            Self::ForPodCidrs(_) if own.lacks_pod_cidrs().is_none() => Self::Over,
            other => other,
        }
    }

    /// What to wait for when there are addresses, or were waited for long enough.
    fn after_addresses(own: &OwnNode) -> Self {
        match own.lacks_pod_cidrs() {
            Some(_) => Self::ForPodCidrs(Instant::now() + FOR_POD_CIDRS),
            None => Self::Over,
        }
    }
}

impl Gate {
    /// Logs the addresses of the node and what in the configuration does not fit them, as far as they are known, and
    /// looks for them on the devices.
    ///
    /// # Errors
    /// The kernel lacks the primary family, or nothing could be forwarded.
    pub(super) fn check(
        &self,
        supported: &BTreeSet<Family>,
        options: &ProxyOptions,
        listening: &Listening,
    ) -> anyhow::Result<()> {
        match NodeIps::new(self.own.addresses(), options.bind_address) {
            Some(ips) => families::check(&ips, supported, self.own.pod_cidrs(), options, listening)?,
            // What does not fit the primary family is found when that is known. (kube-proxy assumes IPv4 until then,
            // and ends where the pods of a node have IPv6 networks only.)
            None => {
                tracing::info!("The node has loopback addresses only; name its address with --bind-address");
            }
        }
        if !self.own.addresses().is_empty() {
            tokio::spawn(host_network::look_for(self.own.addresses().to_vec()));
        }
        Ok(())
    }

    /// Passes on the events of the source, until the source ends or nobody listens.
    ///
    /// # Errors
    /// The Node changed in a way that needs a new start, or its first addresses came and [`Gate::check`] fails with
    /// them.
    pub(super) async fn pass_on(
        mut self,
        supported: BTreeSet<Family>,
        options: ProxyOptions,
        listening: Listening,
        listener: mpsc::Sender<Vec<Event>>,
    ) -> anyhow::Result<()> {
        let mut together: Vec<Event> = self.held_back.take();
        loop {
            if !together.is_empty() && listener.send(std::mem::take(&mut together)).await.is_err() {
                return Ok(());
            }
            let mut told = Vec::new();
            if self.told.recv_many(&mut told, TOGETHER).await == 0 {
                return Ok(());
            }
            for event in told {
                let (event, verdict) = self.own.hear(event);
                match verdict {
                    Verdict::GoOn => {}
                    Verdict::Unusable(problem) => {
                        tracing::error!(
                            err = problem,
                            "The Node object cannot be used; keeping its previous version"
                        );
                    }
                    // A new start would have the same result, and nothing that was written depended on other addresses.
                    Verdict::HasAddresses => self.check(&supported, &options, &listening)?,
                    Verdict::StartAnew(why) => bail!(why),
                }
                together.extend(event);
            }
        }
    }
}

#[cfg(test)]
mod tests;
