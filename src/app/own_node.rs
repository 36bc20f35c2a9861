//! The own Node object, where the API server is the source: the start waits for it and its addresses, but not for ever
//! (contract 3.3, but for the time, which is that of kube-proxy 1.34 to 1.37), and some of its changes end the program, to
//! be started anew with what it says now (3.4).
//!
//! A start that did not go on without addresses would wait for itself where an external cloud provider is used: kubelet
//! leaves the addresses to the cloud's controller, which may reach the API server by its service address only.
//!
//! Everything that the source tells passes through here. Files need no Node: where one is given, it is followed like
//! every other object.

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

/// For how long the start waits for the Node and its addresses, once there is an API server that tells of Nodes.
const FOR_ADDRESSES: Duration = Duration::from_secs(30);
/// For how long it waits after that for the networks of the node's pods, where it needs them.
const FOR_POD_CIDRS: Duration = Duration::from_mins(5);

/// The Node was waited for; what the source tells waits to be passed on.
pub(super) struct Gate {
    own: OwnNode,
    held_back: HeldBack,
    told: mpsc::Receiver<Event>,
}

/// What the wait came to.
pub(super) enum Waited {
    /// The Node is there with all that is needed, or was waited for long enough.
    GoOn(Box<Gate>),
    /// The program ends, or the source did; its task says why.
    Ended,
}

/// Waits until the own Node is there and has an address, for 30 seconds; a line of the log says so where it goes on
/// without. Where local traffic is detected by them, it waits five minutes more for networks of pods.
///
/// Without limit until something is told of Nodes, which begins with all that there are: where no API server answers, a
/// new start would find none either, and nobody knows whether the Node exists.
///
/// # Errors
/// There are no networks of pods by then, and they are needed, with what is missing.
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
                // Until the wait is over, no change of it ends the program.
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

/// What the start waits for, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Something about Nodes.
    ForNodes,
    /// The Node and its addresses, until then.
    ForAddresses(Instant),
    /// The networks of its pods, until then.
    ForPodCidrs(Instant),
    Over,
}

impl Wait {
    /// What it waits for by what is known now.
    fn next(self, own: &OwnNode) -> Self {
        match self {
            Self::ForAddresses(_) if !own.addresses().is_empty() => Self::after_addresses(own),
            Self::ForPodCidrs(_) if own.lacks_pod_cidrs().is_none() => Self::Over,
            other => other,
        }
    }

    /// What comes when there are addresses, or were waited for long enough.
    fn after_addresses(own: &OwnNode) -> Self {
        match own.lacks_pod_cidrs() {
            Some(_) => Self::ForPodCidrs(Instant::now() + FOR_POD_CIDRS),
            None => Self::Over,
        }
    }
}

impl Gate {
    /// Logs the addresses of the node and what of the configuration does not fit them, as far as they are known, and
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
            // What does not fit the primary family is found when it is known. (kube-proxy takes it for IPv4 until then, and
            // ends where the pods of a node have networks of IPv6 only.)
            None => {
                tracing::info!("The node has loopback addresses only; name its address with --bind-address");
            }
        }
        if !self.own.addresses().is_empty() {
            tokio::spawn(host_network::look_for(self.own.addresses().to_vec()));
        }
        Ok(())
    }

    /// Passes on what the source tells, until it ends or nobody listens.
    ///
    /// # Errors
    /// The Node changed in a way that needs a new start, or its first addresses came and [`Gate::check`] fails with them.
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
                    // A new start would come to the same, and nothing that was written depended on others.
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
