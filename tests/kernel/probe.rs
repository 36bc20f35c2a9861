//! The checks of the kernel before the first write.

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::kernel::{Outcome, netlink};
use kube_ipvs::state::{Element, RuleSettings};

use crate::build::{saved, tcp};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    the_probe_changes_nothing,
    who_only_reads_asks_for_nothing_that_is_not_loaded,
    rules_are_tried_and_leave_nothing,
    rules_that_are_there_are_not_tried,
    without_the_capability_the_probe_says_so
];

fn the_probe_changes_nothing() {
    let links = shell("ip -br link");
    let mut kernel = LinuxKernel::open().expect("the lab's kernel has all that is needed");
    assert_eq!(kernel.lacks_conntrack_netlink(), None);
    assert_eq!(shell("ip -br link"), links);
    assert_eq!(saved(), Vec::<String>::new());
    assert_eq!(shell("nft list ruleset"), "");
}

/// What a start tries by writing is only looked at, and what is not loaded is not loaded for this.
fn who_only_reads_asks_for_nothing_that_is_not_loaded() {
    let mut kernel = LinuxKernel::open_to_read().expect("the lab's kernel has all that is needed");
    let uses = |kernel: &mut LinuxKernel| kernel.uses_scheduler("wlc").expect("it can be asked");
    assert!(!uses(&mut kernel));
    shell("ipvsadm -A -t 203.0.113.1:80 -s rr");
    assert!(!uses(&mut kernel));
    shell("ipvsadm -A -t 203.0.113.1:81 -s wlc");
    assert!(uses(&mut kernel));
    assert_eq!(saved(), ["-A -t 203.0.113.1:80 -s rr", "-A -t 203.0.113.1:81 -s wlc"]);
    assert_eq!(shell("nft list ruleset; ip -br link show type dummy"), "");
    // As if IPVS were not loaded.
    #[expect(unsafe_code, reason = "unsafe because of other flags than this one")]
    let unshared = unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS)
    };
    unshared.expect("mount points of its own");
    shell("mount --make-rprivate /; mount -t tmpfs tmpfs /proc");
    let error = LinuxKernel::open_to_read().err().expect("it is not asked for").to_string();
    assert!(error.contains("IPVS is not loaded") && error.contains("modprobe ip_vs"), "{error}");
}

fn rules_are_tried_and_leave_nothing() {
    let mut kernel = LinuxKernel::open().expect("the lab's kernel");
    let mut tables = Tables::open().expect("a socket");
    for ours in
        ["", "nft add table ip kube-ipvs; nft add table ip6 kube-ipvs; nft add chain ip6 kube-ipvs input"]
    {
        shell(ours);
        let before = shell("nft -a list ruleset");
        for family in Family::ALL {
            assert_eq!(tables.try_rules(family), Outcome::Done, "{family}");
            assert_eq!(kernel.lacks_rules(family), None, "{family}");
            kernel.check_rules(family).expect("the lab's kernel has all that is needed");
        }
        assert_eq!(shell("nft -a list ruleset"), before);
    }
}

/// The number that grows with each transaction about nftables.
fn generation() -> u32 {
    const GET_GENERATION: u16 = 10 << 8 | 16;
    const GENERATION: u16 = 1;
    let mut socket = netlink::Socket::open(netlink::Protocol::Netfilter).expect("a socket");
    let number = socket.get(
        GET_GENERATION,
        |body| body.fixed(&[0; 4]),
        |message| Ok(message.attributes(4).get(GENERATION).and_then(netlink::Attribute::be32)),
    );
    number.expect("it can be asked").expect("there is one")
}

fn rules_that_are_there_are_not_tried() {
    let mut kernel = LinuxKernel::open().expect("the lab's kernel");
    let mut is_tried = |family| {
        let before = generation();
        kernel.check_rules(family).expect("the lab's kernel has all that is needed");
        generation() != before
    };
    let mut tables = Tables::open().expect("a socket");
    for (family, name) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        assert!(is_tried(family), "there is no table");
        let settings =
            RuleSettings { masquerade_mark: 0x4000, masquerade_all: true, inside: None, node_address: None };
        let key = tcp(if family == Family::V4 { "10.96.0.1" } else { "fd00::1" }, 80);
        let elements = vec![Element::ClusterAddress(key.address), Element::Owned(key)];
        let install = Step::InstallRules(family, settings, elements);
        assert_eq!(tables.apply(&[&install]), [Outcome::Done]);
        assert!(!is_tried(family), "the rules are there");
        shell(&format!("nft add rule {name} kube-ipvs input counter"));
        assert!(is_tried(family), "others are no proof");
    }
}

fn without_the_capability_the_probe_says_so() {
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    let mut kernel = LinuxKernel::open().expect("the lab's kernel");
    rustix::thread::set_capabilities(None, none).expect("capabilities can be dropped");
    // A missing capability says nothing about what the kernel supports.
    assert_eq!(kernel.lacks_rules(Family::V6), None);
    assert_eq!(kernel.lacks_conntrack_netlink(), None);
    let error = LinuxKernel::open().err().expect("it may not").to_string();
    let (head, reason) = error.split_once(": ").expect("a head and a reason");
    assert!(head.starts_with("cannot use this kernel, "), "{error}");
    assert!(reason.starts_with("no permission to change its network: run as root"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
