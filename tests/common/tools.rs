//! What administrators' tools show of the kernel, as text that can be compared.

use std::time::Duration;

use crate::lab::shell;
use crate::proxy::eventually;

/// `ipvsadm -ln` without its header, with single spaces.
pub(crate) fn ipvsadm() -> String {
    let squeeze = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let indent = if words.first() == Some(&"->") { "  " } else { "" };
        format!("{indent}{}\n", words.join(" "))
    };
    shell("ipvsadm -ln").lines().skip(3).map(squeeze).collect()
}

/// All kernel state that a service proxy could change.
pub(crate) fn kernel() -> String {
    shell(
        "ipvsadm -Sn; ipvsadm -l --timeout; ip addr; ip route show table local; ip -6 route show table local
         nft list ruleset; sysctl net.ipv4.vs net.ipv4.ip_forward net.ipv4.conf.all",
    )
}

/// Waits until the condition holds; panics if it does not.
pub(crate) fn wait_for(what: &str, limit_seconds: u64, is_so: impl FnMut() -> bool) {
    assert!(eventually(Duration::from_secs(limit_seconds), is_so), "{what}\n{}", ipvsadm());
}
