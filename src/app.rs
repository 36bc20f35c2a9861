//! Wires the pieces: start order, threads, shutdown. The only file that knows all others.

pub mod cleanup;
mod config_file;
pub mod dry_run;
mod happenings;
mod init_only;
mod own_node;
mod report;
mod sign;
mod silent_kernel;
mod system;
mod takeover;
mod watches;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::events::{Events, Teller};
use crate::api::manifests::ManifestSource;
use crate::api::watch::{ApiSource, Encoding, Settings};
use crate::api::{Event, client};
use crate::cluster::types::Family;
use crate::desired::Desired;
use crate::desired::settings::Supported;
use crate::kernel::linux::LinuxKernel;
use crate::kernel::{Kernel, Refusal, node_addresses, sysctl, version};
use crate::options::merge::Merged;
use crate::options::{LogFormat, Options, Source, configz, file, flags};
use crate::reconcile::core::Reconciler;
use crate::reconcile::explain::Explanation;
use crate::serve::metrics::Metrics;
use crate::serve::questions::Asker;
use crate::serve::service_health;
use crate::{reconcile, serve, telemetry, vlog};
use happenings::OwnServer;
use own_node::Waited;
use report::Reporter;
use report::services::Services;

/// Events that wait for the loop. A source that is faster than the loop waits: see [`reconcile::run`].
const EVENTS: usize = 1024;
/// Of those that are there already, so many are handed to the loop together: for each it would be woken, and where there is
/// one processor it takes it at once, writes one change, and waits for the next.
const TOGETHER: usize = 256;
/// Lists of those that wait for the loop.
const LISTS: usize = EVENTS / TOGETHER;
/// Where `proc` and `sys` are.
const ROOT: &str = "/";
/// How many ticks of the audit fit into one `syncPeriod`: with the default of 30 s, one slice a second.
const AUDITS_PER_SYNC_PERIOD: u32 = 30;

/// How often it is looked whether the kernel answers.
const LOOKS_PER_SYNC_PERIOD: u32 = 2;

/// How long the end waits for what blocks: a name server that does not answer, a file system that hangs.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the proxy until it is asked to stop (SIGTERM, SIGINT). The data plane stays as it is.
///
/// # Errors
/// Whatever keeps it from starting, or ends it, as one line. The data plane stays as it is then, too. The parameters that
/// are set once, at the start, may have been set: a broken manifest is found after that.
pub fn run(merged: Merged) -> anyhow::Result<()> {
    begin_log(&merged);
    let commit = Some(crate::COMMIT).filter(|commit| !commit.is_empty());
    tracing::info!(version = concat!("v", env!("CARGO_PKG_VERSION")), commit, "Version info");
    carry_out(start(merged))
}

/// Carries out a command to its end.
fn carry_out(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // All tasks on this thread: of several, the one that an answer wakes wakes another, to wait for sockets in its place.
    // What takes long is on threads of its own, or yields.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(command);
    // Dropped, it would wait without limit.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// `--write-config-to`: writes the settings, defaults included, to a file.
///
/// # Errors
/// It cannot be written.
pub fn write_config(merged: &Merged, path: &Path) -> anyhow::Result<()> {
    begin_log(merged);
    std::fs::write(path, file::text(&merged.configuration))
        .with_context(|| format!("--write-config-to={}", path.display()))?;
    tracing::info!(file = %path.display(), "Wrote configuration");
    Ok(())
}

/// Starts the log, and tells what there is to tell about the settings.
pub(crate) fn begin_log(merged: &Merged) {
    let Options { verbosity, log_format, .. } = merged.options;
    let format = match log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(verbosity, format);
    if telemetry::v(1) {
        flags::log_values(&merged.flag_values);
    }
    merged.notices.iter().for_each(|notice| notice.log(verbosity));
}

async fn start(mut merged: Merged) -> anyhow::Result<()> {
    let changed = merged.options.config_file.as_deref().map(config_file::watch).transpose()?;
    let options = &merged.options;
    // What can be seen to be wrong with the sources is found before the kernel is touched, even by a probe.
    let metrics = Arc::new(report::numbers::metrics());
    let (source, events, teller) = open_source(options, &metrics).await?;
    let mut kernel = LinuxKernel::open().context("can't use the IPVS proxier")?;
    kernel.check_scheduler(&options.proxy.scheduler).context("can't use the IPVS proxier")?;
    let addresses = node_addresses::Monitor::open().context("cannot list the node's addresses")?;
    let supported = supported(&mut merged.options, |family| kernel.lacks_rules(family));
    let options = &merged.options;

    if !options.init_only {
        sign::keep();
    }
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let (status, looked_at) = watch::channel(serve::Status::default());
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if let Opened::Api(source) = &source {
        watches::follow(source.monitors(), &metrics, &status, &mut tasks);
    }
    let (sender, heard) = mpsc::channel(LISTS);
    follow_addresses(addresses, sender.clone()).await?;
    if let Some(teller) = teller {
        let stop = shutdown.clone();
        tasks.spawn(async move {
            teller.run(stop).await;
            Ok(())
        });
    }
    let (asker, questions) = serve::questions::channel();
    if !options.init_only {
        serve(&merged, &metrics, asker, &looked_at, &events, &shutdown, &mut tasks);
    }
    match listen(source, options, &supported, sender, &shutdown, &mut tasks).await {
        Ok(true) => {}
        ended => return end(ended.map(|_| ()), tasks, &shutdown).await,
    }
    system::set_up(Path::new(ROOT), options);
    tracing::info!("Using ipvs Proxier");
    if options.init_only {
        let desired = Desired::new(options.proxy.clone(), options.node_name.clone(), supported);
        return init_only::initialize(&mut kernel, &desired);
    }
    if let Some(changed) = changed {
        let stop = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! {
                ended = changed => ended,
                () = stop.cancelled() => Ok(()),
            }
        });
    }
    events.tell(happenings::starting());
    takeover::after_first_sync(&status, &metrics, &options.proxy, supported.families.clone());

    let reconciler = Reconciler::new(
        options.proxy.clone(),
        options.node_name.clone(),
        supported.clone(),
        options.min_sync_period,
        options.sync_period / AUDITS_PER_SYNC_PERIOD,
    );
    let (news, ports) = mpsc::unbounded_channel();
    let health = service_health::Health { status: looked_at, sync_period: options.sync_period };
    let stop = shutdown.clone();
    let (node_name, tells) = (options.node_name.clone(), events.clone());
    tasks.spawn(async move {
        let failed = |failed: &service_health::Failed<'_>| {
            tells.tell(happenings::health_check_failed(&node_name, failed));
        };
        service_health::run(ports, health, failed, stop).await;
        Ok(())
    });
    let services = Services::new(
        options.node_name.clone(),
        &options.proxy,
        supported.families.clone(),
        Arc::clone(&metrics),
        news,
    );
    let (kernel, turns) = silent_kernel::Counted::new(kernel);
    tokio::spawn(silent_kernel::watch(turns, status.clone(), options.sync_period / LOOKS_PER_SYNC_PERIOD));
    let needs_node = matches!(options.source, Source::Api { .. });
    let node_name = options.node_name.clone();
    let reporter =
        Reporter::new(metrics, status, &supported.families, needs_node, services, events, node_name);
    let stop = shutdown.clone();
    let kernel: Box<dyn Kernel> = Box::new(kernel);
    tasks.spawn(async move {
        let ended = reconcile::run(reconciler, kernel, heard, questions, stop, reporter).await;
        ended.context("cannot start the loop's thread")
    });

    let ended = one_ends(&mut tasks).await;
    end(ended, tasks, &shutdown).await
}

/// Starts the source, and waits for the own Node where the API server is the source. Says whether to go on: not when
/// a task has ended (the source, a server that cannot listen), or the program is asked to.
async fn listen(
    source: Opened,
    options: &Options,
    supported: &Supported,
    listener: mpsc::Sender<Vec<Event>>,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<bool> {
    let (sender, told) = mpsc::channel(EVENTS);
    let has_node = matches!(source, Opened::Api(_));
    tasks.spawn(source.run(sender, shutdown.clone()));
    if !has_node {
        tasks.spawn(pass_on(told, listener));
        return Ok(true);
    }
    let (proxy, families) = (&options.proxy, &supported.families);
    // Both arms are cancel-safe: what was heard of the Node before is of no use when a task has ended.
    let waited = tokio::select! {
        waited = own_node::wait(&options.node_name, proxy, told, shutdown) => waited?,
        ended = one_ends(tasks) => return ended.map(|()| false),
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

/// Passes on what a source tells, until it ends or nobody listens.
async fn pass_on(mut told: mpsc::Receiver<Event>, listener: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
    loop {
        let mut together = Vec::new();
        if told.recv_many(&mut together, TOGETHER).await == 0 || listener.send(together).await.is_err() {
            return Ok(());
        }
    }
}

/// Waits for a task to end, which ends all: by a signal, or because it failed.
async fn one_ends(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    tasks.join_next().await.map_or(Ok(()), |ended| ended.context("a task panicked").flatten())
}

/// Ends all tasks. The first error is the program's: of what led to this, or else of them.
async fn end(
    mut result: anyhow::Result<()>,
    mut tasks: JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    shutdown.cancel();
    while !tasks.is_empty() {
        let ended = one_ends(&mut tasks).await;
        if result.is_ok() {
            result = ended;
        }
    }
    result
}

/// Where events come from.
enum Opened {
    Manifests(Box<ManifestSource>),
    Api(Box<ApiSource>),
}

impl Opened {
    async fn run(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::Manifests(source) => Ok(source.run(events, shutdown).await?),
            Self::Api(source) => source.run(events, shutdown).await.context("API server"),
        }
    }
}

/// The source, and who is told of what happens: the API server, if there is one.
async fn open_source(
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

/// Tells the node's addresses, before anything else, and then whenever they change, from a thread of their own.
async fn follow_addresses(
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

/// The HTTP servers; they end with the shutdown.
fn serve(
    merged: &Merged,
    metrics: &Arc<Metrics>,
    asker: Asker<Explanation>,
    status: &watch::Receiver<serve::Status>,
    events: &Events,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let options = &merged.options;
    let shown = serve::pages::Shown {
        configuration: configz::configz(&merged.configuration),
        flags: merged.flag_values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        profiling: options.profiling.then_some(telemetry::set_verbosity),
    };
    let servers = [
        (
            OwnServer::Healthz,
            options.healthz_address,
            serve::http::healthz_router(status.clone(), options.sync_period, Arc::clone(metrics)),
        ),
        (
            OwnServer::Metrics,
            options.metrics_address,
            serve::pages::router(Arc::clone(metrics), shown).merge(serve::questions::router(asker)),
        ),
    ];
    if options.healthz_address.is_some() {
        let told = serve::healthz::changes::tell(status.clone(), options.sync_period, shutdown.clone());
        tasks.spawn(async move {
            told.await;
            Ok(())
        });
    }
    for (own, address, router) in servers {
        if let Some(address) = address {
            let name = own.name();
            let server = serve::http::Server { name, address, hard_fail: options.bind_address_hard_fail };
            let (stop, events) = (shutdown.clone(), events.clone());
            tasks.spawn(async move {
                let served = server.run(router, stop).await;
                let served = served.with_context(|| format!("cannot serve {name} on {address}"));
                if let Err(error) = &served {
                    events.tell(happenings::server_failed(own, format!("{error:#}")));
                }
                served
            });
        }
    }
}

/// What this kernel has. What depends on that is decided; parameters that are wanted and that it lacks are named.
fn supported(options: &mut Options, lacks_rules: impl FnOnce(Family) -> Option<Refusal>) -> Supported {
    let kernel = version::running();
    let processors = system::processors(Path::new(ROOT));
    options.proxy.run_estimation = options.estimator.should_run(kernel, processors);
    let families = supported_families(Path::new(ROOT), lacks_rules);
    let mut supported = Supported { families, kernel, missing: BTreeSet::new() };
    let desired = Desired::new(options.proxy.clone(), options.node_name.clone(), supported.clone());
    supported.missing =
        init_only::wanted_sysctls(&desired).filter(|sysctl| !sysctl::is_there(*sysctl)).collect();
    if !supported.missing.is_empty() {
        let names = supported.missing.iter().map(|sysctl| sysctl.path()).collect::<Vec<_>>().join(", ");
        tracing::warn!(entries = names, "This kernel does not have these parameters");
    }
    supported
}

/// The families that this kernel has, below this root. IPv4 is always there; IPv6 may be missing, or switched off for all
/// devices or for those to come: no device takes an address of it then, as if each of them were refused for want of rights.
/// It is left out too where the kernel has no packet filter for it (contract 3.6).
fn supported_families(root: &Path, lacks_rules: impl FnOnce(Family) -> Option<Refusal>) -> BTreeSet<Family> {
    let is_off = |devices: &str| {
        let path = root.join(format!("proc/sys/net/ipv6/conf/{devices}/disable_ipv6"));
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
    };
    let mut families = BTreeSet::from([Family::V4]);
    if root.join("proc/net/if_inet6").exists() && !is_off("all") && !is_off("default") {
        match lacks_rules(Family::V6) {
            None => _ = families.insert(Family::V6),
            Some(refusal) => {
                tracing::warn!(err = %refusal, "This kernel has no packet filter for IPv6: it is left out");
            }
        }
    }
    families
}

/// Starts the shutdown when the process is asked to end.
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(async move {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = terminate.recv() => vlog!(0, signal = "SIGTERM", "Stopping; the data plane stays as it is"),
            _ = interrupt.recv() => vlog!(0, signal = "SIGINT", "Stopping; the data plane stays as it is"),
        }
        shutdown.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests;
