//! What is wanted whatever the cluster's objects are: the device, kernel parameters, timeouts, the fixed rules.

use std::collections::BTreeSet;

use crate::cluster::types::Family;
use crate::options::ProxyOptions;
use crate::state::{RuleSettings, Rules, State, Sysctl};

/// What the running kernel can do, as found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supported {
    /// The families whose addresses the kernel knows.
    pub families: BTreeSet<Family>,
    /// The kernel's version, major and minor.
    pub kernel: (u32, u32),
}

/// The wanted settings.
pub(super) fn wanted(options: &ProxyOptions, supported: &Supported) -> State {
    let mut state = State { device: true, timeouts: options.timeouts, ..State::default() };
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
    for &family in &supported.families {
        let pod_network =
            options.cluster_cidrs.iter().find(|network| Family::of(network.addr()) == family).copied();
        state.rules.insert(
            family,
            Rules::Intact(RuleSettings {
                masquerade_mark: options.masquerade_mark,
                masquerade_all: options.masquerade_all,
                pod_network,
            }),
        );
    }
    state
}
