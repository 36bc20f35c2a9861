//! `--cleanup` and `--cleanup-own`, as commands.

use anyhow::bail;

use super::begin_log;
use crate::leftovers::cleanup;
use crate::leftovers::report::Report;
use crate::options::merge::Merged;

/// `--cleanup`: removes everything of ours and of kube-proxy.
///
/// # Errors
/// If anything could not be removed; what, and why, is in the log.
pub fn all(merged: &Merged) -> anyhow::Result<()> {
    begin_log(merged);
    tell(&cleanup::clean_all(&merged.options.proxy.exclude_cidrs))
}

/// `--cleanup-own`: removes what is ours alone.
///
/// # Errors
/// As for [`all`].
pub fn own(merged: &Merged) -> anyhow::Result<()> {
    begin_log(merged);
    tell(&cleanup::clean_own())
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
