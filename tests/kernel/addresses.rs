//! Addresses on the device and their routes, as `ip` shows and makes them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Kernel, Outcome, Selection};
use kube_ipvs::state::{Address, Key};

use crate::build::{address, errno, kernel, must, steps};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    addresses_are_as_kube_proxy_makes_them,
    addresses_are_changed_in_place,
    routes_are_put_back,
    routes_are_put_back_under_a_guard,
    addresses_and_routes_of_others_are_left_out
];

pub(crate) const V4: &str = "10.96.0.10";
pub(crate) const V6: &str = "fd00:10:96::a";

/// A kernel with the device and both addresses.
pub(crate) fn with_addresses() -> LinuxKernel {
    let mut kernel = kernel();
    must(&mut kernel, [Step::AddDevice, Step::AddAddress(address(V4)), Step::AddAddress(address(V6))]);
    kernel
}

fn read_addresses(kernel: &mut LinuxKernel) -> BTreeMap<IpAddr, Address> {
    let mut all = BTreeMap::new();
    for family in Family::ALL {
        all.extend(kernel.read(&Selection::Addresses(family)).expect("the addresses").addresses);
    }
    all
}

fn routes() -> String {
    shell("ip route show table local dev kube-ipvs0; ip -6 route show table local dev kube-ipvs0")
}

fn addresses_are_as_kube_proxy_makes_them() {
    let mut kernel = with_addresses();
    // Read at once, without waiting.
    let addresses = shell("ip address show dev kube-ipvs0");
    assert!(
        addresses.contains(
            "inet 10.96.0.10/32 brd 10.96.0.10 scope global kube-ipvs0\n       valid_lft forever preferred_lft forever"
        ),
        "{addresses}"
    );
    assert!(
        addresses.contains(
            "inet6 fd00:10:96::a/128 scope global nodad deprecated \n       valid_lft forever preferred_lft 0sec"
        ),
        "{addresses}"
    );
    assert!(!addresses.contains("tentative"), "{addresses}");
    assert_eq!(
        routes(),
        "local 10.96.0.10 proto kernel scope host src 10.96.0.10 \n\
         local fd00:10:96::a proto kernel metric 0 pref medium\n"
    );
    for vip in [V4, V6] {
        shell(&format!("ping -c 1 -W 2 {vip}"));
    }
    let wanted: BTreeMap<_, _> = [V4, V6].map(|vip| (address(vip), Address::wanted(address(vip)))).into();
    assert_eq!(read_addresses(&mut kernel), wanted);
    for vip in [V4, V6] {
        assert_eq!(errno(&kernel.apply(&steps([Step::AddAddress(address(vip))]))[0]), 17, "EEXIST");
    }

    must(&mut kernel, [Step::DeleteAddress(address(V4)), Step::DeleteAddress(address(V6))]);
    assert_eq!(routes(), "");
    assert_eq!(read_addresses(&mut kernel), BTreeMap::new());
    for vip in [V4, V6] {
        assert_eq!(errno(&kernel.apply(&steps([Step::DeleteAddress(address(vip))]))[0]), 99, "EADDRNOTAVAIL");
    }
}

/// As kube-proxy leaves them: preferred forever.
fn addresses_are_changed_in_place() {
    shell(
        "ip link add kube-ipvs0 type dummy
         ip address add fd00:10:96::a/128 dev kube-ipvs0
         ip address add 10.96.0.10/32 brd 10.96.0.10 dev kube-ipvs0",
    );
    let mut kernel = kernel();
    let before = read_addresses(&mut kernel);
    assert_eq!(before[&address(V6)], Address { deprecated: false, routed: true });
    assert_eq!(before[&address(V4)], Address::wanted(address(V4)));

    shell("ip monitor address route >$TMPDIR/monitor 2>&1 & echo $! >$TMPDIR/monitor.id; sleep 0.3");
    must(&mut kernel, [Step::EditAddress(address(V6)), Step::EditAddress(address(V4))]);
    let monitor = shell("sleep 0.3; kill $(cat $TMPDIR/monitor.id); cat $TMPDIR/monitor");
    assert!(monitor.contains("inet6 fd00:10:96::a/128") && !monitor.contains("Deleted"), "{monitor}");
    let wanted: BTreeMap<_, _> = [V4, V6].map(|vip| (address(vip), Address::wanted(address(vip)))).into();
    assert_eq!(read_addresses(&mut kernel), wanted);
    assert!(shell("ip -6 address show dev kube-ipvs0").contains("deprecated"));
}

fn routes_are_put_back() {
    let mut kernel = with_addresses();
    let before = routes();
    for vip in [V4, V6] {
        shell(&format!("ip route del local {vip} dev kube-ipvs0 table local"));
        let state = kernel.read(&Selection::Keys([Key::Address(address(vip))].into())).expect("the address");
        assert_eq!(
            state.addresses,
            BTreeMap::from([(address(vip), Address { routed: false, ..Address::wanted(address(vip)) })])
        );
    }
    assert_eq!(routes(), "");
    let outcomes = kernel.apply(&steps([Step::AddRoute(address(V4)), Step::AddRoute(address(V6))]));
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);
    assert_eq!(routes(), before);
    assert_eq!(read_addresses(&mut kernel).len(), 2);
    // The kernel removes the restored routes with their addresses.
    must(&mut kernel, [Step::DeleteAddress(address(V4)), Step::DeleteAddress(address(V6))]);
    assert_eq!(routes(), "");
    // An address that is not on the device gets no route.
    let outcomes = kernel.apply(&steps([Step::AddRoute(address(V6))]));
    assert_eq!(errno(&outcomes[0]), 99, "EADDRNOTAVAIL");
    assert_eq!(read_addresses(&mut kernel), BTreeMap::new());
}

/// A guard route over the whole service network: lookups of addresses without a route of their own fail with its error.
fn routes_are_put_back_under_a_guard() {
    let mut kernel = with_addresses();
    let before = routes();
    for guard in ["unreachable", "blackhole", "prohibit", "throw"] {
        shell(&format!("ip route add {guard} 10.96.0.0/12; ip -6 route add {guard} fd00:10:96::/112"));
        for vip in [V4, V6] {
            shell(&format!("ip route del local {vip} dev kube-ipvs0 table local"));
        }
        assert_eq!(routes(), "");
        let unrouted = |vip| (address(vip), Address { routed: false, ..Address::wanted(address(vip)) });
        // At the start all addresses are read, and later those of one family.
        let everything =
            kernel.read(&Selection::Everything).unwrap_or_else(|error| panic!("{guard}: {error:?}"));
        assert_eq!(everything.addresses, BTreeMap::from([V4, V6].map(unrouted)), "{guard}");
        assert_eq!(read_addresses(&mut kernel), everything.addresses, "{guard}");
        must(&mut kernel, [Step::AddRoute(address(V4)), Step::AddRoute(address(V6))]);
        assert_eq!(routes(), before, "{guard}");
        assert!(read_addresses(&mut kernel).values().all(|address| address.routed), "{guard}");
        shell(&format!("ip route del {guard} 10.96.0.0/12; ip -6 route del {guard} fd00:10:96::/112"));
    }
}

fn addresses_and_routes_of_others_are_left_out() {
    let mut kernel = with_addresses();
    // Read at once, when the route of the IPv6 address may not exist yet.
    let before = read_addresses(&mut kernel);
    assert!(before.values().all(|address| address.routed), "{before:?}");
    shell(
        "ip link add other type dummy
         ip link set other up
         ip address add 10.99.0.1/32 dev other
         ip address add fd00:99::1/128 dev other
         ip address add 10.98.0.1/24 dev kube-ipvs0
         ip address add fd00:98::1/64 dev kube-ipvs0
         ip route add local 10.97.0.0/24 dev kube-ipvs0 table local",
    );
    assert_eq!(read_addresses(&mut kernel), before);
}
