//! Reading back: by key, large objects, and while others write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Foundations, Kernel, Outcome, Selection, Witnesses};
use kube_ipvs::state::{
    Address, Element, Key, RealServerKey, RealServers, RuleSettings, Rules, State, VirtualServer,
    VirtualServerKey,
};

use crate::addresses::{V4, V6, with_addresses};
use crate::build::{address, kernel, must, read_virtual_servers, real, server, steps, tcp, weight};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    what_everything_stands_on_is_there_or_not,
    keys_are_read_one_by_one,
    elements_and_rules_are_read_by_key,
    large_virtual_servers_are_read_whole,
    answers_are_complete_while_others_write
];

fn keys_are_read_one_by_one() {
    let mut kernel = with_addresses();
    let (here, absent) = (tcp(V4, 53), tcp(V4, 54));
    let settings = server(&here, "rr", 0, 0);
    must(
        &mut kernel,
        [
            Step::AddVirtualServer(here, settings.clone()),
            Step::AddRealServer(here, real("10.1.0.1", 53), weight(1)),
            Step::AddVirtualServer(tcp(V6, 53), server(&tcp(V6, 53), "rr", 0, 0)),
        ],
    );
    let keys = [Key::VirtualServer(here), Key::VirtualServer(absent), Key::Address(address(V4))];
    let state = kernel.read(&Selection::Keys(keys.into())).expect("the keys");
    let expected = State {
        virtual_servers: BTreeMap::from([(
            here,
            VirtualServer {
                real_servers: RealServers::from([(real("10.1.0.1", 53), weight(1))]),
                ..settings
            },
        )]),
        addresses: BTreeMap::from([(address(V4), Address::wanted(address(V4)))]),
        ..State::default()
    };
    assert_eq!(state, expected);
    assert_eq!(kernel.list_virtual_servers().expect("the list"), BTreeSet::from([here, tcp(V6, 53)]));
    assert_eq!(kernel.read(&Selection::Keys(BTreeSet::new())).expect("nothing"), State::default());
}

/// The elements and rules asked for are picked from the whole table, which holds more.
fn elements_and_rules_are_read_by_key() {
    let mut kernel = kernel();
    let settings =
        RuleSettings { masquerade_mark: 0x4000, masquerade_all: false, inside: None, node_address: None };
    let here = [V4, V6].map(|vip| Element::ClusterAddress(address(vip)));
    for element in here {
        let other = Element::Hairpin(element.address().expect("an address"));
        must(&mut kernel, [Step::InstallRules(element.family(), settings.clone(), vec![element, other])]);
    }
    let mut read = |keys: BTreeSet<Key>| kernel.read(&Selection::Keys(keys)).expect("the keys");
    let absent = Element::ExternalAddress(address(V4));
    let keys = here.into_iter().chain([absent]).map(Key::Element).collect();
    assert_eq!(read(keys), State { elements: here.into(), ..State::default() });
    for family in Family::ALL {
        let rules = BTreeMap::from([(family, Rules::Intact(settings.clone()))]);
        assert_eq!(read([Key::Rules(family)].into()), State { rules, ..State::default() });
    }
}

/// More real servers than fit into one of the kernel's datagrams, beside virtual servers without any.
fn large_virtual_servers_are_read_whole() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let (large, empty) = (tcp("10.96.0.1", 80), tcp("10.96.0.2", 80));
    must(&mut kernel, [large, empty].map(|key| Step::AddVirtualServer(key, server(&key, "rr", 0, 0))));
    let reals: Vec<RealServerKey> =
        (0..1000_u32).map(|n| real(&format!("10.1.{}.{}", n / 250, n % 250 + 1), 80)).collect();
    let outcomes =
        kernel.apply(&steps(reals.iter().map(|real| Step::AddRealServer(large, *real, weight(1)))));
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    let read = read_virtual_servers(&mut ipvs);
    assert_eq!(
        read[&large].real_servers.keys().copied().collect::<BTreeSet<_>>(),
        reals.into_iter().collect()
    );
    assert_eq!(read[&empty].real_servers, RealServers::default());
}

/// Ends the writer, whatever happens to the reader.
struct Done<'a>(&'a AtomicBool);
impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody else constantly adds and removes while we read: an answer may be an error, but what exists all the time is
/// never missing from it.
fn answers_are_complete_while_others_write() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    must(&mut kernel, [Step::AddDevice]);
    let stable: BTreeSet<VirtualServerKey> =
        (1..=1500_u16).map(|n| tcp(&format!("10.96.{}.{}", n / 250, n % 250 + 1), 80)).collect();
    // IPv6, where the kernel lists new addresses before older ones.
    let vip = |key: &VirtualServerKey| address(&format!("fd00::{}", key.address));
    let make = |key: &VirtualServerKey| {
        [Step::AddVirtualServer(*key, server(key, "rr", 0, 0)), Step::AddAddress(vip(key))]
    };
    assert!(
        kernel.apply(&steps(stable.iter().flat_map(make))).iter().all(|outcome| *outcome == Outcome::Done)
    );

    let done = AtomicBool::new(false);
    let (mut complete, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // The new thread is in the same namespace.
        let writer = scope.spawn(|| {
            let mut kernel = LinuxKernel::open().expect("the lab's kernel");
            let mut rounds: u64 = 0;
            while !done.load(Ordering::Relaxed) {
                let key = |n| tcp(&format!("10.99.{}.{n}", rounds % 200), 80);
                let add = kernel.apply(&steps((1..=40).map(key).flat_map(|key| make(&key))));
                std::thread::sleep(Duration::from_millis(rounds % 4));
                let remove = (1..=40).map(key);
                let remove =
                    remove.flat_map(|key| [Step::DeleteAddress(vip(&key)), Step::DeleteVirtualServer(key)]);
                let remove = kernel.apply(&steps(remove));
                assert!(add.iter().chain(&remove).all(|outcome| *outcome == Outcome::Done));
                std::thread::sleep(Duration::from_millis(30 * (rounds % 3)));
                rounds += 1;
            }
            rounds
        });
        let reader = Done(&done);
        for _ in 0..60 {
            match ipvs.list() {
                Ok(list) => {
                    complete += 1;
                    assert_eq!(stable.iter().find(|key| !list.contains_key(key)), None, "missing");
                }
                Err(_) => refused += 1,
            }
            match kernel.read(&Selection::Addresses(Family::V6)) {
                Ok(state) => {
                    complete += 1;
                    let missing =
                        |key: &&VirtualServerKey| !state.addresses.get(&vip(key)).is_some_and(|a| a.routed);
                    assert_eq!(stable.iter().find(missing), None, "missing");
                }
                Err(_) => refused += 1,
            }
        }
        drop(reader);
        let rounds = writer.join().expect("the writer");
        println!("  {complete} complete answers, {refused} errors, during {rounds} rounds of changes");
        assert!(complete > 0 && rounds > 10);
    });
}

/// [`Foundations`] that could all be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    device: Option<u32>,
    tables: BTreeMap<Family, Option<u64>>,
    virtual_server: bool,
    addresses: BTreeMap<IpAddr, bool>,
}

impl Found {
    fn of(Foundations { device, tables, virtual_server, addresses }: Foundations) -> Self {
        let tables = tables.into_iter().map(|(family, table)| (family, table.expect("a table or none")));
        let addresses =
            addresses.into_iter().map(|(address, is_there)| (address, is_there.expect("a route or none")));
        Self {
            device: device.expect("a device or none"),
            tables: tables.collect(),
            virtual_server: virtual_server.expect("a virtual server or none"),
            addresses: addresses.collect(),
        }
    }
}

fn what_everything_stands_on_is_there_or_not() {
    let mut kernel = kernel();
    let addresses = [V4, V6].map(address);
    let mut found = |port: Option<u16>| {
        let virtual_server = port.map(|port| tcp("10.96.0.1", port));
        Found::of(kernel.foundations(&Witnesses { virtual_server, addresses: addresses.into() }))
    };
    let nothing = Found {
        device: None,
        tables: Family::ALL.map(|family| (family, None)).into(),
        virtual_server: false,
        addresses: BTreeMap::new(),
    };
    assert_eq!(found(Some(80)), nothing);
    shell(&format!(
        "ip link add kube-ipvs0 type dummy; nft add table ip kube-ipvs; nft add table ip6 kube-ipvs; \
         ip addr add {V4}/32 dev kube-ipvs0; ip addr add {V6}/128 dev kube-ipvs0; ipvsadm -A -t 10.96.0.1:80 -s rr",
    ));
    // The kernel adds the route of an IPv6 address a little later.
    while found(None).addresses.values().any(|is_there| !is_there) {
        sleep(Duration::from_millis(10));
    }
    let all = found(Some(80));
    assert!(
        all.device.is_some() && all.tables.values().all(Option::is_some) && all.virtual_server,
        "{all:?}"
    );
    assert_eq!(all.addresses.len(), 2);
    assert_eq!(found(None), Found { virtual_server: false, ..all.clone() });
    assert_eq!(found(Some(81)), Found { virtual_server: false, ..all.clone() });
    shell("nft delete table ip kube-ipvs");
    let mut rest = all.clone();
    rest.tables.insert(Family::V4, None);
    assert_eq!(found(Some(80)), rest);
    // An address without its route receives nothing; nor does one that is on another device.
    shell(&format!("ip route del local {V4} dev kube-ipvs0 table local"));
    shell(&format!("ip addr del {V6}/128 dev kube-ipvs0; ip addr add {V6}/128 dev lo"));
    rest.addresses = addresses.map(|address| (address, false)).into();
    assert_eq!(found(Some(80)), rest);
    shell(&format!("ip addr del {V6}/128 dev lo"));
    // A recreated object is a different one.
    shell("nft add table ip kube-ipvs; ip link delete kube-ipvs0; ip link add kube-ipvs0 type dummy");
    let anew = found(Some(80));
    assert!(anew.device.is_some() && anew.device != all.device, "{anew:?}");
    assert_eq!(anew.tables[&Family::V6], all.tables[&Family::V6]);
    assert!(
        anew.tables[&Family::V4].is_some() && anew.tables[&Family::V4] != all.tables[&Family::V4],
        "{anew:?}"
    );
    shell("nft flush ruleset; ip link delete kube-ipvs0; ipvsadm --clear");
    assert_eq!(found(Some(80)), nothing);
}
