//! `--cleanup` and `--cleanup-own`, as commands.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::begin_log;
use crate::leftovers::cleanup;
use crate::leftovers::report::Report;
use crate::options::merge::Merged;

/// How long [`all`] waits for a program that was just told to end.
const END: Duration = Duration::from_secs(10);

/// `--cleanup`: removes everything of ours and of kube-proxy.
///
/// # Errors
/// If anything could not be removed; what, and why, is in the log.
pub fn all(merged: &Merged) -> anyhow::Result<()> {
    begin_log(merged);
    let deadline = Instant::now() + END;
    while cleanup::is_running() && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    tell(&cleanup::clean_all(&merged.options.proxy.exclude_cidrs))
}

/// How long [`own`] waits: longer than what kubelet takes for a container that works, so that it starts the next one
/// without delay.
const PATIENCE: Duration = Duration::from_mins(15);
/// How often it looks.
const PERIOD: Duration = Duration::from_secs(2);
/// How often [`all`] looks.
const LOOK: Duration = Duration::from_millis(100);

/// `--cleanup-own`: removes what is ours alone, as soon as it may. Until kube-proxy has taken the node over, it waits.
///
/// # Errors
/// As for [`all`]; among them that it waited for too long.
pub fn own(merged: &Merged) -> anyhow::Result<()> {
    begin_log(merged);
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
    Ok(())
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
