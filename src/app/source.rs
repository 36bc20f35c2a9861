//! The sources of facts, up to the loop.

use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::own_node::{self, Waited};
use super::tasks::Tasks;
use super::watches;
use crate::api::events::{Events, Teller};
use crate::api::manifests::ManifestSource;
use crate::api::watch::{ApiSource, Encoding, Settings};
use crate::api::{Event, client};
use crate::desired::settings::Supported;
use crate::kernel::node_addresses;
use crate::options::{Options, Source};
use crate::serve::metrics::Metrics;

/// How many events may wait for the loop. A source that is faster than the loop waits: see [`crate::reconcile::run`].
const EVENTS: usize = 1024;
/// How many waiting events are handed to the loop together. If each one woke the loop, then on a single processor the
/// loop would take it at once, write one change, and wait for the next.
pub(super) const TOGETHER: usize = 256;
/// How many lists of events may wait for the loop.
pub(super) const LISTS: usize = EVENTS / TOGETHER;

/// A source of events.
pub(super) enum Opened {
    /// Files.
    Manifests(Box<ManifestSource>),
    /// An API server.
    Api(Box<ApiSource>),
}

impl Opened {
    /// Sends events until the shutdown.
    pub(super) async fn run(
        self,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        match self {
            Self::Manifests(source) => Ok(source.run(events, shutdown).await?),
            Self::Api(source) => source.run(events, shutdown).await.context("API server"),
        }
    }
}

/// Opens the source of facts, and the way for Kubernetes Events: to the API server, or to nobody where files are the
/// source.
pub(super) async fn open(
    options: &Options,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Opened, Events, Option<Teller>)> {
    let node_name = options.node_name.clone();
    Ok(match &options.source {
        Source::Manifests(paths) => {
            let source = ManifestSource::new(paths.clone(), node_name);
            (Opened::Manifests(Box::new(source)), Events::to_nobody(), None)
        }
        Source::Api { kubeconfig, master, protobuf } => {
            let observer = watches::observer(metrics);
            let client = client::connect_observed(kubeconfig.as_deref(), master.as_deref(), observer).await?;
            let (events, teller) = Events::to(client.clone(), node_name.clone());
            let encoding = if *protobuf { Encoding::Protobuf } else { Encoding::Json };
            let settings = Settings { encoding, ..Settings::default() };
            let mut source = ApiSource::new(client, node_name).with_settings(settings);
            if options.proxy.watch_all_nodes {
                source = source.with_other_nodes();
            }
            (Opened::Api(Box::new(source)), events, Some(teller))
        }
    })
}

/// Starts the source, and waits for the own Node where the API server is the source. Returns whether to go on: `false`
/// when a task has ended (the source, a server that cannot listen), or the program is asked to end.
pub(super) async fn listen(
    source: Opened,
    options: &Options,
    supported: &Supported,
    listener: mpsc::Sender<Vec<Event>>,
    tasks: &mut Tasks,
) -> anyhow::Result<bool> {
    let (sender, told) = mpsc::channel(EVENTS);
    let has_node = matches!(source, Opened::Api(_));
    tasks.spawn(source.run(sender, tasks.shutdown()));
    if !has_node {
        tasks.spawn(pass_on(told, listener));
        return Ok(true);
    }
    let shutdown = tasks.shutdown();
    let (proxy, families) = (&options.proxy, &supported.families);
    // Both arms are cancel-safe: when a task has ended, what was learnt of the Node is of no use.
    let waited = tokio::select! {
        waited = own_node::wait(&options.node_name, proxy, told, &shutdown) => waited?,
        ended = tasks.one_ends() => return ended.map(|()| false),
    };
    let gate = match waited {
        Waited::GoOn(gate) => gate,
        Waited::Ended => return Ok(false),
    };
    let listening =
        [("healthzBindAddress", options.healthz_address), ("metricsBindAddress", options.metrics_address)];
    gate.check(families, proxy, &listening)?;
    tasks.spawn(gate.pass_on(families.clone(), proxy.clone(), listening, listener));
    Ok(true)
}

/// Passes on the events of a source, until it ends or nobody listens.
async fn pass_on(mut told: mpsc::Receiver<Event>, listener: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
    loop {
        let mut together = Vec::new();
        if told.recv_many(&mut together, TOGETHER).await == 0 || listener.send(together).await.is_err() {
            return Ok(());
        }
    }
}

/// Sends the node's addresses, before anything else, and then whenever they change, from a thread of their own.
pub(super) async fn follow_addresses(
    monitor: node_addresses::Monitor,
    events: mpsc::Sender<Vec<Event>>,
) -> anyhow::Result<()> {
    events.send(vec![Event::NodeAddresses(monitor.addresses().clone())]).await?;
    let follow = move || {
        node_addresses::follow(monitor, |addresses| {
            events.blocking_send(vec![Event::NodeAddresses(addresses)]).is_ok()
        });
    };
    thread::Builder::new()
        .name("addresses".to_owned())
        .spawn(follow)
        .context("cannot start the thread that follows the node's addresses")?;
    Ok(())
}
