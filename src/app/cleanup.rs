//! `--cleanup` and `--cleanup-own`, as commands.

use anyhow::bail;

use crate::leftovers::cleanup;
use crate::leftovers::report::Report;
use crate::options::merge::Merged;
use crate::options::settings::Notice;
use crate::telemetry;

/// `--cleanup`: removes everything of ours and of kube-proxy.
///
/// # Errors
/// If anything could not be removed; what, and why, is in the log.
pub fn all(merged: Merged) -> anyhow::Result<()> {
    let Merged { options, notices } = merged;
    telemetry::init(options.verbosity);
    notices.iter().for_each(Notice::log);
    tell(&cleanup::clean_all(&options.proxy.exclude_cidrs))
}

/// `--cleanup-own`: removes what is ours alone.
///
/// # Errors
/// As for [`all`].
pub fn own(merged: Merged) -> anyhow::Result<()> {
    let Merged { options, notices } = merged;
    telemetry::init(options.verbosity);
    notices.iter().for_each(Notice::log);
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
