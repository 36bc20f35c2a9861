//! What is wanted regardless of the cluster's objects: the device, kernel parameters, timeouts, the fixed rules.

use std::collections::BTreeSet;

use super::node::NodeFacts;
use super::sysctls;
use crate::cluster::types::Family;
use crate::options::ProxyOptions;
use crate::state::{RuleSettings, Rules, State, Sysctl, Timeouts};

/// What the running kernel can do, as found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supported {
    /// The families that the kernel supports.
    pub families: BTreeSet<Family>,
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
    /// Kernel parameters that the kernel lacks. They are not wanted unless they are needed; setting a needed one fails
    /// for as long as it is missing.
    pub missing: BTreeSet<Sysctl>,
}

/// The wanted settings.
pub(super) fn wanted(options: &ProxyOptions, supported: &Supported, node: &NodeFacts) -> State {
    // With its own timeout of 900 s, the kernel forgets connections that both ends still have: the ends check on each
    // other after two hours at the earliest (`net.ipv4.tcp_keepalive_time`). The timeouts hold for the whole network
    // namespace: other programs' virtual servers get them too, and keep their entries of idle connections as long.
    let timeouts = match options.timeouts {
        Timeouts { tcp_seconds: 0, .. } => {
            Timeouts { tcp_seconds: options.tracked_tcp_seconds, ..options.timeouts }
        }
        timeouts => timeouts,
    };
    let mut state = State { device: true, timeouts, ..State::default() };
    for sysctl in [
        Sysctl::VsConntrack,
        Sysctl::VsExpireNodestConn,
        Sysctl::VsExpireQuiescentTemplate,
        Sysctl::Ipv4Forward,
    ] {
        state.sysctls.insert(sysctl, "1".to_owned());
    }
    // Before 5.9, mode 1 delays every reused port by a second. Since then it gives the right result, also if the port's
    // old connection went to a server that drains.
    let reuse = if supported.kernel >= (5, 9) { "1" } else { "0" };
    state.sysctls.insert(Sysctl::VsConnReuseMode, reuse.to_owned());
    state.sysctls.extend(sysctls::wanted(options));
    state.sysctls.retain(|sysctl, _| sysctl.is_needed() || !supported.missing.contains(sysctl));
    for &family in &supported.families {
        state.rules.insert(
            family,
            Rules::Intact(RuleSettings {
                masquerade_mark: options.masquerade_mark,
                masquerade_all: options.masquerade_all,
                inside: node.inside(options, family),
                node_address: node.source.filter(|_| family == Family::V4),
            }),
        );
    }
    state.elements.extend(node.numbered.iter().map(|name| crate::state::Element::Numbered(*name)));
    state
}
