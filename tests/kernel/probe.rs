//! The look at the kernel before the first write.

use kube_ipvs::kernel::linux::LinuxKernel;

use crate::build::saved;
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] =
    lab::tests![the_probe_changes_nothing, without_the_capability_the_probe_says_so];

fn the_probe_changes_nothing() {
    let links = shell("ip -br link");
    LinuxKernel::open().expect("the lab's kernel has all that is needed");
    assert_eq!(shell("ip -br link"), links);
    assert_eq!(saved(), Vec::<String>::new());
    assert_eq!(shell("nft list ruleset"), "");
}

fn without_the_capability_the_probe_says_so() {
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).expect("capabilities can be dropped");
    let error = LinuxKernel::open().err().expect("it may not").to_string();
    let (head, reason) = error.split_once(": ").expect("a head and a reason");
    assert!(head.starts_with("cannot use this kernel, "), "{error}");
    assert!(reason.starts_with("no permission to change its network: run as root"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
