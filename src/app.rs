//! Wires the pieces: start order, threads, shutdown. Only this file and its folder know all the others.

pub mod cleanup;
mod config_file;
pub mod dry_run;
mod init_only;
mod log;
mod own_node;
mod servers;
mod sign;
mod silent_kernel;
mod source;
mod supported;
mod system;
mod takeover;
mod tasks;
mod watches;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::cluster::types::Family;
use crate::desired::Desired;
use crate::desired::settings::Supported;
use crate::kernel::linux::LinuxKernel;
use crate::kernel::{Kernel, node_addresses};
use crate::options::merge::Merged;
use crate::options::{EXTERNAL_IPS_GATE, Options, Source, file};
use crate::reconcile::core::Reconciler;
use crate::report::services::Services;
use crate::report::{Reporter, kubernetes_events};
use crate::serve::service_health;
use crate::{reconcile, report, serve};
use source::{LISTS, Opened};
use supported::{Lack, supported, tell_of_conntrack};
use tasks::Tasks;

/// Where `proc` and `sys` are mounted.
const ROOT: &str = "/";
/// How many ticks of the audit fit into one `syncPeriod`: with the default of 30 s, one slice a second.
const AUDITS_PER_SYNC_PERIOD: u32 = 30;

/// How long the end waits for blocking work: a name server that does not answer, a file system that hangs.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the proxy until it is asked to stop (SIGTERM, SIGINT). The data plane stays as it is.
///
/// # Errors
/// Whatever prevents the start or ends the program, as one line. The data plane stays as it is in this case, too.
/// Parameters that are set once, at the start, may already have been set: a broken manifest is found only after that.
pub fn run(merged: Merged) -> anyhow::Result<()> {
    log::begin(&merged);
    let commit = Some(crate::COMMIT).filter(|commit| !commit.is_empty());
    tracing::info!(version = concat!("v", env!("CARGO_PKG_VERSION")), commit, "Version info");
    carry_out(start(merged))
}

/// Carries out a command to its end on a runtime of its own.
fn carry_out(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = runtime().context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        tasks::ignore_user_signals()?;
        command.await
    });
    // Dropping the runtime would wait for blocking work without limit.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

/// The runtime: all tasks run on the current thread. With several worker threads, the one that an answer wakes would
/// first wake another one, to wait for sockets in its place. Long work is done on threads of its own, or yields.
fn runtime() -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // tokio panics when it needs a thread for blocking work, has none, and the system refuses to start one: a limit
        // that others have reached (of processes in a cgroup) would end the program at the next look at the manifests.
        // With one thread that exists from the start and never ends, blocking work waits for its turn.
        .thread_keep_alive(Duration::MAX)
        .build()?;
    drop(runtime.spawn_blocking(|| ()));
    Ok(runtime)
}

/// `--write-config-to`: writes the settings, defaults included, to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(merged: &Merged, path: &Path) -> anyhow::Result<()> {
    log::begin(merged);
    std::fs::write(path, file::text(&merged.configuration))
        .with_context(|| format!("--write-config-to={}", path.display()))?;
    tracing::info!(file = %path.display(), "Wrote configuration");
    Ok(())
}

/// The reconciler for these options.
fn reconciler(options: &Options, supported: Supported) -> Reconciler {
    let Options { proxy, node_name, min_sync_period, sync_period, .. } = options;
    let audit_period = *sync_period / AUDITS_PER_SYNC_PERIOD;
    Reconciler::new(proxy.clone(), node_name.clone(), supported, *min_sync_period, audit_period)
}

/// The result of a stop before the program has begun: an error with `--init-only`. Nothing has been set by then, and
/// whatever waits for the settings must not go on: the other containers of a pod, where this is an init container.
fn stopped(options: &Options) -> anyhow::Result<()> {
    ensure!(!options.init_only, "stopped before anything was set");
    Ok(())
}

async fn start(mut merged: Merged) -> anyhow::Result<()> {
    let changed = merged.options.config_file.as_deref().map(config_file::watch).transpose()?;
    let options = &merged.options;
    // Visible problems of the sources are found before anything touches the kernel, even a probe.
    let metrics = Arc::new(report::numbers::metrics());
    metrics.tell_feature(EXTERNAL_IPS_GATE, options.proxy.external_ips);
    let mut tasks = Tasks::new();
    tasks.end_on_signals()?;
    // A credential plugin may take its time.
    let Some(opened) = tasks.shutdown().run_until_cancelled(source::open(options, &metrics)).await else {
        return tasks.end(stopped(options)).await;
    };
    let (source, events, teller) = opened?;
    let mut kernel = LinuxKernel::open().context("can't use the IPVS proxier")?;
    kernel.check_scheduler(&options.proxy.scheduler).context("can't use the IPVS proxier")?;
    kernel.check_rules(Family::V4).context("can't use the IPVS proxier")?;
    let addresses = node_addresses::Monitor::open().context("cannot list the node's addresses")?;
    let supported = supported(&mut merged.options, |family| {
        let servers = kernel.lacks_virtual_servers(family).map(Lack::of_virtual_servers);
        servers.or_else(|| kernel.lacks_rules(family).map(Lack::of_rules))
    });
    tell_of_conntrack(kernel.lacks_conntrack_netlink());
    let options = &merged.options;

    if !options.init_only {
        sign::keep();
    }
    let (status, looked_at) = watch::channel(serve::Status::default());
    if let Opened::Api(source) = &source {
        watches::follow(source.monitors(), &metrics, &status, &mut tasks);
    }
    let (sender, heard) = mpsc::channel(LISTS);
    source::follow_addresses(addresses, sender.clone()).await?;
    if let Some(teller) = teller {
        tasks.accompany(teller.run(tasks.shutdown()));
    }
    let (asker, questions) = serve::questions::channel();
    if !options.init_only {
        servers::start(&merged, &metrics, asker, &looked_at, &events, &mut tasks);
    }
    match source::listen(source, options, &supported, sender, &mut tasks).await {
        Ok(true) => {}
        Ok(false) => return tasks.end(stopped(options)).await,
        Err(error) => return tasks.end(Err(error)).await,
    }
    system::set_up(Path::new(ROOT), options);
    tracing::info!("Using ipvs Proxier");
    if options.init_only {
        let desired = Desired::new(options.proxy.clone(), options.node_name.clone(), supported.clone());
        return init_only::initialize(&mut kernel, &desired, &supported);
    }
    if let Some(changed) = changed {
        let stop = tasks.shutdown();
        // Cancel-safe: the program ends anyway.
        tasks.spawn(async move { stop.run_until_cancelled(changed).await.unwrap_or(Ok(())) });
    }
    events.tell(kubernetes_events::starting());
    takeover::after_first_sync(&status, &metrics, &options.proxy, supported.families.clone());

    let reconciler = reconciler(options, supported.clone());
    let (news, ports) = mpsc::unbounded_channel();
    let health = service_health::Health { status: looked_at, sync_period: options.sync_period };
    let stop = tasks.shutdown();
    let (node_name, tells) = (options.node_name.clone(), events.clone());
    tasks.accompany(async move {
        let failed = |failed: &service_health::Failed<'_>| {
            tells.tell(kubernetes_events::health_check_failed(&node_name, failed));
        };
        service_health::run(ports, health, failed, stop).await;
    });
    let services = Services::new(
        options.node_name.clone(),
        &options.proxy,
        supported.families.clone(),
        Arc::clone(&metrics),
        news,
    );
    let find_stale = LinuxKernel::stale_finder().context("cannot look at connection tracking")?;
    let (kernel, turns) = silent_kernel::WatchedKernel::new(kernel);
    tokio::spawn(silent_kernel::watch(turns, status.clone(), Arc::clone(&metrics), options.sync_period));
    let needs_node = matches!(options.source, Source::Api { .. });
    let node_name = options.node_name.clone();
    let reporter =
        Reporter::new(metrics, status, &supported.families, needs_node, services, events, node_name);
    let stop = tasks.shutdown();
    let kernel: Box<dyn Kernel> = Box::new(kernel);
    tasks.spawn(async move {
        let ended = reconcile::run(reconciler, kernel, find_stale, heard, questions, stop, reporter).await;
        ended.context("cannot start the loop's thread")
    });

    let ended = tasks.one_ends().await;
    tasks.end(ended).await
}

#[cfg(test)]
mod tests;
