//! `--cleanup` and `--cleanup-own`, as commands.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

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
/// If anything could not be removed; what, and why, is in the log.
pub fn all(merged: &Merged) -> anyhow::Result<()> {
    log::begin(merged);
    let deadline = Instant::now() + END;
    while cleanup::is_running() && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    tell(&cleanup::clean_all(&merged.options.proxy.exclude_cidrs))
}

/// How long [`own`] waits: longer than what kubelet takes for a container that works, so that it starts the next one
/// without delay.
const PATIENCE: Duration = Duration::from_mins(15);
/// IPVS's timeout of a TCP connection without traffic, where nobody has set it.
const KERNELS_TCP_SECONDS: u32 = 900;
/// How often it looks.
const PERIOD: Duration = Duration::from_secs(2);
/// How often [`all`] looks.
const LOOK: Duration = Duration::from_millis(100);

/// `--cleanup-own`: removes what is ours alone, as soon as it may. Until kube-proxy has taken the node over, it waits.
///
/// # Errors
/// As for [`all`]; among them that it waited for too long.
pub fn own(merged: &Merged) -> anyhow::Result<()> {
    log::begin(merged);
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
    if cleanup::has_device() && !cleanup::kube_proxy_has_sets() {
        tracing::warn!(
            "kube-proxy is not in ipvs mode here: kube-ipvs0 and the virtual servers stay, and nobody keeps them up to date"
        );
    }
    tell_settings(merged.options.proxy.timeouts.tcp_seconds);
    Ok(())
}

/// Names the settings of IPVS that kube-proxy does not set, and that stay as we may have made them. Whose they are cannot be seen.
/// `configured_seconds` is `ipvs.tcpTimeout`, as far as it is known here; 0: it leaves the timeout alone.
fn tell_settings(configured_seconds: u32) {
    // Without IPVS there are none.
    let timeouts = Ipvs::open().and_then(|mut ipvs| ipvs.timeouts());
    let tcp_seconds = timeouts.map_or(KERNELS_TCP_SECONDS, |timeouts| timeouts.tcp_seconds);
    if ![KERNELS_TCP_SECONDS, configured_seconds].contains(&tcp_seconds) {
        tracing::warn!(
            seconds = tcp_seconds,
            "IPVS's timeout of TCP connections stays as kube-ipvs sets it, unless kube-proxy's ipvs.tcpTimeout says otherwise; \
             the kernel's own comes back with: ipvsadm --set {KERNELS_TCP_SECONDS} 0 0"
        );
    }
    let estimation = sysctl::read(Sysctl::VsRunEstimation).ok().flatten();
    if estimation.is_some_and(|value| value.trim() == "0") {
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
