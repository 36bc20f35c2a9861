//! The own Node object, where the API server is the source: the start waits for it (contract 3.3), and some of its
//! changes end the program, to be started anew with what it says now (3.4).
//!
//! Everything that the source tells passes through here. Files need no Node: where one is given, it is followed like
//! every other object.

pub(super) mod families;
mod held_back;
pub(super) mod here;
mod rules;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TOGETHER;
use crate::api::Event;
use crate::cluster::node_ips::NodeIps;
use crate::options::ProxyOptions;
use crate::options::proxy::LocalDetector;
use crate::vlog;
use held_back::HeldBack;
use rules::{OwnNode, Verdict};

/// For how long the start waits for the Node, once there is an API server that tells of Nodes.
const PATIENCE: Duration = Duration::from_mins(5);

/// The Node was heard of; what the source tells waits to be passed on.
pub(super) struct Gate {
    own: OwnNode,
    held_back: HeldBack,
    told: mpsc::Receiver<Event>,
}

/// What the wait came to.
pub(super) enum Waited {
    /// The Node is there.
    Known(Box<Gate>),
    /// The program ends, or the source did; its task says why.
    Ended,
}

/// Waits until the own Node is there, has an address and, where local traffic is detected by them, networks of pods.
///
/// Without limit until something is told of Nodes, which begins with all that there are: where no API server answers, a
/// new start would find none either, and nobody knows whether the Node exists.
///
/// # Errors
/// It is not so five minutes after that, with what is missing.
pub(super) async fn wait(
    node_name: &str,
    options: &ProxyOptions,
    mut told: mpsc::Receiver<Event>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Waited> {
    let needs_pod_cidrs = options.local_detector == LocalDetector::NodeCidr;
    let mut own = OwnNode::new(node_name, needs_pod_cidrs);
    let mut held_back = HeldBack::default();
    let mut deadline: Option<Instant> = None;
    vlog!(0, node = node_name, "Waiting for the Node object");
    while own.missing().is_some() {
        // All arms are cancel-safe.
        tokio::select! {
            event = told.recv() => match event {
                // Until it is complete, no change of it ends the program.
                Some(event) => {
                    if matches!(event, Event::Node(_)) {
                        deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                    }
                    if let Some(event) = own.hear(event).0 {
                        held_back.put(event);
                    }
                }
                None => return Ok(Waited::Ended),
            },
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                bail!("timed out waiting for node {node_name:?}: {}", own.missing().unwrap_or_default());
            }
            () = shutdown.cancelled() => return Ok(Waited::Ended),
        }
    }
    Ok(Waited::Known(Box::new(Gate { own, held_back, told })))
}

impl Gate {
    /// The addresses of the node.
    pub(super) fn ips(&self, options: &ProxyOptions) -> Option<NodeIps> {
        NodeIps::new(self.own.addresses(), options.bind_address)
    }

    /// All addresses that the Node object has.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.own.addresses()
    }

    /// The networks of the node's pods.
    pub(super) fn pod_cidrs(&self) -> &[ipnet::IpNet] {
        self.own.pod_cidrs()
    }

    /// Passes on what the source tells, until it ends or nobody listens.
    ///
    /// # Errors
    /// The Node changed in a way that needs a new start.
    pub(super) async fn pass_on(mut self, listener: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
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
                            "The Node object is of no use; going on with what it said before"
                        );
                    }
                    Verdict::StartAnew(why) => bail!(why),
                }
                together.extend(event);
            }
        }
    }
}

#[cfg(test)]
mod tests;
