//! The beginning of the log, and what it says about the settings.

use crate::options::Options;
use crate::options::merge::Merged;
use crate::options::settings::{Level, Notice};
use crate::{telemetry, vlog};

/// Starts the log, and logs what there is to say about the settings.
pub(super) fn begin(merged: &Merged) {
    let Options { verbosity, log_format, .. } = merged.options;
    telemetry::init(verbosity, log_format);
    if telemetry::v(1) {
        // As kube-proxy logs them: `FLAG: --v="1"`.
        for (name, value) in &merged.flag_values {
            tracing::info!(target: telemetry::PLAIN, v = 1, "FLAG: --{name}={value:?}");
        }
    }
    merged.notices.iter().for_each(tell);
}

fn tell(Notice { level, message, detail }: &Notice) {
    match (level, detail.as_str()) {
        (Level::Detail, detail) => vlog!(1, detail, "{message}"),
        (Level::Info, "") => tracing::info!("{message}"),
        (Level::Info, detail) => tracing::info!(detail, "{message}"),
        (Level::Warning, detail) => tracing::warn!(detail, "{message}"),
    }
}
