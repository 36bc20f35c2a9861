//! Feature gates: one is about what a Service means, the others are about kube-proxy itself.

use std::collections::BTreeMap;

use crate::options::EXTERNAL_IPS_GATE;
use crate::options::settings::Notice;

/// What the gates say here.
pub(super) struct Gates {
    pub(super) external_ips: bool,
}

/// Reads the gates, and tells of those that do nothing. An unknown one is no error, since nobody here knows all.
pub(super) fn read(written: &BTreeMap<String, bool>, notices: &mut Vec<Notice>) -> Gates {
    let in_vain: Vec<&str> =
        written.keys().map(String::as_str).filter(|gate| *gate != EXTERNAL_IPS_GATE).collect();
    if !in_vain.is_empty() {
        notices.push(Notice::detail("Feature gates have no effect in this program", in_vain.join(", ")));
    }
    let external_ips = written.get(EXTERNAL_IPS_GATE).copied().unwrap_or(true);
    if !external_ips {
        let detail = format!("feature gate {EXTERNAL_IPS_GATE} is false");
        notices.push(Notice::info("External IPs of Services are not served", detail));
    }
    Gates { external_ips }
}
