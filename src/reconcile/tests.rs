use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::audit::{Audit, Look};
use super::drain::{Drains, Ended, POLL};
use super::picture::Picture;
use super::refusals;
use super::schedule::Schedule;
use crate::cluster::types::{Family, Protocol};
use crate::diff::Step;
use crate::kernel::{Selection, Witnesses};
use crate::state::{
    Address, Element, Key, RealServer, RealServerKey, RealServers, State, VirtualServer, VirtualServerKey,
    Weight,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn server_key(protocol: Protocol) -> VirtualServerKey {
    VirtualServerKey { address: ip("10.96.0.1"), protocol, port: 80 }
}

fn real_key(number: u8) -> RealServerKey {
    RealServerKey { address: ip(&format!("10.244.0.{number}")), port: 8080 }
}

fn state(protocol: Protocol, real_servers: &[(u8, Weight)]) -> State {
    let server = VirtualServer {
        scheduler: "rr".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: real_servers
            .iter()
            .map(|(number, weight)| (real_key(*number), RealServer::with(*weight)))
            .collect(),
    };
    State { virtual_servers: [(server_key(protocol), server)].into(), ..State::default() }
}

const DEADLINE: Duration = Duration::from_mins(15);
const LIVE: Weight = Weight::Exactly(1);
const ZERO: Weight = Weight::Exactly(0);

/// The virtual servers to count.
fn asked() -> BTreeSet<VirtualServerKey> {
    [server_key(Protocol::Tcp), server_key(Protocol::Sctp)].into()
}

/// No slice has the endpoint any more.
fn gone(_: &VirtualServerKey, _: &[RealServerKey]) -> BTreeSet<RealServerKey> {
    BTreeSet::new()
}

#[test]
fn a_removed_tcp_endpoint_drains_until_it_is_idle() {
    let now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let actual = state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]);

    let mut wanted = state(Protocol::Tcp, &[(1, LIVE)]);
    drains.complete(&mut wanted, &actual, now, gone);
    assert_eq!(wanted, state(Protocol::Tcp, &[(1, LIVE), (2, Weight::DrainIfPresent)]));
    assert_eq!(drains.due(now, &State::default()), None);

    let now = now + POLL;
    assert_eq!(drains.due(now, &State::default()), Some([server_key(Protocol::Tcp)].into()));
    let id = (server_key(Protocol::Tcp), real_key(2));
    assert!(drains.counted(&asked(), &BTreeMap::from([(id, 3)]), now).is_empty(), "it has connections");
    assert!(drains.counted(&asked(), &BTreeMap::new(), now).is_empty(), "not counted is unknown, not idle");
    assert_eq!(drains.counted(&asked(), &BTreeMap::from([(id, 0)]), now), [server_key(Protocol::Tcp)].into());
    assert!(
        drains.counted(&asked(), &BTreeMap::from([(id, 0)]), now + DEADLINE).is_empty(),
        "that is said once"
    );
    assert_eq!(drains.due(now + 2 * POLL, &State::default()), None, "nor is it asked for again");

    let mut wanted = state(Protocol::Tcp, &[(1, LIVE)]);
    drains.complete(&mut wanted, &actual, now, gone);
    assert_eq!(wanted, state(Protocol::Tcp, &[(1, LIVE)]), "now it may go");
    assert_eq!(drains.ended(), Ended::default(), "it is still there");
    let left = wanted.clone();
    drains.complete(&mut wanted, &left, now, gone);
    assert_eq!(
        drains.ended(),
        Ended { idle: 1, last: [Some(id), None, None, None, None], ..Ended::default() }
    );
}

#[test]
fn many_drains_are_counted_in_parts() {
    let now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    // A hundred ports of one address, each with an endpoint that goes.
    let state = |real_servers: &[(u8, Weight)]| {
        let one = &state(Protocol::Tcp, real_servers).virtual_servers[&server_key(Protocol::Tcp)];
        let ports = (1..=100).map(|port| VirtualServerKey { port, ..server_key(Protocol::Tcp) });
        State { virtual_servers: ports.map(|key| (key, one.clone())).collect(), ..State::default() }
    };
    drains.complete(&mut state(&[(1, LIVE)]), &state(&[(1, LIVE), (2, LIVE)]), now, gone);

    let mut counted = Vec::new();
    while let Some(part) = drains.due(now + POLL, &State::default()) {
        assert!(part.len() <= 32, "{} at once", part.len());
        counted.extend(part.into_iter().map(|key| key.port));
    }
    assert_eq!(counted, (1..=100).collect::<Vec<_>>(), "each once in a round");
    assert!(drains.due(now + POLL + POLL / 2, &State::default()).is_none());
    assert!(drains.due(now + POLL + POLL, &State::default()).is_some(), "the next round");
}

/// The kernel lists all real servers of a virtual server, and changes wait meanwhile.
#[test]
fn no_more_is_looked_at_together_the_more_real_servers_there_are() {
    let now = Instant::now();
    let ports = |count| (1..=count).map(|port| VirtualServerKey { port, ..server_key(Protocol::Tcp) });
    let with = |count: u8, last: Weight| {
        let real_servers: Vec<_> = (1..count).map(|number| (number, LIVE)).chain([(count, last)]).collect();
        let one = &state(Protocol::Tcp, &real_servers).virtual_servers[&server_key(Protocol::Tcp)];
        State { virtual_servers: ports(300).map(|key| (key, one.clone())).collect(), ..State::default() }
    };
    for (real_servers, of_audit, of_drains) in [(2, 128, 32), (8, 128, 32), (100, 10, 2), (200, 5, 1)] {
        let actual = with(real_servers, LIVE);
        let mut audit = Audit::new(Duration::from_secs(1), [Family::V4].into());
        audit.start(now);
        let Some(Look::Read(Selection::Keys(slice))) = audit.due(now + Duration::from_secs(1), &actual)
        else {
            panic!("the first slice");
        };
        assert_eq!(slice.len(), of_audit, "{real_servers}");
        let mut drains = Drains::new(DEADLINE);
        drains.complete(&mut with(real_servers - 1, LIVE), &actual, now, gone);
        let part = drains.due(now + POLL, &actual).expect("the first part");
        assert_eq!(part.len(), of_drains, "{real_servers}");
    }
    // One virtual server is counted at least, however many real servers it has.
    let mut drains = Drains::new(DEADLINE);
    let one = state(Protocol::Tcp, &(1..=250).map(|number| (number, LIVE)).collect::<Vec<_>>());
    drains.complete(&mut state(Protocol::Tcp, &[(1, LIVE)]), &one, now, gone);
    assert_eq!(drains.due(now + POLL, &one).map(|part| part.len()), Some(1));
}

#[test]
fn a_drain_ends_at_the_deadline() {
    let now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let actual = state(Protocol::Sctp, &[(1, LIVE), (2, ZERO)]);
    let complete = |drains: &mut Drains, now| {
        let mut wanted = state(Protocol::Sctp, &[(1, LIVE)]);
        drains.complete(&mut wanted, &actual, now, gone);
        wanted.virtual_servers[&server_key(Protocol::Sctp)].real_servers.len()
    };
    assert_eq!(complete(&mut drains, now), 2);
    assert_eq!(complete(&mut drains, now + DEADLINE.mul_f64(0.999)), 2);
    assert_eq!(drains.counted(&asked(), &BTreeMap::new(), now + DEADLINE).len(), 1);
    assert_eq!(complete(&mut drains, now + DEADLINE), 1);
    let mut wanted = state(Protocol::Sctp, &[(1, LIVE)]);
    let left = wanted.clone();
    drains.complete(&mut wanted, &left, now + DEADLINE, gone);
    let id = (server_key(Protocol::Sctp), real_key(2));
    let last = [Some(id), None, None, None, None];
    assert_eq!(drains.ended(), Ended { deadline: 1, last, ..Ended::default() });
}

#[test]
fn an_endpoint_that_a_slice_still_has_stays_and_its_time_begins_when_it_is_gone() {
    let mut now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let actual = state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]);
    let complete = |drains: &mut Drains, now, in_slice: bool| {
        let mut wanted = state(Protocol::Tcp, &[(1, LIVE)]);
        drains.complete(&mut wanted, &actual, now, |_, asked| {
            asked.iter().copied().filter(|_| in_slice).collect()
        });
        wanted.virtual_servers[&server_key(Protocol::Tcp)].real_servers.len()
    };
    assert_eq!(complete(&mut drains, now, true), 2);
    assert!(drains.concerns(&server_key(Protocol::Tcp)) && !drains.concerns(&server_key(Protocol::Udp)));
    assert_eq!(drains.next_due(), None, "nobody counts its connections");
    now += 2 * DEADLINE;
    assert_eq!(complete(&mut drains, now, true), 2);
    assert_eq!(complete(&mut drains, now, false), 2);
    assert_eq!(drains.next_due(), Some(now + POLL));
    let id = (server_key(Protocol::Tcp), real_key(2));
    drains.counted(&asked(), &BTreeMap::from([(id, 0)]), now);
    assert_eq!(complete(&mut drains, now, true), 2, "back, so it may get connections again");
    assert_eq!(complete(&mut drains, now, false), 2);
    assert_eq!(complete(&mut drains, now + DEADLINE, false), 1);
}

/// Clients are refused either way; and as long as the real server is there, each attempt is a line in the kernel's log.
#[test]
fn where_nobody_serves_an_endpoint_stays_no_longer_than_its_connections() {
    let mut now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let actual = state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]);
    let id = (server_key(Protocol::Tcp), real_key(2));
    let complete = |drains: &mut Drains, now, serves: &[(u8, Weight)], in_slice: bool| {
        let mut wanted = state(Protocol::Tcp, serves);
        drains.complete(&mut wanted, &actual, now, |_, asked| {
            asked.iter().copied().filter(|_| in_slice).collect()
        });
        wanted.virtual_servers.get(&server_key(Protocol::Tcp)).map_or(0, |server| server.real_servers.len())
    };
    assert_eq!(complete(&mut drains, now, &[], true), 2);
    now += 2 * DEADLINE;
    assert_eq!(complete(&mut drains, now, &[], true), 2, "there is no deadline");
    assert_eq!(drains.due(now, &State::default()), Some([server_key(Protocol::Tcp)].into()));
    let other = (server_key(Protocol::Tcp), real_key(1));
    assert!(drains.counted(&asked(), &[(id, 3), (other, 1)].into(), now).is_empty());
    // Whatever has been counted, it stays where others serve.
    assert_eq!(drains.counted(&asked(), &[(id, 0), (other, 1)].into(), now).len(), 1);
    assert_eq!(complete(&mut drains, now, &[(1, LIVE)], true), 2);
    assert_eq!(complete(&mut drains, now, &[], true), 2, "and is counted anew");
    assert_eq!(drains.counted(&asked(), &[(id, 0), (other, 1)].into(), now).len(), 1);
    assert_eq!(complete(&mut drains, now, &[], true), 1);
    assert_eq!(drains.counted(&asked(), &[(other, 0)].into(), now).len(), 1);
    assert_eq!(complete(&mut drains, now, &[], true), 0);
    // Once no slice has it, its deadline runs from then on.
    let mut drains = Drains::new(DEADLINE);
    assert_eq!(complete(&mut drains, now, &[], true), 2);
    assert_eq!(complete(&mut drains, now, &[], false), 2);
    assert_eq!(complete(&mut drains, now + DEADLINE, &[], false), 0);
}

/// It would refuse its share of new connections for as long as its pod is not ready.
#[test]
fn where_the_scheduler_hashes_an_endpoint_stays_no_longer_than_its_connections() {
    let all = |_: &VirtualServerKey, asked: &[RealServerKey]| asked.iter().copied().collect();
    for (scheduler, stays) in [("rr", true), ("wlc", true), ("mh", false), ("sh", false), ("dh", false)] {
        let now = Instant::now();
        let with = |mut state: State| {
            for server in state.virtual_servers.values_mut() {
                server.scheduler = scheduler.into();
            }
            state
        };
        let mut drains = Drains::new(DEADLINE);
        let actual = with(state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]));
        let mut wanted = with(state(Protocol::Tcp, &[(1, LIVE)]));
        drains.complete(&mut wanted, &actual, now, all);
        assert_eq!(wanted.virtual_servers[&server_key(Protocol::Tcp)].real_servers.len(), 2, "{scheduler}");
        let id = (server_key(Protocol::Tcp), real_key(2));
        drains.counted(&asked(), &BTreeMap::from([(id, 0)]), now + POLL);
        let mut wanted = with(state(Protocol::Tcp, &[(1, LIVE)]));
        drains.complete(&mut wanted, &actual, now + POLL, all);
        let left = wanted.virtual_servers[&server_key(Protocol::Tcp)].real_servers.len();
        assert_eq!(left, if stays { 2 } else { 1 }, "{scheduler}");
    }
}

#[test]
fn a_removed_udp_endpoint_goes_at_once_and_a_server_without_any_is_not_made() {
    let mut drains = Drains::new(DEADLINE);
    let mut wanted = state(Protocol::Udp, &[]);
    drains.complete(&mut wanted, &state(Protocol::Udp, &[(1, LIVE)]), Instant::now(), gone);
    assert_eq!(wanted, State::default());
    assert_eq!(drains.len(), 0);
}

#[test]
fn an_endpoint_that_comes_back_forgets_its_drain() {
    let now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let mut wanted = state(Protocol::Tcp, &[]);
    drains.complete(&mut wanted, &state(Protocol::Tcp, &[(1, LIVE)]), now, gone);
    assert_eq!(drains.len(), 1);
    let mut wanted = state(Protocol::Tcp, &[(1, LIVE)]);
    drains.complete(&mut wanted, &state(Protocol::Tcp, &[(1, ZERO)]), now, gone);
    assert_eq!(wanted, state(Protocol::Tcp, &[(1, LIVE)]));
    assert_eq!(drains.len(), 0);
    assert_eq!(drains.ended(), Ended { overtaken: 1, ..Ended::default() });
}

#[test]
fn a_drain_whose_virtual_server_is_not_wanted_any_more_is_overtaken() {
    let now = Instant::now();
    let mut drains = Drains::new(DEADLINE);
    let mut wanted = state(Protocol::Tcp, &[]);
    drains.complete(&mut wanted, &state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]), now, gone);
    drains.forget(&server_key(Protocol::Tcp));
    assert_eq!(drains.len(), 0);
    assert_eq!(drains.ended(), Ended { overtaken: 2, ..Ended::default() });
}

/// The endpoint comes back between the look that finds it idle and the comparison that would remove it.
#[test]
fn an_endpoint_that_comes_back_when_it_was_found_idle_did_not_go() {
    let now = Instant::now();
    let id = (server_key(Protocol::Tcp), real_key(1));
    for (connections, later) in [(0, POLL), (1, DEADLINE + POLL)] {
        let mut drains = Drains::new(DEADLINE);
        let mut wanted = state(Protocol::Tcp, &[]);
        drains.complete(&mut wanted, &state(Protocol::Tcp, &[(1, LIVE)]), now, gone);
        let may_go = drains.counted(&asked(), &BTreeMap::from([(id, connections)]), now + later);
        assert_eq!(may_go, BTreeSet::from([server_key(Protocol::Tcp)]));
        let mut wanted = state(Protocol::Tcp, &[(1, LIVE)]);
        drains.complete(&mut wanted, &state(Protocol::Tcp, &[(1, ZERO)]), now + later, gone);
        assert_eq!(drains.ended(), Ended { overtaken: 1, ..Ended::default() });
    }
}

#[test]
fn the_picture_counts_real_servers() {
    let (key, none) = (Key::VirtualServer(server_key(Protocol::Tcp)), State::default());
    let mut picture = Picture::of(state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]));
    assert_eq!(picture.real_servers(), 2);
    picture.apply(&Step::AddRealServer(server_key(Protocol::Tcp), real_key(3), RealServer::with(LIVE)));
    assert_eq!(picture.real_servers(), 3);
    picture.apply(&Step::DeleteRealServer(server_key(Protocol::Tcp), real_key(2)));
    assert_eq!(picture.real_servers(), 2);
    picture.apply(&Step::DeleteRealServer(server_key(Protocol::Tcp), real_key(9)));
    assert_eq!(picture.real_servers(), 2, "it was not there");
    picture.copy(&key, &state(Protocol::Tcp, &[(1, LIVE)]));
    assert_eq!(picture.real_servers(), 1);
    picture.copy(&key, &none);
    assert_eq!(picture.real_servers(), 0);
    picture.copy(&key, &state(Protocol::Tcp, &[(1, LIVE), (2, LIVE)]));
    picture.apply(&Step::DeleteVirtualServer(server_key(Protocol::Tcp)));
    assert_eq!(picture.real_servers(), 0);
}

/// One Service that no kernel accepts must not make every node unhealthy; a kernel that accepts none must.
#[test]
fn refused_objects_are_few_where_more_of_their_kind_stand() {
    let now = Instant::now();
    let address = |number: u8| IpAddr::from([10, 96, 0, number]);
    let server = |number| VirtualServerKey { address: address(number), ..server_key(Protocol::Tcp) };
    let kinds: [fn(u8) -> Key; 3] = [
        |number| Key::Address(IpAddr::from([10, 96, 0, number])),
        |number| Key::Element(Element::ClusterAddress(IpAddr::from([10, 96, 0, number]))),
        |number| {
            Key::VirtualServer(VirtualServerKey {
                address: [10, 96, 0, number].into(),
                ..server_key(Protocol::Tcp)
            })
        },
    ];
    // The kernel has objects 1 to 5 of each kind.
    let mut actual = state(Protocol::Tcp, &[(1, LIVE)]);
    let value = actual.virtual_servers[&server(1)].clone();
    for number in 1..=5 {
        actual.virtual_servers.insert(server(number), value.clone());
        actual.elements.insert(Element::ClusterAddress(address(number)));
        actual.addresses.insert(address(number), Address::wanted(address(number)));
    }
    for kind in kinds {
        let few = |refused: &[u8], unwanted: &[u8]| {
            let mut schedule = Schedule::default();
            for number in refused {
                schedule.fail(&kind(*number), "Invalid argument".into(), true, now);
            }
            let wanted = |key: &Key| !unwanted.iter().any(|number| kind(*number) == *key);
            refusals::are_few(schedule.failures(), &actual, wanted, Family::V4)
        };
        assert!(few(&[], &[1, 2, 3, 4, 5]), "none is refused");
        assert!(few(&[6], &[]) && few(&[6, 7, 8, 9], &[]));
        assert!(!few(&[6, 7, 8, 9, 10], &[]), "as many as stand");
        assert!(!few(&[6], &[1, 2, 3, 4, 5]), "what stands is not wanted");
        assert!(few(&[4, 5], &[]) && !few(&[3, 4, 5], &[]), "what is there may be wrong");
    }
    // Nothing is said of the other family.
    let mut schedule = Schedule::default();
    schedule.fail(&Key::Address(ip("fd00::1")), "Permission denied".into(), true, now);
    assert!(refusals::are_few(schedule.failures(), &actual, |_| true, Family::V4));
    assert!(!refusals::are_few(schedule.failures(), &actual, |_| true, Family::V6));
}

/// When the next part of the rotation is looked at; the foundations are looked for in between.
fn next_look(audit: &mut Audit, state: &State) -> Instant {
    loop {
        let due = audit.next_due().expect("there is always a next one");
        match audit.due(due, state).expect("it is due") {
            Look::Foundations(_) => {}
            Look::Read(_) | Look::List => return due,
        }
    }
}

#[test]
fn an_audit_rests_in_proportion_unless_it_found_something() {
    let second = Duration::from_secs(1);
    let mut now = Instant::now();
    let mut audit = Audit::new(second, [Family::V4].into());
    audit.start(now);
    now += second;
    assert_eq!(next_look(&mut audit, &State::default()), now);
    audit.cost(Duration::from_micros(10), now);
    now += second;
    assert_eq!(next_look(&mut audit, &State::default()), now, "never more often than this");
    audit.cost(Duration::from_millis(20), now);
    now += 10 * second;
    let many = (1..=2000).map(|port| VirtualServerKey { port, ..server_key(Protocol::Tcp) });
    let server = VirtualServer {
        scheduler: "rr".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: RealServers::default(),
    };
    let large =
        State { virtual_servers: many.map(|key| (key, server.clone())).collect(), ..State::default() };
    assert_eq!(next_look(&mut audit, &large), now);
    audit.cost(Duration::from_millis(20), now);
    now += 50 * second;
    assert_eq!(next_look(&mut audit, &State::default()), now, "longer in a large cluster");
    audit.look_at(vec![server_key(Protocol::Tcp)]);
    // Only now is it known what that look cost.
    audit.cost(second, now);
    assert_eq!(next_look(&mut audit, &large), now + second, "what surprised is read soon");
}

#[test]
fn a_look_that_cost_much_for_once_does_not_hold_up_the_audit_for_hours() {
    let second = Duration::from_secs(1);
    let start = Instant::now();
    let mut audit = Audit::new(second, [Family::V4].into());
    audit.start(start);
    let now = next_look(&mut audit, &State::default());
    audit.cost(Duration::from_secs(5), now);
    assert_eq!(next_look(&mut audit, &State::default()), now + 300 * second);
}

#[test]
fn what_is_asked_for_is_looked_at_at_once_and_does_not_hold_up_the_audit() {
    let second = Duration::from_secs(1);
    let start = Instant::now();
    let mut audit = Audit::new(second, [Family::V4].into());
    audit.start(start);
    let tables = Look::Read(Selection::Tables(Family::V4));
    // Somebody makes the table anew all the time.
    for _ in 0..3 {
        audit.look(vec![tables.clone()]);
        assert_eq!(audit.due(start, &State::default()), Some(tables.clone()));
        audit.cost(Duration::from_mins(1), start);
    }
    let now = next_look(&mut audit, &State::default());
    assert_eq!(now, start + second);
    audit.cost(Duration::from_secs(5), now);
    // What it finds is read soon, however long the audit rests just then.
    audit.look(vec![Look::List]);
    assert_eq!(audit.due(now, &State::default()), Some(Look::List));
    audit.look_at(vec![server_key(Protocol::Tcp)]);
    audit.cost(Duration::from_millis(1), now);
    assert_eq!(next_look(&mut audit, &State::default()), now + second);
}

#[test]
fn what_everything_stands_on_is_asked_for_however_long_an_audit_rests() {
    let second = Duration::from_secs(1);
    let start = Instant::now();
    // An address that takes no packets in stands for no other.
    let unrouted = Address { routed: false, ..Address::wanted(ip("10.96.0.1")) };
    let routed = ["10.96.0.2", "10.96.0.3", "fd00::1", "fd00::2"].map(ip);
    let mut addresses: BTreeMap<_, _> = routed.map(|address| (address, Address::wanted(address))).into();
    addresses.insert(ip("10.96.0.1"), unrouted);
    let actual = State { addresses, ..state(Protocol::Tcp, &[(1, LIVE)]) };
    for (families, addresses) in
        [(&[Family::V4][..], &["10.96.0.2"][..]), (&Family::ALL, &["10.96.0.2", "fd00::1"])]
    {
        let mut audit = Audit::new(second, families.iter().copied().collect());
        audit.start(start);
        assert!(audit.due(start + second, &State::default()).is_some());
        audit.cost(Duration::from_mins(1), start + second);
        let asked = Witnesses {
            virtual_server: Some(server_key(Protocol::Tcp)),
            addresses: addresses.iter().map(|address| ip(address)).collect(),
        };
        for round in 1..=3 {
            let due = start + round * 10 * second;
            assert_eq!(audit.next_due(), Some(due));
            assert_eq!(audit.due(due, &actual), Some(Look::Foundations(asked.clone())));
        }
    }
}
