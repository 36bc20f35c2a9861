//! `--cleanup`, `--cleanup-own` and `--cleanup-own-stay`, as commands.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::log;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::sysctl;
use crate::leftovers::cleanup;
use crate::leftovers::report::Report;
use crate::options::merge::Merged;
use crate::state::Sysctl;

/// How long [`all`] waits for a program that was just told to end.
const END: Duration = Duration::from_secs(10);

/// `--cleanup`: removes everything of ours and of kube-proxy.
///
/// # Errors
/// Something could not be removed; what, and why, is in the log.
pub fn all(merged: &Merged) -> anyhow::Result<()> {
    log::begin(merged);
    let deadline = Instant::now() + END;
    while cleanup::is_running() && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    tell(&cleanup::clean_all(&merged.options.proxy.exclude_cidrs))
}

/// How long [`own`] waits: longer than a container has to run for kubelet to start its successor without delay.
const PATIENCE: Duration = Duration::from_mins(15);
/// IPVS's timeout of an idle TCP connection, where nobody has changed it.
const KERNELS_TCP_SECONDS: u32 = 900;
/// How often [`own`] and [`own_stay`] look.
const PERIOD: Duration = Duration::from_secs(2);
/// How often [`all`] looks.
const LOOK: Duration = Duration::from_millis(100);

/// `--cleanup-own`: removes what is ours alone, as soon as this is allowed. Waits until kube-proxy has taken the node
/// over.
///
/// # Errors
/// Those of [`all`], including that it waited for too long; or it was told to end before it was done.
pub fn own(merged: Merged) -> anyhow::Result<()> {
    log::begin(&merged);
    match until_sigterm(move || once(&merged))? {
        Some(done) => done,
        None => bail!("told to end before it was done"),
    }
}

/// `--cleanup-own-stay`: does what [`own`] does whenever something of ours is left, until it is told to end. On a node
/// that has not switched to kube-ipvs yet there is nothing to remove, but the switch may still come.
///
/// # Errors
/// It cannot begin. What could not be removed is logged, and tried again.
pub fn own_stay(merged: Merged) -> anyhow::Result<()> {
    log::begin(&merged);
    until_sigterm(move || stay(&merged)).map(drop)
}

/// Does `work` on a thread of its own. `None`: SIGTERM came before it was done. SIGTERM ends the program at once, also
/// where the program is the first process of a container, which is ended only by signals that it handles. The work may
/// stop anywhere: it changes the kernel in transactions.
fn until_sigterm<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<Option<T>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build();
    runtime.context("cannot wait for SIGTERM")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let (done, end) = oneshot::channel();
        let work = move || {
            // Nobody listens any more when the program ends.
            let _ = done.send(work());
        };
        thread::Builder::new().name("cleanup".to_owned()).spawn(work).context("cannot start a thread")?;
        tokio::select! {
            done = end => done.map(Some).context("the thread that cleans up is gone"),
            _ = terminate.recv() => Ok(None),
        }
    })
}

fn once(merged: &Merged) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = Report::default();
    let report = loop {
        let report = cleanup::clean_own();
        if !report.is_worth_another_try() || Instant::now() >= deadline {
            break report;
        }
        if report != before {
            report.log_news(&before);
            tracing::info!(atMost = ?PATIENCE, "Waiting, and trying again");
            before = report;
        }
        thread::sleep(PERIOD);
    };
    tell(&report)?;
    tell_what_stays(merged);
    Ok(())
}

fn stay(merged: &Merged) {
    let mut before = Report::default();
    // A full look is due at first, and while something is left to do. Otherwise the loop looks for our tables only:
    // kube-proxy in iptables mode may have many rules, which should not be read every few seconds.
    let mut is_due = true;
    loop {
        if is_due || cleanup::has_own_tables() {
            let report = cleanup::clean_own();
            is_due = report.is_worth_another_try();
            if !is_due {
                // `tell` logs what is out of reach; its error would be for the exit status, which nobody waits for.
                let _ = tell(&report);
                tell_what_stays(merged);
            } else if report != before {
                report.log_news(&before);
                tracing::info!("Waiting, and trying again");
            }
            before = report;
        }
        thread::sleep(PERIOD);
    }
}

/// Names what kube-proxy does not take over and what it does not reset.
fn tell_what_stays(merged: &Merged) {
    if cleanup::has_device() && !cleanup::kube_proxy_has_sets() {
        tracing::warn!(
            "kube-proxy does not run in ipvs mode on this node: kube-ipvs0 and the virtual servers remain, and \
             nothing updates them"
        );
    }
    tell_settings(merged.options.proxy.timeouts.tcp_seconds);
}

/// Names the IPVS settings that kube-proxy does not set and that stay as we may have set them. Who set them cannot be
/// seen. `configured_seconds` is `ipvs.tcpTimeout`, as far as it is known here; 0: that setting leaves the timeout
/// alone.
fn tell_settings(configured_seconds: u32) {
    // Without IPVS there are no timeouts.
    let timeouts = Ipvs::open().and_then(|mut ipvs| ipvs.timeouts());
    let tcp_seconds = timeouts.map_or(KERNELS_TCP_SECONDS, |timeouts| timeouts.tcp_seconds);
    if ![KERNELS_TCP_SECONDS, configured_seconds].contains(&tcp_seconds) {
        tracing::warn!(
            seconds = tcp_seconds,
            "The IPVS timeout of TCP connections keeps the value that kube-ipvs set, unless kube-proxy's \
             ipvs.tcpTimeout sets another one; restore the kernel's default with: ipvsadm --set {KERNELS_TCP_SECONDS} \
             0 0"
        );
    }
    let is = |sysctl, wanted| {
        let value = sysctl::read(sysctl).ok().flatten();
        value.is_some_and(|value| value.trim() == wanted)
    };
    if is(Sysctl::VsSloppySctp, "1") {
        tracing::warn!(
            "net.ipv4.vs.sloppy_sctp is 1: an SCTP association may begin with any packet; kube-ipvs may have set it, \
             and kube-proxy does not reset it; reset it with: sysctl -w net.ipv4.vs.sloppy_sctp=0"
        );
    }
    if is(Sysctl::VsRunEstimation, "0") {
        tracing::warn!(
            "IPVS rate estimation is off; kube-ipvs may have switched it off, and kube-proxy does not switch it on; it is turned on with: \
             sysctl -w net.ipv4.vs.run_estimation=1"
        );
    }
}

fn tell(report: &Report) -> anyhow::Result<()> {
    report.log();
    if report.findings.is_empty() {
        tracing::info!("Nothing to remove");
    }
    if !report.is_complete() {
        bail!("encountered an error while tearing down rules");
    }
    Ok(())
}
