//! The effects of single failures, in whole lives of the loop against a kernel in memory.

#[path = "lives/cleared.rs"]
mod cleared;
#[path = "lives/drains.rs"]
mod drains;
#[path = "../src/cluster/examples.rs"]
mod examples;
#[path = "lives/held_back.rs"]
mod held_back;
#[path = "lives/killed.rs"]
mod killed;
#[path = "common/life.rs"]
mod life;
#[path = "lives/many.rs"]
mod many;
#[path = "lives/others.rs"]
mod others;
#[path = "lives/pieces.rs"]
mod pieces;
#[path = "lives/purges.rs"]
mod purges;
#[path = "lives/settings.rs"]
mod settings;
#[path = "lives/surprises.rs"]
mod surprises;
#[path = "lives/unread.rs"]
mod unread;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::types::{
    AddressScope, EndpointSlice, Family, Node, NodeAddress, Protocol, Service, ServiceKey, ServicePort,
    SliceKey, SlicePort, Uid,
};
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::memory::{Fault, MemoryKernel};
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler, Work};
use kube_ipvs::reconcile::note::Note;
use kube_ipvs::state::part::Part;
use kube_ipvs::state::{Key, State, Sysctl, Timeouts, VirtualServerKey};
use life::{Life, NODE, options, supported};

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EROFS: i32 = 30;
const EINVAL: i32 = 22;

/// So long that no audit happens.
const NEVER: Duration = Duration::from_hours(10_000);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The n-th Service, with one port.
fn service(number: u16) -> Service {
    let [high, low] = number.to_be_bytes();
    Service {
        cluster_ips: vec![[10, 96, high, low].into()],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(ServiceKey::new("default", format!("s{number}")))
    }
}

/// The n-th Service's slice, with these endpoints.
fn slice(number: u16, endpoints: &[&str]) -> EndpointSlice {
    let endpoint = |address: &&str| examples::endpoint(ip(address));
    EndpointSlice {
        key: SliceKey::new("default", format!("s{number}")),
        service: ServiceKey::new("default", format!("s{number}")),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered_nanoseconds: Some(i64::from(number)),
    }
}

fn appears(number: u16) -> [Event; 2] {
    [
        Event::Service(Change::Upsert(service(number))),
        Event::Slice(Change::Upsert(slice(number, &["10.244.0.1", "10.244.0.2"]))),
    ]
}

/// The complete sets of a cluster with this many Services.
fn cluster(count: u16) -> [Event; 3] {
    let slices = (0..count).map(|number| slice(number, &["10.244.0.1", "10.244.0.2"])).collect();
    [
        Event::Service(Change::Replace((0..count).map(service).collect())),
        Event::Slice(Change::Replace(slices)),
        Event::Node(Change::Replace(vec![])),
    ]
}

/// A life whose kernel has everything that this many Services ask for.
fn settled(count: u16, audit_period: Duration) -> Life {
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, audit_period);
    life.feed(cluster(count));
    life.settle();
    life
}

fn remove_device(kernel: &MemoryKernel) {
    kernel.meddle(|state| {
        state.device = false;
        // The kernel removes the addresses with the device.
        state.addresses.clear();
    });
}

fn flush_ruleset(kernel: &MemoryKernel) {
    kernel.meddle(|state| {
        state.rules.clear();
        state.elements.clear();
    });
}

fn flush_addresses(kernel: &MemoryKernel) {
    kernel.meddle(|state| state.addresses.clear());
}

fn clear_ipvs(kernel: &MemoryKernel) {
    kernel.meddle(|state| state.virtual_servers.clear());
}

#[test]
fn a_change_that_finds_no_device_or_table_has_everything_made_again() {
    for remove in [remove_device, flush_ruleset] {
        let mut life = settled(20, NEVER);
        let before = life.kernel.state();
        remove(&life.kernel);
        life.feed(appears(20));
        life.settle();
        let mut after = life.kernel.state();
        let new: Vec<Key> = after.keys().filter(|key| !before.contains(key)).collect();
        assert_eq!(new.len(), 3, "an element, a virtual server and an address: {new:?}");
        for key in new {
            after.copy(&key, &before);
        }
        let missing: Vec<Key> = before.keys().filter(|key| !after.same(&before, key)).collect();
        assert_eq!(missing, []);
        assert!(life.reconciler.failures().is_empty());
    }
}

#[test]
fn what_everything_stands_on_is_missed_without_any_change() {
    for (remove, limit) in [
        (remove_device as fn(&MemoryKernel), Duration::from_secs(11)),
        (flush_ruleset, Duration::from_secs(11)),
        // Something remade is there, so its content is read piece by piece.
        (MemoryKernel::remake_device, Duration::from_secs(15)),
        (MemoryKernel::remake_tables, Duration::from_secs(15)),
        (clear_ipvs, Duration::from_secs(11)),
        (flush_addresses, Duration::from_secs(11)),
    ] {
        // So many Services that a round of the audit takes a minute, and the foundations have just been read.
        let mut life = settled(3000, Duration::from_secs(1));
        while !life.reconciler.take_notes().iter().any(|note| matches!(note, Note::AuditRound)) {
            life.step();
        }
        life.pass(Duration::from_secs(20));
        let before = life.kernel.state();
        remove(&life.kernel);
        let gone = life.now;
        while life.kernel.state() != before {
            life.step();
            assert!(life.now - gone < limit, "still not repaired after {:?}", life.now - gone);
        }
    }
}

#[test]
fn what_cannot_be_read_of_one_family_keeps_nothing_of_the_other_from_being_repaired() {
    let mut life = settled(100, Duration::from_secs(1));
    life.pass(Duration::from_mins(1));
    let before = life.kernel.state();
    // Removed exactly when it is looked for, so that nothing else reads the tables first.
    let mut is_noticed = false;
    while !is_noticed {
        match life.reconciler.next(life.now) {
            Next::Work(work) => {
                is_noticed = matches!(work, Work::Foundations(_));
                if is_noticed {
                    flush_ruleset(&life.kernel);
                }
                life.work(&work);
            }
            Next::Wait(until) => life.now = until.expect("the audit").max(life.now),
        }
    }
    life.kernel.set_unreadable([Part::Table(Family::V6)]);
    life.pass(Duration::from_secs(5));
    let now = life.kernel.state();
    assert!(now.rules.contains_key(&Family::V4) && now.elements.is_superset(&before.elements));
    assert!(life.reconciler.is_settled(Family::V4));
    assert!(!life.reconciler.is_settled(Family::V6));
    life.kernel.set_unreadable([]);
    life.pass(Duration::from_mins(2));
    assert!(life.kernel.state().rules.contains_key(&Family::V6));
    assert!(life.reconciler.is_settled(Family::V6));
}

#[test]
fn a_device_that_is_gone_is_made_again_while_ipvs_cannot_be_read() {
    let ipvs = Family::ALL.map(Part::VirtualServers).into_iter().chain([Part::Timeouts]);
    let mut life = settled(3000, Duration::from_secs(1));
    life.pass(Duration::from_mins(1));
    life.kernel.set_unreadable(ipvs);
    let before = life.kernel.state();
    remove_device(&life.kernel);
    life.pass(Duration::from_secs(11));
    assert!(life.kernel.state() == before);
}

/// A module that is removed and loaded again starts empty, with default parameters.
#[test]
fn what_an_ipvs_that_is_loaded_again_forgot_is_set_before_its_virtual_servers_are_all_back() {
    let mut life = settled(3000, Duration::from_secs(1));
    life.pass(Duration::from_mins(1));
    let before = life.kernel.state();
    clear_ipvs(&life.kernel);
    life.kernel.meddle(|state| {
        state.sysctls.insert(Sysctl::VsConntrack, "0".into());
        state.timeouts = Timeouts::default();
    });
    let gone = life.now;
    let settings = |state: &State| (state.sysctls.clone(), state.timeouts);
    while settings(&life.kernel.state()) != settings(&before) {
        life.step();
        assert!(life.now - gone < Duration::from_secs(13), "{:?}", life.kernel.state().sysctls);
    }
    while life.kernel.state() != before {
        life.step();
        assert!(life.now - gone < Duration::from_secs(14));
    }
}

/// Does or waits for what comes next, which takes and costs this much. Returns whether the kernel was read.
fn step_at_cost(life: &mut Life, time: Duration, processor: Duration) -> bool {
    match life.reconciler.next(life.now) {
        Next::Work(work) => {
            life.reconciler.spent(processor);
            life.work_for(&work, time);
            matches!(work, Work::Read(_))
        }
        Next::Wait(until) => {
            life.now = until.expect("the audit").max(life.now);
            false
        }
    }
}

/// A look that costs a millisecond takes 200 where many processes want the processor.
#[test]
fn what_is_damaged_on_a_busy_node_is_found_as_soon_as_on_others() {
    let mut life = settled(3, Duration::from_secs(1));
    let before = life.kernel.state();
    life.kernel.meddle(|state| {
        state.addresses.pop_first();
    });
    let begun = life.now;
    while life.kernel.state() != before {
        step_at_cost(&mut life, Duration::from_millis(200), Duration::from_millis(1));
        assert!(life.now < begun + Duration::from_secs(30));
    }
}

/// There the audit rests for minutes after each look.
#[test]
fn where_looks_cost_much_an_emptied_ipvs_is_missed_as_soon_as_elsewhere() {
    let cost = Duration::from_millis(100);
    let mut life = settled(3000, Duration::from_secs(1));
    while !step_at_cost(&mut life, cost, cost) {}
    let before = life.kernel.state();
    clear_ipvs(&life.kernel);
    let gone = life.now;
    while life.kernel.state() != before {
        step_at_cost(&mut life, cost, cost);
        assert!(life.now - gone < Duration::from_secs(20), "{:?}", life.now - gone);
    }
}

#[test]
fn a_device_that_cannot_be_made_is_no_small_matter() {
    let mut life = settled(3, NEVER);
    remove_device(&life.kernel);
    life.kernel
        .set_faults(Some(Box::new(|step| matches!(step, Step::AddDevice).then_some(Fault::Refuse(EEXIST)))));
    life.feed(appears(3));
    life.pass(Duration::from_mins(5));
    for family in Family::ALL {
        assert!(!life.reconciler.is_settled(family), "{family}");
    }
    assert!(life.reconciler.failures().contains_key(&Key::Device));
    life.kernel.set_faults(None);
    life.pass(Duration::from_mins(2));
    life.settle();
    assert_eq!(life.kernel.state().addresses.len(), 4);
}

fn node(name: &str, address: &str) -> Node {
    let (name, addresses) = (name.into(), vec![ip(address)]);
    Node { name, addresses, zone: None, pod_cidrs: vec![], eligible: true }
}

/// Whether this event makes the loop look at nodes again.
fn is_news_of_nodes(life: &mut Life, event: Event) -> bool {
    life.reconciler.take_notes();
    life.feed([event]);
    life.reconciler.take_notes().iter().any(|note| matches!(note, Note::NodeChanged))
}

/// Nodes update their objects all the time.
#[test]
fn another_node_is_looked_at_again_where_its_addresses_are_others() {
    let options = ProxyOptions { watch_all_nodes: true, ..options() };
    let mut life = Life::at_pace(options, MemoryKernel::default(), Duration::ZERO, NEVER);
    life.feed(cluster(1));
    life.feed([Event::OtherNode(Change::Replace(vec![node("there", "192.168.0.2")]))]);
    life.settle();
    for (address, is_news) in [("192.168.0.2", false), ("192.168.0.3", true), ("192.168.0.3", false)] {
        let event = Event::OtherNode(Change::Upsert(node("there", address)));
        assert_eq!(is_news_of_nodes(&mut life, event), is_news, "{address}");
    }
    let there = life.reconciler.cluster().other_node("there");
    assert_eq!(there, Some(&[ip("192.168.0.3")][..]));
}

#[test]
fn the_own_node_is_looked_at_again_where_it_says_something_else() {
    let mut life = settled(1, NEVER);
    let first = node(NODE, "192.168.0.2");
    let tainted = Node { eligible: false, ..first.clone() };
    for (node, is_news) in [(&first, true), (&first, false), (&tainted, true), (&tainted, false)] {
        let event = Event::Node(Change::Upsert(node.clone()));
        assert_eq!(is_news_of_nodes(&mut life, event), is_news, "{node:?}");
    }
    assert_eq!(life.reconciler.cluster().node(), Some(&tainted));
}

/// The trigger times of the changes that the first reported sync of IPv4 wrote.
fn synced_triggers(life: &mut Life) -> Option<Vec<i64>> {
    life.reconciler.take_notes().into_iter().find_map(|note| match note {
        Note::Synced { family: Family::V4, triggered_nanoseconds } => Some(triggered_nanoseconds),
        _ => None,
    })
}

#[test]
fn a_sysctl_that_may_not_be_written_is_done_without() {
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, NEVER);
    life.kernel.set_faults(Some(Box::new(|step| match step {
        Step::SetSysctl(Sysctl::VsConntrack | Sysctl::Ipv4Forward, _) => None,
        Step::SetSysctl(..) | Step::SetTimeouts(_) => Some(Fault::Refuse(EROFS)),
        _ => None,
    })));
    life.feed(cluster(1));
    life.pass(Duration::from_secs(1));
    life.reconciler.take_notes();
    life.feed(appears(7));
    life.pass(Duration::from_secs(1));
    assert_eq!(synced_triggers(&mut life), Some(vec![7]));
    let failing = life.reconciler.failures();
    assert!(!failing.is_empty() && failing.keys().all(|key| matches!(key, Key::Sysctl(_) | Key::Timeouts)));
}

#[test]
fn a_sysctl_that_is_set_is_told_with_what_it_was() {
    let mut life = settled(1, Duration::from_secs(1));
    life.kernel.meddle(|state| _ = state.sysctls.insert(Sysctl::VsConntrack, "0".into()));
    let mut changed = Vec::new();
    let end = life.now + Duration::from_mins(1);
    while life.now < end {
        life.step();
        changed.extend(life.reconciler.take_notes().into_iter().filter_map(|note| match note {
            Note::SysctlChanged { sysctl, before, after } => Some((sysctl, before, after)),
            _ => None,
        }));
    }
    assert_eq!(changed, [(Sysctl::VsConntrack, Some("0".to_owned()), "1".to_owned())]);
}

/// Without these two parameters nothing is masqueraded, or forwarded.
#[test]
fn a_sysctl_that_forwarding_needs_is_not_done_without() {
    for needed in [Sysctl::VsConntrack, Sysctl::Ipv4Forward] {
        let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, NEVER);
        life.kernel.set_faults(Some(Box::new(move |step| {
            matches!(step, Step::SetSysctl(sysctl, _) if *sysctl == needed).then_some(Fault::Refuse(EROFS))
        })));
        life.feed(cluster(1));
        life.pass(Duration::from_secs(1));
        assert!(Family::ALL.iter().all(|family| !life.reconciler.is_settled(*family)), "{needed}");
    }
}

/// As on a kernel without `CONFIG_IP_VS_NFCT`.
#[test]
fn a_sysctl_that_forwarding_needs_and_the_kernel_lacks_is_not_done_without() {
    for needed in [Sysctl::VsConntrack, Sysctl::Ipv4Forward] {
        let missing = BTreeSet::from([needed, Sysctl::VsConnReuseMode, Sysctl::VsExpireNodestConn]);
        let supported = Supported { missing: missing.clone(), ..supported() };
        let reconciler = Reconciler::new(options(), NODE.into(), supported, Duration::ZERO, NEVER);
        let mut life = Life { reconciler, kernel: MemoryKernel::default(), now: Instant::now() };
        life.kernel.set_faults(Some(Box::new(move |step| match step {
            Step::SetSysctl(sysctl, _) if missing.contains(sysctl) => Some(Fault::Refuse(ENOENT)),
            _ => None,
        })));
        life.feed(cluster(1));
        life.pass(Duration::from_secs(1));
        assert!(Family::ALL.iter().all(|family| !life.reconciler.is_settled(*family)), "{needed}");
        let failing = life.reconciler.failures();
        assert!(failing.keys().eq([&Key::Sysctl(needed)]), "{failing:?}");
        assert!(failing[&Key::Sysctl(needed)].text.contains("No such file"), "{failing:?}");
    }
}

#[test]
fn a_virtual_server_that_is_to_be_left_alone_is_forgotten() {
    let options =
        ProxyOptions { exclude_cidrs: vec!["10.96.0.0/24".parse().expect("a network")], ..options() };
    let mut life = Life::at_pace(options, MemoryKernel::default(), Duration::ZERO, NEVER);
    life.feed(cluster(2));
    life.settle();
    // One endpoint drains, and a write for the other Service fails.
    let first = VirtualServerKey { address: ip("10.96.0.0"), protocol: Protocol::Tcp, port: 80 };
    for real in life.kernel.state().virtual_servers[&first].real_servers.keys() {
        life.kernel.set_connections(first, *real, 1);
    }
    life.kernel.set_faults(Some(Box::new(move |step| {
        matches!(step, Step::AddRealServer(key, ..) if *key != first).then_some(Fault::Refuse(EINVAL))
    })));
    life.feed([
        Event::Slice(Change::Upsert(slice(0, &["10.244.0.1"]))),
        Event::Slice(Change::Upsert(slice(1, &["10.244.0.9"]))),
    ]);
    life.pass(Duration::from_millis(10));
    assert_eq!(life.reconciler.draining(), 3, "and the two that the other one had");
    assert!(!life.reconciler.failures().is_empty());

    for number in 0..2 {
        life.feed([Event::Service(Change::Delete(service(number).key))]);
    }
    life.pass(Duration::from_millis(10));
    assert_eq!(life.reconciler.draining(), 0);
    assert!(life.reconciler.failures().is_empty(), "{:?}", life.reconciler.failures());
    assert!(life.kernel.state().virtual_servers.contains_key(&first), "it is not removed");
    let end = life.now + Duration::from_mins(1);
    while life.now < end {
        match life.reconciler.next(life.now) {
            Next::Work(work @ Work::Count(_)) => panic!("{work:?} of what is left alone"),
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => life.now = until.unwrap_or(end),
        }
    }
}

/// Whether the notes report something that waits to be written, and something that was written.
fn waited_and_synced(notes: &[Note]) -> (bool, bool) {
    let waited = notes.iter().any(|note| matches!(note, Note::Queued(_)));
    (waited, notes.iter().any(|note| matches!(note, Note::Synced { .. })))
}

/// By this, health knows how long the changes that the node asks for have been waiting.
#[test]
fn a_change_of_the_node_waits_to_be_written_if_it_asks_for_anything() {
    let mut life = settled(1, NEVER);
    life.reconciler.take_notes();
    let address = |address: &str, interface: &str, scope| NodeAddress {
        address: ip(address),
        interface: interface.into(),
        scope,
    };
    let loopback = address("127.0.0.9", "lo", AddressScope::Host);
    let own = address("192.168.0.1", "eth0", AddressScope::Global);
    let service_address = address("10.96.0.0", "kube-bridge", AddressScope::Host);
    for (addresses, expected) in [
        (vec![loopback.clone()], (false, false)),
        // Masquerading may use this address: a setting changes.
        (vec![loopback.clone(), own.clone()], (true, true)),
        // The service address is on another device, so it is not put on ours: what a Service asks for changes.
        (vec![loopback, own, service_address], (true, true)),
    ] {
        let text = format!("{addresses:?}");
        life.feed([Event::NodeAddresses(addresses.into_iter().collect())]);
        assert_eq!(waited_and_synced(&life.settle()), expected, "{text}");
    }
}

#[test]
fn answers_that_are_lost_each_time_do_not_keep_everything_else_waiting() {
    let mut life = settled(20, NEVER);
    life.kernel.take_written();
    life.reconciler.take_notes();
    // The request gets lost: if only the answer did, the next read would find what is wanted.
    life.kernel.set_faults(Some(Box::new(|step| {
        matches!(step, Step::AddVirtualServer(..)).then_some(Fault::LoseRequest)
    })));
    life.feed(appears(20));
    let mut attempts = 0;
    let end = life.now + Duration::from_mins(10);
    let mut told = Vec::new();
    while life.now < end {
        match life.reconciler.next(life.now) {
            Next::Work(work) => {
                attempts += u32::from(matches!(work, Work::Apply(_)));
                life.work(&work);
            }
            Next::Wait(due) => life.now = due.map_or(end, |due| due.max(life.now)),
        }
        told.extend(life.reconciler.take_notes());
    }
    assert!((5..=30).contains(&attempts), "{attempts} attempts in ten minutes");
    let told: Vec<_> = told
        .iter()
        .filter_map(|note| match note {
            Note::Refused { key, text, .. } => Some(format!("{key}: {text}")),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["virtual server TCP 10.96.0.20:80: the kernel's answer was lost"]);
    life.kernel.set_faults(None);
    life.settle();
    assert!(life.kernel.state().virtual_servers.contains_key(&VirtualServerKey {
        address: ip("10.96.0.20"),
        protocol: Protocol::Tcp,
        port: 80
    }));
}

/// Within one second, a Service is replaced by another one of the same name: nothing of it goes away in between.
#[test]
fn a_service_that_is_made_anew_as_it_was_is_not_written_again() {
    let mut life = settled(2, NEVER);
    let before = life.kernel.state();
    let anew = Service { uid: Uid::parse("0c5a7bde-f012-4034-8967-89abcdef0100"), ..service(1) };
    life.feed([Event::Service(Change::Upsert(anew.clone()))]);
    let notes = life.settle();
    assert!(!notes.iter().any(|note| matches!(note, Note::Wrote { .. })), "{notes:?}");
    assert_eq!(life.kernel.state(), before);
    assert_eq!(life.reconciler.cluster().service(&anew.key), Some(&anew), "Events are about the new one");
}

#[test]
fn a_slice_that_comes_again_says_nothing_about_how_long_changes_take() {
    let mut life = settled(1, NEVER);
    let port = |name: &str, port| SlicePort { name: name.into(), protocol: Protocol::Tcp, port };
    let ports = |number| EndpointSlice {
        ports: vec![port("web", 8080), port("", 8081), port("admin", 8082)],
        ..slice(number, &["10.244.0.1"])
    };
    life.feed([Event::Slice(Change::Upsert(ports(0)))]);
    life.pass(Duration::from_secs(1));
    life.reconciler.take_notes();
    // The same slice, with its ports in another order; and a new one.
    life.feed([Event::Slice(Change::Upsert(ports(0)))]);
    life.feed(appears(7));
    life.pass(Duration::from_secs(1));
    assert_eq!(synced_triggers(&mut life), Some(vec![7]));
}
