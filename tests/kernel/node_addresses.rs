//! The node's addresses, as `ip` creates them and as the monitor reports them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use kube_ipvs::cluster::types::{AddressScope, NodeAddresses};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::netlink::Protocol;
use kube_ipvs::kernel::netlink::multicast::{Heard, Multicast};
use kube_ipvs::kernel::node_addresses::{Monitor, follow};

use crate::build::{address, kernel, must};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    addresses_of_the_node_are_listed,
    changes_are_told_each_once,
    an_ipv6_address_that_gets_another_end_is_not_two,
    a_port_that_leaves_its_bridge_keeps_its_addresses,
    our_own_device_wakes_nobody,
    ignored_messages_do_not_come,
    after_an_overrun_losses_are_told_again,
    what_was_lost_is_listed_again,
    addresses_that_stay_are_always_told
];

/// Long enough for a change to be reported, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough to conclude that nothing is reported.
const QUIET: Duration = Duration::from_millis(300);

/// One text for each address: `interface address scope`.
fn words(addresses: &NodeAddresses) -> BTreeSet<String> {
    let word = |address: &kube_ipvs::cluster::types::NodeAddress| {
        let scope = match address.scope {
            AddressScope::Global => "global",
            AddressScope::Link => "link",
            AddressScope::Host => "host",
        };
        format!("{} {} {scope}", address.interface, address.address)
    };
    addresses.iter().map(word).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

/// What the monitor reports from now on.
fn told() -> Receiver<BTreeSet<String>> {
    told_by(Monitor::open().expect("a monitor"))
}

fn told_by(monitor: Monitor) -> Receiver<BTreeSet<String>> {
    let (sender, receiver) = mpsc::channel();
    // The thread ends when it has something to report after the test, or with the program.
    thread::spawn(move || follow(monitor, |addresses| sender.send(words(&addresses)).is_ok()));
    receiver
}

fn next(told: &Receiver<BTreeSet<String>>) -> BTreeSet<String> {
    told.recv_timeout(PATIENCE).expect("a change is told")
}

/// Waits for these addresses: changes that happen together may be reported one by one.
fn until(told: &Receiver<BTreeSet<String>>, wanted: &BTreeSet<String>) {
    let mut last = BTreeSet::new();
    while last != *wanted {
        last = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("told last: {last:?}, not {wanted:?}"));
    }
}

fn assert_quiet(told: &Receiver<BTreeSet<String>>) {
    assert_eq!(told.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout));
}

/// Creates an interface that is up, without the automatic link-local address, which would come a moment later.
fn interface(name: &str) {
    shell(&format!(
        "ip link add {name} type dummy
         ip link set {name} addrgenmode none
         ip link set {name} up"
    ));
}

fn addresses_of_the_node_are_listed() {
    interface("eth0");
    interface("eth1");
    shell(
        "ip address add 192.0.2.1/24 dev eth0
         ip address add 192.0.2.2/24 dev eth0
         ip address add 192.0.2.1/32 dev eth1
         ip address add 198.51.100.1 peer 198.51.100.2/32 dev eth1
         ip address add 169.254.1.1/16 dev eth1 scope link
         ip address add 2001:db8::1/64 dev eth0
         ip address add fe80::1/64 dev eth0
         ip address add 203.0.113.7/32 dev lo",
    );
    let mut kernel = kernel();
    must(&mut kernel, [Step::AddDevice]);
    for service in ["10.96.0.1", "fd00:10:96::1"] {
        must(&mut kernel, [Step::AddAddress(address(service))]);
    }
    let monitor = Monitor::open().expect("a monitor");
    assert_eq!(
        words(monitor.addresses()),
        set(&[
            "lo 127.0.0.1 host",
            "lo ::1 host",
            "lo 203.0.113.7 global",
            "eth0 192.0.2.1 global",
            "eth0 192.0.2.2 global",
            "eth0 2001:db8::1 global",
            "eth0 fe80::1 link",
            "eth1 192.0.2.1 global",
            "eth1 198.51.100.1 global",
            "eth1 169.254.1.1 link",
        ])
    );
}

fn changes_are_told_each_once() {
    interface("eth0");
    let told = told();
    let loopback = set(&["lo 127.0.0.1 host", "lo ::1 host"]);
    let with = |more: &[&str]| loopback.union(&set(more)).cloned().collect::<BTreeSet<_>>();

    shell("ip address add 192.0.2.1/24 dev eth0");
    assert_eq!(next(&told), with(&["eth0 192.0.2.1 global"]));
    shell("ip address add 2001:db8::1/64 dev eth0 nodad");
    assert_eq!(next(&told), with(&["eth0 192.0.2.1 global", "eth0 2001:db8::1 global"]));

    // The same address with another prefix or peer is the same address, until the last of them is gone.
    shell("ip address add 192.0.2.1/32 dev eth0; ip address add 192.0.2.1 peer 192.0.2.9/32 dev eth0");
    assert_quiet(&told);
    shell("ip address del 192.0.2.1/32 dev eth0; ip address del 192.0.2.1 peer 192.0.2.9/32 dev eth0");
    assert_quiet(&told);

    shell("ip link set eth0 down; ip link set eth0 name lan0; ip link set lan0 up");
    until(&told, &with(&["lan0 192.0.2.1 global"]));
    shell("ip address del 192.0.2.1/24 dev lan0");
    assert_eq!(next(&told), loopback);
    shell("ip address add 192.0.2.3/24 dev lan0");
    assert_eq!(next(&told), with(&["lan0 192.0.2.3 global"]));
    shell("ip link del lan0");
    assert_eq!(next(&told), loopback);
    assert_quiet(&told);
}

fn an_ipv6_address_that_gets_another_end_is_not_two() {
    interface("eth0");
    let told = told();
    let loopback = set(&["lo 127.0.0.1 host", "lo ::1 host"]);
    shell("ip address add fd00::5/128 dev eth0 nodad");
    assert_eq!(next(&told), set(&["lo 127.0.0.1 host", "lo ::1 host", "eth0 fd00::5 global"]));
    // The kernel reports the address with its new peer, and nothing about the old one.
    for peer in ["fd00::6", "fd00::7"] {
        shell(&format!("ip address replace fd00::5 peer {peer}/128 dev eth0"));
    }
    assert_quiet(&told);
    shell("ip address del fd00::5/128 dev eth0");
    assert_eq!(next(&told), loopback);
}

fn a_port_that_leaves_its_bridge_keeps_its_addresses() {
    interface("eth0");
    shell("ip address add 192.0.2.1/24 dev eth0; ip link add br0 type bridge; ip link set eth0 master br0");
    let told = told();
    // The kernel reports this like a link that is deleted, in another family.
    shell("ip link set eth0 nomaster");
    assert_quiet(&told);
    shell("ip address add 192.0.2.2/24 dev eth0");
    assert_eq!(
        next(&told),
        set(&["lo 127.0.0.1 host", "lo ::1 host", "eth0 192.0.2.1 global", "eth0 192.0.2.2 global"])
    );
}

fn our_own_device_wakes_nobody() {
    interface("eth0");
    let told = told();
    let mut kernel = kernel();
    must(&mut kernel, [Step::AddDevice]);
    let services = (0..500).map(|number| address(&format!("10.96.{}.{}", number / 250, 1 + number % 250)));
    must(&mut kernel, services.map(Step::AddAddress));
    must(&mut kernel, [Step::AddAddress(address("fd00:10:96::1"))]);
    assert_quiet(&told);

    shell("ip address add 192.0.2.1/24 dev eth0");
    let wanted = set(&["lo 127.0.0.1 host", "lo ::1 host", "eth0 192.0.2.1 global"]);
    assert_eq!(next(&told), wanted);

    // Somebody who renames the device makes its addresses the node's.
    shell("ip link set kube-ipvs0 name other0");
    let renamed = next(&told);
    assert_eq!(renamed.len(), wanted.len() + 501, "{renamed:?}");
    assert!(renamed.contains("other0 10.96.0.1 global"));
    shell("ip link set other0 name kube-ipvs0");
    assert_eq!(next(&told), wanted);
}

fn ignored_messages_do_not_come() {
    const NUMBER: u32 = 77;
    interface("eth0");
    shell(&format!("ip link add eth1 index {NUMBER} type dummy"));
    // RTNLGRP_IPV4_IFADDR; RTM_NEWADDR, RTM_DELADDR, and the position of the interface's index in them.
    let mut news = Multicast::join(Protocol::Route, &[5]).expect("a socket");
    let mut heard = |ignored: Option<u32>| {
        news.ignore([20, 21], ignored.map(|interface| (20, interface))).expect("a filter");
        shell(
            "for interface in eth0 eth1; do
                ip address add 192.0.2.1/32 dev $interface; ip address del 192.0.2.1/32 dev $interface
             done",
        );
        let mut count = 0;
        while let Heard::Messages(_) = news.next(false).expect("messages") {
            count += 1;
        }
        count
    };
    assert_eq!(heard(None), 4);
    assert_eq!(heard(Some(NUMBER)), 2);
    assert_eq!(heard(Some(NUMBER + 1)), 4);
    assert_eq!(heard(None), 4);
}

/// Adds the addresses from 10.0.0.1 on to an interface, by one process.
fn add_many(interface: &str, count: u32) -> BTreeSet<String> {
    let mut batch = String::new();
    let mut words = BTreeSet::new();
    for number in 0..count {
        let address = format!("10.0.{}.{}", number / 250, 1 + number % 250);
        writeln!(batch, "address add {address}/32 dev {interface}").expect("a line");
        words.insert(format!("{interface} {address} global"));
    }
    shell(&format!("ip -batch - <<'END'\n{batch}END"));
    words
}

fn after_an_overrun_losses_are_told_again() {
    interface("eth0");
    let mut news = Multicast::with_receive_buffer(Protocol::Route, &[5], 4096).expect("a socket");
    // RTM_NEWADDR and RTM_DELADDR among the messages received now.
    let mut heard = || match news.next(false).expect("messages") {
        heard @ Heard::Messages(_) => format!("{:?}", heard.messages().map(|m| m.kind).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    };
    add_many("eth0", 1000);
    assert_eq!(heard(), "Overrun");
    // Messages from before the overrun are meaningless, and would hide that more was lost after them.
    assert_eq!(heard(), "Nothing");
    shell("ip address del 10.0.0.1/32 dev eth0");
    assert_eq!([heard(), heard()], ["[21]", "Nothing"]);
    shell("ip address flush dev eth0");
    assert_eq!([heard(), heard()], ["Overrun", "Nothing"]);
}

fn what_was_lost_is_listed_again() {
    interface("eth0");
    // Nobody receives while the addresses come, and the buffer holds only a few messages.
    let monitor = Monitor::with_receive_buffer(4096).expect("a monitor");
    let mut wanted = add_many("eth0", 1000);
    wanted.extend(set(&["lo 127.0.0.1 host", "lo ::1 host"]));
    let told = told_by(monitor);
    assert_eq!(next(&told), wanted);
    assert_quiet(&told);
    shell("ip link del eth0");
    until(&told, &set(&["lo 127.0.0.1 host", "lo ::1 host"]));
}

fn addresses_that_stay_are_always_told() {
    // Addresses that come and go are listed before, between and after those that stay.
    ["eth0", "eth1", "eth2"].into_iter().for_each(interface);
    let mut stay = add_many("eth1", 1000);
    stay.extend(set(&["lo 127.0.0.1 host", "lo ::1 host"]));
    let mut round = String::new();
    for verb in ["add", "del"] {
        for interface in ["eth0", "eth1", "eth2"] {
            for number in 0..4 {
                writeln!(round, "address {verb} 192.0.2.{number}/32 dev {interface}").expect("a line");
            }
        }
    }
    let churn = format!("for round in $(seq 200); do echo '{round}'; done | ip -batch -");
    // With such a small buffer, the monitor lists all the time.
    let told = told_by(Monitor::with_receive_buffer(4096).expect("a monitor"));
    let churning = thread::spawn(move || shell(&churn));
    let mut count = 0;
    let check = |addresses: &BTreeSet<String>| {
        let lost: Vec<_> = stay.difference(addresses).take(3).collect();
        assert!(lost.is_empty(), "not told: {lost:?}");
    };
    while !churning.is_finished() {
        if let Ok(addresses) = told.recv_timeout(QUIET) {
            check(&addresses);
            count += 1;
        }
    }
    churning.join().expect("the batch");
    let mut last = None;
    while let Ok(addresses) = told.recv_timeout(QUIET) {
        check(&addresses);
        last = Some(addresses);
    }
    assert!(count > 2, "told {count} times");
    assert!(last.is_none_or(|last| last == stay), "all that came went");
}
