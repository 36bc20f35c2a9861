//! The API server as a source of events: three watches (Services, EndpointSlices, the own Node), all with the same
//! loop. If the user wants it, a fourth looks at all other Nodes.
//!
//! Each watch gets a complete set of objects, hands it on as one [`Replace`](super::Change::Replace), and follows
//! changes from there. It promises:
//!
//! * **Nothing is withdrawn because something failed.** A relist is collected separately and handed on only when it is
//!   complete; an error hands on nothing.
//! * **Never older than what was seen.** A relist asks for at least the newest known version
//!   (`resourceVersionMatch=NotOlderThan`) or, if a server does not have that version yet, for a consistent read; an
//!   answer that is older all the same is refused (`strategy`).
//! * **Streaming lists** (KEP-3157) if the server has them, list and watch if not; found out by trying.
//! * **Every wait has a limit**: for an answer, for the next bytes of a list, for a sign of life of a watch
//!   ([`Settings`]). The backoff between attempts is 0.8 s to 30 s, plus up to as much at random; `Retry-After` is
//!   honoured. A watch that lived before it was cut has not failed: it is opened again within a second.
//! * **A version that the server fails at is abandoned**: after three such failures to go on from it, a complete set is
//!   asked for.
//! * **A cluster that was restored from a backup is believed**, after several silent watches and several consistent
//!   reads. If its versions overtake those seen before within minutes, nobody notices: see README, "Limits today".
//! * **One bad object stops no other**: each is decoded by itself, and an invalid one is skipped with one warning.
//! * **Errors are logged once**, and again when they change, with verb and resource; the current one is in [`Status`].
//!
//! kube-runtime's `watcher` is not used: its streaming list always starts at version 0, so that a server that is behind
//! would withdraw what is newer; it has no fallback, and no limit on a list's progress.
//!
//! Files: `cycle` is the loop, `strategy` how to ask for a complete set, `http` a request and its answer, `frames` the
//! events in the answer, `encoding` how they are written (in `protobuf` or `json`), `kinds` what is watched, `status`
//! what others see; `failure`, `api_status` and `version` are the vocabulary.

mod api_status;
mod cycle;
mod encoding;
mod failure;
mod frames;
mod http;
mod json;
mod kinds;
mod protobuf;
mod status;
mod strategy;
mod version;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cycle::Cycle;
pub use self::encoding::Encoding;
use self::kinds::{OtherNodes, OwnNode, Services, Slices};
use self::status::WatchReport;
pub use self::status::{Counters, Monitor, Status};
use super::Event;

/// What is watched; `Display` gives the API's name for it, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Services (core/v1).
    Services,
    /// EndpointSlices (discovery.k8s.io/v1).
    EndpointSlices,
    /// The own Node (core/v1).
    Nodes,
    /// All other Nodes, if the user wants it.
    OtherNodes,
}

impl Resource {
    fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes | Self::OtherNodes => "/api/v1/nodes",
        }
    }

    /// The name in the log lines that people know from kube-proxy (contract 11).
    fn controller(self) -> &'static str {
        match self {
            Self::Services => "service config",
            Self::EndpointSlices => "endpoint slice config",
            Self::Nodes => "node config",
            Self::OtherNodes => "other node config",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices.discovery.k8s.io",
            Self::Nodes => "nodes",
            Self::OtherNodes => "other-nodes",
        })
    }
}

/// Limits. The defaults are right for any cluster; tests have less time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an answer that is due (its head, or more of a list) may go without a byte before it is tried again.
    /// Bytes count, not objects: a slow link is no reason to start over.
    pub progress_timeout: Duration,
    /// How long a watch may go without a byte before it is opened again. Servers send a bookmark each minute, so a
    /// watch is rarely silent for longer unless the connection is dead.
    pub idle_timeout: Duration,
    /// The range from which the duration of each watch is chosen at random, in seconds. It is client-go's, so that
    /// nodes that started together do not reconnect together.
    pub watch_seconds: RangeInclusive<u32>,
    /// How many objects a page of a list has, if streaming lists are not available.
    pub page_size: u32,
    /// The preferred encoding of objects.
    pub encoding: Encoding,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            progress_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(100),
            watch_seconds: 300..=600,
            page_size: 500,
            encoding: Encoding::default(),
        }
    }
}

/// Why the source gave up, which it does only at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server denies (401, 403) a request, and has granted none since the start: `list services: forbidden: ...`.
    #[error("{verb} {resource}: {reason}")]
    Denied {
        /// The verb, as RBAC rules name it.
        verb: String,
        /// The resource.
        resource: Resource,
        /// What the server says.
        reason: String,
    },
}

/// The API server as a source of events.
pub struct ApiSource {
    client: Client,
    node_name: Arc<str>,
    settings: Settings,
    services: WatchReport,
    slices: WatchReport,
    node: WatchReport,
    other_nodes: Option<WatchReport>,
}

impl ApiSource {
    /// A source that uses this client (see [`super::client::connect`]) and watches the Node of this name.
    pub fn new(client: Client, node_name: Arc<str>) -> Self {
        Self {
            client,
            node_name,
            settings: Settings::default(),
            services: WatchReport::new(Resource::Services),
            slices: WatchReport::new(Resource::EndpointSlices),
            node: WatchReport::new(Resource::Nodes),
            other_nodes: None,
        }
    }

    /// Also watches all other Nodes. Each node of a cluster then hears of each change of each Node.
    #[must_use]
    pub fn with_other_nodes(self) -> Self {
        Self { other_nodes: Some(WatchReport::new(Resource::OtherNodes)), ..self }
    }

    /// Uses other limits.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// What health and metrics may look at: Services, EndpointSlices, the own Node and, if they are watched, the other
    /// Nodes.
    pub fn monitors(&self) -> Vec<Monitor> {
        let always = [&self.services, &self.slices, &self.node];
        always.into_iter().chain(&self.other_nodes).map(WatchReport::monitor).collect()
    }

    /// Runs the watches, each in a task of its own, until `shutdown` or until nobody reads `events` any more. Events of
    /// one kind come in order; a full channel makes the watches wait.
    ///
    /// # Errors
    /// [`Error::Denied`], if the first definite answer to one of the watches is that it is not allowed. The other
    /// watches are then ended.
    pub async fn run(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { client, node_name, settings, services, slices, node, other_nodes } = self;
        let services =
            Cycle::new(Services::default(), client.clone(), settings.clone(), services, events.clone());
        let slices = Cycle::new(Slices::default(), client.clone(), settings.clone(), slices, events.clone());
        let others = other_nodes.map(|report| {
            let kind = OtherNodes::of(&node_name);
            Cycle::new(kind, client.clone(), settings.clone(), report, events.clone())
        });
        let node = Cycle::new(OwnNode::named(&node_name), client, settings, node, events);
        let mut watches = JoinSet::new();
        if let Some(others) = others {
            watches.spawn(shutdown.clone().run_until_cancelled_owned(others.run()));
        }
        watches.spawn(shutdown.clone().run_until_cancelled_owned(services.run()));
        watches.spawn(shutdown.clone().run_until_cancelled_owned(slices.run()));
        watches.spawn(shutdown.run_until_cancelled_owned(node.run()));
        // Dropping the set ends the watches that still run: on an error, and when this future is dropped.
        while let Some(watch) = watches.join_next().await {
            match watch {
                Ok(ended) => ended.unwrap_or(Ok(()))?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(())
    }
}
