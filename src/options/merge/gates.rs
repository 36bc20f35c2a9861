//! Feature gates: one changes what a Service means, the others concern kube-proxy itself.

use std::collections::BTreeMap;

use crate::options::EXTERNAL_IPS_GATE;
use crate::options::settings::Notice;

/// The gates that have an effect here.
pub(super) struct Gates {
    pub(super) external_ips: bool,
}

/// Reads the gates, and adds notices. An unknown gate is not an error, since the complete list is not known here.
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
