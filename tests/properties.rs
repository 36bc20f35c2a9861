//! Whatever happens to the cluster, in whatever order, and whatever the kernel refuses or fails to answer: the kernel
//! ends up with what the cluster asks for, nothing that is in use is withdrawn on the way, and another look writes
//! nothing.

#[path = "properties/crashes.rs"]
mod crashes;
#[path = "../src/cluster/examples.rs"]
mod examples;
#[path = "common/life.rs"]
mod life;
#[path = "properties/owners.rs"]
mod owners;
#[path = "common/random.rs"]
mod random;
#[path = "properties/strange.rs"]
mod strange;

use std::collections::BTreeMap;
use std::time::Duration;

use crashes::{Killed, crashes};
use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::Cluster;
use kube_ipvs::cluster::endpoints::InSlices;
use kube_ipvs::cluster::types::{
    EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use kube_ipvs::desired::Desired;
use kube_ipvs::diff::purge::Flow;
use kube_ipvs::diff::{self, Step};
use kube_ipvs::kernel::memory::{Fault, MemoryKernel};
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Work};
use kube_ipvs::reconcile::explanation::{Explanation, RealServerState, Standing};
use kube_ipvs::reconcile::note::{Note, Verdict};
use kube_ipvs::reconcile::rehearse::rehearse;
use kube_ipvs::state::{
    Element, Key, RealServer, RealServerKey, RealServers, Scope, State, Timeouts, VirtualServer,
    VirtualServerKey, Weight,
};
use life::{Life, options, supported};
use proptest::prelude::*;
use random::{NODE, complete, event, everything, ip, node_addresses, service_key};

/// What the cluster asks for, from a desired state that saw everything at once.
fn desired(options: ProxyOptions, cluster: &Cluster) -> Desired {
    let mut desired = Desired::new(options, NODE.into(), supported());
    desired.look_at_node(cluster);
    desired.update(cluster, &cluster.services().map(|service| service.key.clone()).collect());
    desired
}

/// Asserts that the kernel holds what the cluster asks for.
fn assert_converged(life: &Life, cluster: &Cluster) {
    let desired = desired(options(), cluster);
    let keys: Scope = desired.keys().collect();
    let mut wanted = desired.select(&keys);
    let actual = life.kernel.state();
    // Draining servers may remain, and a virtual server without any real server must not exist.
    wanted.virtual_servers.retain(|key, server| {
        if key.protocol != Protocol::Udp {
            for (real, known) in
                actual.virtual_servers.get(key).into_iter().flat_map(|known| &known.real_servers)
            {
                if known.weight == Weight::Exactly(0) {
                    server.real_servers.entry(*real).or_insert(RealServer::with(Weight::DrainIfPresent));
                }
            }
        }
        !server.real_servers.is_empty()
    });
    let everything: Scope = keys.iter().cloned().chain(actual.keys()).collect();
    for key in everything {
        if let Key::VirtualServer(server) = &key
            && (is_foreign(server) && !wanted.contains(&key))
        {
            continue;
        }
        let scope = Scope::from([key.clone()]);
        assert!(
            diff::accepts(&wanted, &actual, &scope),
            "{key}: wanted {:?}, there is {:?}",
            wanted.virtual_servers.iter().find(|(known, _)| Key::VirtualServer(**known) == key),
            actual.virtual_servers.iter().find(|(known, _)| Key::VirtualServer(**known) == key)
        );
    }
    assert_eq!(life.reconciler.actual().addresses, actual.addresses, "the picture of the kernel is true");
    assert_eq!(life.reconciler.actual().elements, actual.elements, "the picture of the kernel is true");
    for service in cluster.services() {
        assert_explained(life, &service.key);
    }
    owners::assert_by_right(life.reconciler.desired(), cluster);
}

/// Asserts that the Service is explained as written, unless another Service owns one of its entry points.
fn assert_explained(life: &Life, key: &ServiceKey) {
    let Ok(Explanation::Service(told)) = life.reconciler.explain_service(key, life.now) else {
        panic!("{key} is not known")
    };
    assert!(told.not_as_wanted.is_empty(), "{told:?}");
    let is_lost = told.entry_points.iter().any(|point| point.belongs_to.is_some());
    assert_eq!(told.state, if is_lost { Standing::Conflict } else { Standing::Written }, "{told:?}");
    let servers = told.entry_points.iter().flat_map(|point| &point.real_servers);
    let is_settled = |state| matches!(state, RealServerState::Written | RealServerState::Draining);
    assert!(servers.into_iter().all(|real| is_settled(real.state)), "{told:?}");
    for address in &told.addresses {
        let address = ip(&address.address);
        let Ok(Explanation::Address(at)) = life.reconciler.explain_address(address, life.now) else {
            panic!("{address} is not known")
        };
        assert!(at.services.contains(&told.service), "{at:?}");
        let written = at.entry_points.iter().filter(|point| point.service.is_some());
        assert!(written.into_iter().all(|point| point.state == Standing::Written), "{at:?}");
    }
}

/// Tracks a UDP flow to every real server, and one to every port of a Service that is not served yet.
fn clients_send(kernel: &MemoryKernel, cluster: &Cluster) {
    let there = kernel.state().virtual_servers;
    for (key, server) in there.iter().filter(|(key, _)| key.protocol == Protocol::Udp) {
        for real in server.real_servers.keys() {
            kernel.track(Flow { destination: *key, replies_from: *real });
        }
    }
    for service in cluster.services() {
        for (address, port) in
            service.cluster_ips.iter().flat_map(|ip| service.ports.iter().map(move |port| (*ip, port.port)))
        {
            let destination = VirtualServerKey { address, protocol: Protocol::Udp, port };
            if !there.contains_key(&destination) {
                kernel.track(Flow { destination, replies_from: RealServerKey { address, port } });
            }
        }
    }
}

/// Asserts that every flow goes to a real server (of the place to which clients inside the cluster are redirected, if
/// there is one), or was never translated and is not served.
fn assert_no_flow_is_stale(kernel: &MemoryKernel) {
    let State { virtual_servers: there, elements, .. } = kernel.state();
    for flow in kernel.flows() {
        let Flow { destination, replies_from } = flow;
        let inside = elements.iter().find_map(|element| match element {
            Element::InCluster(from, address, port) if *from == destination => {
                Some(VirtualServerKey { address: *address, protocol: from.protocol, port: *port })
            }
            _ => None,
        });
        let mut places = [Some(destination), inside].into_iter().flatten();
        let is_with =
            |key| there.get(&key).is_some_and(|server| server.real_servers.contains_key(&replies_from));
        let fine = places.any(is_with)
            || !there.contains_key(&destination) && replies_from.address == destination.address;
        assert!(fine, "{flow:?} is stale");
    }
}

fn is_foreign(server: &VirtualServerKey) -> bool {
    server.address == ip("203.0.113.7") || server.address == ip("192.0.2.9")
}

/// A virtual server that none of our Services asks for.
fn foreign_server(key: &VirtualServerKey) -> VirtualServer {
    VirtualServer {
        scheduler: "wlc".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: Family::of(key.address).host_prefix(),
        real_servers: RealServers::default(),
    }
}

/// A kernel as someone else may have left it.
fn used_kernel() -> State {
    let server = |real: &[(&str, u32)]| VirtualServer {
        scheduler: "wlc".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: real
            .iter()
            .map(|(address, weight)| {
                (
                    RealServerKey { address: ip(address), port: 1080 },
                    RealServer::with(Weight::Exactly(*weight)),
                )
            })
            .collect(),
    };
    let key = |address: &str| VirtualServerKey { address: ip(address), protocol: Protocol::Tcp, port: 80 };
    let mut state = State {
        device: true,
        timeouts: Timeouts { tcp_seconds: 900, tcp_fin_seconds: 120, udp_seconds: 300 },
        ..State::default()
    };
    state.virtual_servers.insert(key("10.96.0.1"), server(&[("10.244.0.1", 0), ("10.244.0.2", 1)]));
    state.virtual_servers.insert(key("10.96.0.9"), server(&[("10.244.0.1", 1)]));
    state.virtual_servers.insert(key("203.0.113.7"), server(&[("10.244.0.1", 1)]));
    state.virtual_servers.insert(key("192.0.2.9"), server(&[]));
    for address in ["10.96.0.1", "10.96.0.9", "192.0.2.9"] {
        let address = ip(address);
        state.addresses.insert(address, kube_ipvs::state::Address { deprecated: false, routed: true });
    }
    state.addresses.insert(ip("fd00::1"), kube_ipvs::state::Address { deprecated: false, routed: false });
    state
}

#[derive(Clone, Debug)]
enum Trouble {
    None,
    Faults(Vec<(u8, u8)>),
    Meddle(u8),
    FailReads,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::None),
        3 => proptest::collection::vec((0..12u8, 0..3u8), 1..6).prop_map(Trouble::Faults),
        1 => (0..6u8).prop_map(Trouble::Meddle),
        1 => Just(Trouble::FailReads),
    ]
}

/// Faults by their distance in steps from the one before.
fn faults(list: &[(u8, u8)]) -> kube_ipvs::kernel::memory::Faults {
    let mut waiting: BTreeMap<u32, u8> = BTreeMap::new();
    let mut at = 0;
    for (distance, kind) in list {
        at += u32::from(*distance) + 1;
        waiting.insert(at, *kind);
    }
    let mut count = 0;
    Box::new(move |_: &Step| {
        count += 1;
        match waiting.get(&count)? {
            0 => Some(Fault::Refuse(12)),
            1 => Some(Fault::LoseAnswer),
            _ => Some(Fault::LoseRequest),
        }
    })
}

fn meddle(kernel: &MemoryKernel, kind: u8) {
    kernel.meddle(|state| match kind {
        0 => state.virtual_servers.clear(),
        1 => {
            state.addresses.clear();
        }
        2 => {
            state.rules.clear();
            state.elements.clear();
        }
        3 => {
            for server in state.virtual_servers.values_mut() {
                server.scheduler = "sh".into();
                for (_, real) in server.real_servers.iter_mut() {
                    real.weight = Weight::Exactly(7);
                }
            }
        }
        4 => {
            state.elements.clear();
            state.elements.insert(Element::Hairpin(ip("10.1.1.1")));
        }
        _ => {
            state.sysctls.clear();
            for address in state.addresses.values_mut() {
                address.routed = false;
            }
        }
    });
}

/// Whether the events may change the node's own address, which the rules contain.
fn moved(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Node(_) | Event::NodeAddresses(_)))
}

/// Health depends on this: what comes while the kernel works must not keep earlier changes from counting as written.
#[test]
fn changes_that_never_stop_leave_nothing_waiting() {
    let service = Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(ServiceKey::new("default", "a"))
    };
    let change = |number: u8| {
        let endpoint = examples::endpoint(ip(&format!("10.244.0.{number}")));
        Event::Slice(Change::Upsert(EndpointSlice {
            key: SliceKey::new("default", "a"),
            service: service.key.clone(),
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: vec![endpoint],
            triggered_nanoseconds: Some(i64::from(number)),
        }))
    };
    let mut life = Life::new(MemoryKernel::default());
    life.feed([
        Event::Service(Change::Replace(vec![service.clone()])),
        Event::Slice(Change::Replace(vec![])),
        Event::Node(Change::Replace(vec![])),
    ]);
    life.settle();
    life.feed([change(1)]);
    life.reconciler.take_notes();
    for number in 1..100 {
        let Next::Work(work @ Work::Apply(_)) = life.reconciler.next(life.now) else {
            panic!("there is a change to write")
        };
        // The next change comes while the kernel works.
        life.feed([change(number + 1)]);
        life.work(&work);
        let changes = life.reconciler.changes();
        let written: Vec<i64> = life
            .reconciler
            .take_notes()
            .into_iter()
            .filter_map(|note| match note {
                Note::Synced { family: Family::V4, triggered_nanoseconds } => Some(triggered_nanoseconds),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(written, [i64::from(number)]);
        assert_eq!(changes.slices_pending, 1, "{number}");
    }
}

/// A few Services fit into one piece: half of the lives write them Service by Service all the same.
fn in_pieces(life: &mut Life, number: usize) {
    if number % 2 == 1 {
        life.reconciler.set_piece(1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any events in any order, with any faults, on a fresh or a used kernel, converge. A second life writes nothing.
    #[test]
    fn converges(
        rounds in proptest::collection::vec((proptest::collection::vec(event(), 0..12), trouble()), 1..6),
        used in any::<bool>(),
    ) {
        let kernel = MemoryKernel::holding(if used { used_kernel() } else { State::default() });
        let mut life = Life::new(kernel.clone());
        in_pieces(&mut life, rounds.len());
        let mut cluster = Cluster::default();
        let mut others = kernel.state().virtual_servers;
        let mut cleared = false;
        life.feed(complete());
        for event in complete() {
            cluster.apply(event);
        }
        for (events, trouble) in rounds {
            for event in &events {
                cluster.apply(event.clone());
            }
            clients_send(&kernel, &cluster);
            life.feed(events);
            match &trouble {
                Trouble::None => {}
                Trouble::Faults(list) => kernel.set_faults(Some(faults(list))),
                Trouble::FailReads => kernel.fail_reads(2),
                Trouble::Meddle(kind) => {
                    life.settle();
                    meddle(&kernel, *kind);
                    cleared |= *kind == 0;
                    others = kernel.state().virtual_servers;
                    // Long enough for a whole round of the audit.
                    life.pass(Duration::from_secs(30));
                }
            }
            life.settle();
            kernel.set_faults(None);
            life.settle();
            assert_converged(&life, &cluster);
            // A failed purge is tried again.
            life.pass(Duration::from_secs(15));
            assert_no_flow_is_stale(&kernel);
        }
        // Others' virtual servers stay as they were: their addresses are not on the device, or the user excluded them.
        let there = kernel.state().virtual_servers;
        for foreign in ["203.0.113.7", "192.0.2.9"].into_iter().filter(|_| used && !cleared) {
            let key = VirtualServerKey { address: ip(foreign), protocol: Protocol::Tcp, port: 80 };
            prop_assert_eq!(there.get(&key), others.get(&key));
        }

        // Drains end.
        life.pass(Duration::from_mins(16));
        life.settle();
        assert_converged(&life, &cluster);
        let desired = life.reconciler.desired();
        for (key, server) in &kernel.state().virtual_servers {
            let may_stay = server.real_servers.iter().all(|(real, value)| {
                value.weight != Weight::Exactly(0)
                    || !desired.endpoints_among(&mut InSlices::of(&cluster), key, &[*real]).is_empty()
            });
            prop_assert!(is_foreign(key) || may_stay, "{key}");
        }

        // The next life adopts what exists, and writes nothing.
        kernel.take_written();
        let mut next = Life::new(kernel.clone());
        next.feed(everything(&cluster));
        let notes = next.settle();
        prop_assert_eq!(kernel.take_written(), vec![]);
        let wrote = notes.iter().any(|note| match note {
            Note::Wrote { counts, .. } => counts.iter().any(|(_, verdict, _)| verdict == Verdict::Done),
            _ => false,
        });
        prop_assert!(!wrote);
        assert_converged(&next, &cluster);
    }

    /// A dry run knows what a start would write, without writing it, whatever exists: an earlier life's state, others',
    /// none.
    #[test]
    fn a_rehearsal_foresees_what_the_start_writes(
        before in proptest::collection::vec(event(), 0..12),
        now in proptest::collection::vec(event(), 0..12),
        used in any::<bool>(),
        another_bit in any::<bool>(),
    ) {
        let kernel = MemoryKernel::holding(if used { used_kernel() } else { State::default() });
        let mut life = Life::new(kernel.clone());
        life.feed(complete());
        life.feed(before);
        life.settle();
        let mut cluster = Cluster::default();
        for event in complete().into_iter().chain(now.iter().cloned()) {
            cluster.apply(event);
        }
        clients_send(&kernel, &cluster);
        kernel.take_written();
        let (state, flows) = (kernel.state(), kernel.flows());

        let mut settings = options();
        settings.masquerade_mark <<= u32::from(another_bit);
        let mut rehearsing = Life::with(settings.clone(), kernel.clone());
        let rehearsed = |life: &mut Life| rehearse(&mut life.reconciler, &mut life.kernel, life.now);
        prop_assert!(rehearsed(&mut rehearsing).expect("nothing to read").is_none(), "nothing is known yet");
        rehearsing.feed(complete());
        rehearsing.feed(now.clone());
        let foreseen = rehearsed(&mut rehearsing).expect("a readable kernel").expect("complete facts");
        prop_assert_eq!(kernel.take_written(), vec![]);
        prop_assert_eq!(kernel.state(), state);
        prop_assert_eq!(kernel.flows(), flows.clone());

        let mut next = Life::with(settings, kernel.clone());
        next.feed(complete());
        next.feed(now);
        next.settle();
        next.pass(Duration::from_secs(2));
        let sorted = |steps: Vec<Step>| {
            let mut texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
            texts.sort();
            texts
        };
        let written = kernel.take_written();
        prop_assert_eq!(sorted(foreseen.writes.into_iter().map(|write| write.step).collect()), sorted(written));
        let purge = foreseen.purge.unwrap_or_default();
        let left: Vec<Flow> = flows.into_iter().filter(|flow| !purge.is_stale(flow)).collect();
        prop_assert_eq!(kernel.flows().into_iter().collect::<Vec<_>>(), left);
        let foreign: Vec<_> = kernel.state().virtual_servers.into_keys().filter(is_foreign).collect();
        prop_assert_eq!(foreseen.foreign.into_iter().collect::<Vec<_>>(), foreign);
    }

    /// What is wanted both before and after a change, and exists, is never removed or drained on the way.
    #[test]
    fn never_withdraws_what_lives(
        before in proptest::collection::vec(event(), 4..16),
        change in proptest::collection::vec(event(), 1..8),
        list in proptest::collection::vec((0..12u8, 0..3u8), 0..6),
    ) {
        let kernel = MemoryKernel::default();
        let mut life = Life::new(kernel.clone());
        life.feed(complete());
        life.feed(before);
        life.settle();
        kernel.take_written();
        kernel.set_faults(Some(faults(&list)));
        let moves = moved(&change);
        in_pieces(&mut life, list.len());
        life.feed(change);
        life.settle();
        let is = kernel.state();
        for step in kernel.take_written() {
            match &step {
                Step::DeleteAddress(address) => {
                    prop_assert!(!is.addresses.contains_key(address), "{step:?}");
                }
                Step::DeleteVirtualServer(key) => {
                    prop_assert!(!is.virtual_servers.contains_key(key), "{step:?}");
                }
                Step::DeleteRealServer(key, real) => {
                    let after = is.virtual_servers.get(key).and_then(|server| server.real_servers.get(real));
                    prop_assert!(after.is_none(), "{step:?}");
                }
                Step::EditRealServer(key, real, server) if server.weight == Weight::Exactly(0) => {
                    let after = is.virtual_servers.get(key).and_then(|server| server.real_servers.get(real));
                    prop_assert!(after.is_none_or(|after| after.weight == Weight::Exactly(0)), "{step:?}");
                }
                Step::InstallRules(..) => prop_assert!(moves, "rules are made once, not {step:?}"),
                _ => {}
            }
        }
    }

    /// A restart with other settings, or with other node addresses in its first moment, remakes the tables: at no
    /// moment is anything missing that existed and is wanted, and what others have on an address that is theirs, too,
    /// stays.
    #[test]
    fn a_restart_with_other_settings_takes_nothing_away(
        before in proptest::collection::vec(event(), 4..24),
        change in 0..3u8,
        addresses in node_addresses(),
    ) {
        let kernel = MemoryKernel::default();
        let mut life = Life::new(kernel.clone());
        let mut cluster = Cluster::default();
        for event in complete().into_iter().chain(before) {
            cluster.apply(event.clone());
            life.feed([event]);
        }
        life.settle();
        let mut others = State::default();
        for element in kernel.state().elements {
            if let Element::SharedAddress(address) = element {
                let key = VirtualServerKey { address, protocol: Protocol::Tcp, port: 6443 };
                others.virtual_servers.insert(key, foreign_server(&key));
            }
        }
        kernel.meddle(|state| state.virtual_servers.extend(others.virtual_servers.clone()));
        let there = kernel.state();

        let options = match change {
            0 => ProxyOptions { masquerade_all: true, ..options() },
            1 => ProxyOptions { cluster_cidrs: vec!["10.0.0.0/8".parse().expect("a network")], ..options() },
            _ => options(),
        };
        let mut next = Life::with(options.clone(), kernel.clone());
        next.feed(everything(&cluster));
        if change == 2 {
            // What exists was adopted, and the first Services were looked at.
            next.step();
            let moved = Event::NodeAddresses(addresses);
            cluster.apply(moved.clone());
            next.feed([moved]);
        }
        let wanted = desired(options, &cluster);
        // What is on an address that others no longer have counts as ours.
        let is_others = |server: &VirtualServerKey| {
            others.virtual_servers.contains_key(server)
                && wanted.wants(&Key::Element(Element::SharedAddress(server.address)))
        };
        let stays = |key: &Key| wanted.wants(key) || matches!(key, Key::VirtualServer(key) if is_others(key));
        let staying: Vec<Key> = there.keys().filter(stays).collect();
        for _ in 0..50 {
            next.step();
            let now = kernel.state();
            for key in &staying {
                prop_assert!(now.contains(key), "{key} is missing");
            }
        }
        next.settle();
        prop_assert!(kernel.state().rules.values().eq(wanted.select(&wanted.keys().collect()).rules.values()));
    }

    /// A life killed at every step in turn and started again converges, leaves nothing behind that nobody owns, and
    /// withdraws nothing that is wanted.
    #[test]
    fn survives_a_crash(
        before in proptest::collection::vec(event(), 8..20),
        change in proptest::collection::vec(event(), 1..4),
        gone in proptest::collection::vec(service_key(), 0..3),
    ) {
        let change: Vec<_> =
            change.into_iter().chain(gone.into_iter().map(|key| Event::Service(Change::Delete(key)))).collect();
        for killed in [Killed::Running, Killed::Starting] {
            let mut crash_at = 1;
            while crashes(&before, &change, killed, crash_at)? {
                crash_at += 1;
            }
        }
    }

    /// Nothing is written or read before both sets are complete.
    #[test]
    fn waits_for_complete_sets(events in proptest::collection::vec(event(), 0..20), services_first in any::<bool>()) {
        let kernel = MemoryKernel::holding(used_kernel());
        let mut life = Life::new(kernel.clone());
        let [services, slices, node] = complete();
        life.feed([node]);
        let incomplete = events.into_iter().filter(|event| !matches!(event, Event::Service(Change::Replace(_))));
        life.feed(incomplete);
        prop_assert_eq!(life.reconciler.next(life.now), Next::Wait(None));
        life.feed([if services_first { services } else { slices }]);
        prop_assert_eq!(life.reconciler.next(life.now), Next::Wait(None));
        prop_assert_eq!(kernel.state(), used_kernel());
    }
}
