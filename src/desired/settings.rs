//! What is wanted whatever the cluster's objects are: the device, kernel parameters, timeouts, the fixed rules.

use std::collections::BTreeSet;

use super::node::NodeFacts;
use super::sysctls;
use crate::cluster::types::Family;
use crate::options::ProxyOptions;
use crate::state::{RuleSettings, Rules, State, Sysctl, Timeouts};

/// What the running kernel can do, as found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supported {
    /// The families whose addresses the kernel knows.
    pub families: BTreeSet<Family>,
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
    /// Kernel parameters that it does not have: not wanted, unless they are needed. Those fail for as long.
    pub missing: BTreeSet<Sysctl>,
}

/// The wanted settings.
pub(super) fn wanted(options: &ProxyOptions, supported: &Supported, node: &NodeFacts) -> State {
    // The kernel's own 900 s forget connections that both ends still have: they look for each other after two hours at
    // the earliest (`net.ipv4.tcp_keepalive_time`). The timeouts are the network namespace's: others' virtual servers
    // get them too, and their entries of idle connections stay as long.
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
    // Before 5.9 mode 1 delays every reused port by a second; since then it is what ends up right, also when
    // the port's old connection went to a server that drains.
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
