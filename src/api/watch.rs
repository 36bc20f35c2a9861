//! The API server as a source of events: three watches (Services, EndpointSlices, the own Node), one loop. Where the user
//! wants it, a fourth looks at all other Nodes.
//!
//! Each watch gets a complete set of objects, hands it on as one [`Replace`](super::Change::Replace), and follows
//! changes from there. What it promises:
//!
//! * **Nothing is withdrawn because something failed.** A relist is collected aside and handed on only when it is
//!   complete; an error hands on nothing.
//! * **Never older than what was seen.** A relist asks for at least the newest version known
//!   (`resourceVersionMatch=NotOlderThan`); where a server does not have that yet, for a consistent read; and an answer
//!   that is older all the same is refused (`strategy`).
//! * **Streaming lists** (KEP-3157) where the server has them, list and watch where not; found out by trying.
//! * **Every wait has a limit**: for an answer, for the next bytes of a list, for a sign of life of a watch
//!   ([`Settings`]). Backoff between attempts: 0.8 s to 30 s, plus as much at random; `Retry-After` is honoured. A watch that
//!   is cut after it lived is no failure: it is opened again within a second.
//! * **A version that the server fails at is left**: after three such failures to go on from it, a complete set is asked for.
//! * **A cluster that was restored from a backup is believed**, after some silent watches and as many consistent reads. Where its
//!   versions pass those seen before within minutes, nobody notices: see README, "Limits today".
//! * **One bad object stops no other**: each is decoded by itself, and what is invalid is skipped with one warning.
//! * **Errors are said once**, then when they change, with verb and resource; the present one is in [`Status`].
//!
//! kube-runtime's `watcher` is not used: its streaming list always starts at version 0, so that a server that is
//! behind withdraws what is newer, it has no fallback, and no limit on a list's progress.
//!
//! Files: `cycle` the loop, `strategy` how to ask for a complete set, `http` a request and its answer, `frames` the events
//! in it, `encoding` how they are written, in `protobuf` or `json`, `kinds` what is watched, `status` what others see,
//! `failure`, `api_status` and `version` its words.

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
    /// All other Nodes, where the user wants it.
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

/// Limits; the defaults are right for any cluster, tests have less time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Without a byte of an answer that is due (its head, or more of a list): tried again. Bytes count, not
    /// objects: a slow link is no reason to begin anew.
    pub progress_timeout: Duration,
    /// Without a byte of a watch: opened again. Servers send a bookmark each minute, so that a watch is rarely
    /// silent for longer unless the connection is dead.
    pub idle_timeout: Duration,
    /// For how many seconds a watch is asked for, at random in this range: client-go's range, so that nodes that
    /// started together do not reconnect together.
    pub watch_seconds: RangeInclusive<u32>,
    /// How many objects a page of a list has, where streaming lists cannot be had.
    pub page_size: u32,
    /// How objects are best written.
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

/// Why the source gave up; it does so only at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server denies (401, 403) what is asked of it, and never granted it since the start:
    /// `list services: forbidden: ...`.
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
    /// A source that will use this client (see [`super::client::connect`]) and watch the Node of this name.
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

    /// The same that watches all other Nodes too. Each node of a cluster then hears of each change of each Node.
    #[must_use]
    pub fn with_other_nodes(self) -> Self {
        Self { other_nodes: Some(WatchReport::new(Resource::OtherNodes)), ..self }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// What health and metrics may look at: Services, EndpointSlices, the own Node, and the others where they are
    /// watched.
    pub fn monitors(&self) -> Vec<Monitor> {
        let always = [&self.services, &self.slices, &self.node];
        always.into_iter().chain(&self.other_nodes).map(WatchReport::monitor).collect()
    }

    /// Runs the watches, each as a task of its own, until `shutdown`, or until nobody reads `events` any
    /// more. Events of one kind come in order; a full channel makes the watches wait.
    ///
    /// # Errors
    /// [`Error::Denied`], when the first definite answer to one of the watches is that it is not allowed. The others
    /// are ended then.
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
        // The set ends what is still running when it is dropped: on an error, and when this future is dropped.
        while let Some(watch) = watches.join_next().await {
            match watch {
                Ok(ended) => ended.unwrap_or(Ok(()))?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(())
    }
}
