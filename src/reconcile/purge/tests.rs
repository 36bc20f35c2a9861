use std::net::IpAddr;

use super::*;
use crate::state::{RealServer, RealServerKey, RuleSettings, VirtualServer, Weight};

const TOOK: Duration = Duration::from_millis(10);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(protocol: Protocol, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: ip("10.96.0.10"), protocol, port }
}

fn real() -> RealServerKey {
    RealServerKey { address: ip("10.244.1.2"), port: 53 }
}

fn add(key: VirtualServerKey) -> Step {
    Step::AddRealServer(key, real(), RealServer::with(Weight::Exactly(1)))
}

/// A state with this virtual server, which has this many real servers.
fn state(key: VirtualServerKey, real_servers: u16) -> State {
    let server = VirtualServer {
        scheduler: "rr".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: (0..real_servers)
            .map(|number| {
                let key = RealServerKey { port: real().port + number, ..real() };
                (key, RealServer::with(Weight::Exactly(1)))
            })
            .collect(),
    };
    State { virtual_servers: [(key, server)].into(), ..State::default() }
}

/// The search ends, with nothing to delete.
fn end(purges: &mut Purges, failure: Option<&str>, now: Instant) {
    purges.found(Found { took: TOOK, failure: failure.map(str::to_owned), ..Found::default() });
    assert!(purges.take_ended(now).is_some());
}

#[test]
fn what_may_leave_stale_flows_is_purged() {
    let (now, udp) = (Instant::now(), key(Protocol::Udp, 53));
    let due = |step: &Step, before: &State, after: &State| {
        let mut purges = Purges::default();
        purges.stepped(step, before, now);
        purges.due(true, after, now).map(|purge| purge.live.clone())
    };
    let purged = |live: &[RealServerKey]| Some([(udp, live.iter().copied().collect())].into());
    assert_eq!(due(&add(udp), &state(udp, 0), &state(udp, 1)), purged(&[real()]), "the first");
    assert_eq!(due(&add(udp), &state(udp, 1), &state(udp, 2)), None, "one more");
    let delete = Step::DeleteRealServer(udp, real());
    assert_eq!(due(&delete, &state(udp, 2), &state(udp, 1)), purged(&[real()]));
    assert_eq!(due(&Step::DeleteVirtualServer(udp), &state(udp, 1), &State::default()), purged(&[]));
    for step in [Step::AddAddress(udp.address), Step::AddRoute(udp.address)] {
        assert_eq!(due(&step, &state(udp, 1), &state(udp, 1)), purged(&[real()]), "{step}");
        assert_eq!(due(&step, &State::default(), &State::default()), None, "nothing is there");
        let tcp = state(key(Protocol::Tcp, 53), 1);
        assert_eq!(due(&step, &tcp, &tcp), None, "{step}");
    }
    for other in [Protocol::Tcp, Protocol::Sctp] {
        let other = key(other, 53);
        let delete = Step::DeleteRealServer(other, real());
        assert_eq!(due(&delete, &state(other, 2), &state(other, 1)), None, "they have an end");
    }
}

/// Until the new address has its route, datagrams still leave the node.
#[test]
fn what_is_at_a_new_address_of_ipv6_is_purged_once_more() {
    let now = Instant::now();
    for (address, again) in [("10.96.0.10", None), ("fd00::10", Some(now + ROUTED))] {
        let udp = VirtualServerKey { address: ip(address), ..key(Protocol::Udp, 53) };
        let actual = state(udp, 1);
        for step in [Step::AddAddress(udp.address), Step::AddRoute(udp.address)] {
            let mut purges = Purges::default();
            purges.stepped(&step, &actual, now);
            let first = purges.due(true, &actual, now).expect("at once");
            end(&mut purges, None, now);
            assert_eq!(purges.next_due(), again, "{step}");
            assert_eq!(purges.due(true, &actual, now + ROUTED / 2), None, "{step}");
            assert_eq!(purges.due(true, &actual, now + ROUTED), again.map(|_| first), "{step}");
            assert_eq!(purges.next_due(), None, "{step}");
        }
    }
}

#[test]
fn flows_that_a_rule_sends_elsewhere_are_known_by_where_their_clients_sent_them() {
    let (now, cluster_ip) = (Instant::now(), key(Protocol::Udp, 53));
    let on = |address| VirtualServerKey { address: ip(address), ..cluster_ip };
    let (balanced, other) = (on("198.18.0.1"), on("198.18.0.2"));
    let mut actual = state(cluster_ip, 2);
    let local = RealServerKey { port: 9, ..real() };
    let mut server = actual.virtual_servers[&cluster_ip].clone();
    server.real_servers = [(local, RealServer::with(Weight::Exactly(1)))].into();
    actual.virtual_servers.insert(balanced, server);
    actual.elements.insert(Element::InCluster(balanced, cluster_ip.address, 53));
    actual.elements.insert(Element::InCluster(other, cluster_ip.address, 54));
    let all: BTreeSet<_> = [real(), RealServerKey { port: 54, ..real() }].into();
    let both: BTreeSet<_> = all.iter().copied().chain([local]).collect();
    for (changed, expected) in [
        (cluster_ip, BTreeMap::from([(cluster_ip, all), (balanced, both.clone())])),
        (balanced, BTreeMap::from([(balanced, both)])),
    ] {
        let mut purges = Purges::default();
        purges.stepped(&Step::DeleteRealServer(changed, real()), &actual, now);
        assert_eq!(purges.due(true, &actual, now).expect("a purge").live, expected);
    }

    // A way from an entry point without a virtual server here: a client that sends all the time would not take it
    // otherwise.
    actual.virtual_servers.remove(&balanced);
    let way = Element::InCluster(balanced, cluster_ip.address, 53);
    let settings =
        RuleSettings { masquerade_mark: 0x4000, masquerade_all: false, inside: None, node_address: None };
    let install = |family, elements| Step::InstallRules(family, settings.clone(), elements);
    for (step, expected) in [
        (Step::AddElement(way), vec![&balanced]),
        (Step::DeleteElement(way), vec![&balanced]),
        // One way is in the new table, and one was in the table before.
        (
            install(Family::V4, vec![way, Element::ClusterAddress(cluster_ip.address)]),
            vec![&balanced, &other],
        ),
    ] {
        let mut purges = Purges::default();
        purges.stepped(&step, &actual, now);
        let live = purges.due(true, &actual, now).expect("a purge").live.clone();
        assert_eq!(live.keys().collect::<Vec<_>>(), expected, "{step}");
        assert_eq!(live[&balanced].len(), 2, "those of the cluster IP");
    }
    let mut purges = Purges::default();
    purges.stepped(&install(Family::V6, Vec::new()), &actual, now);
    assert_eq!(purges.due(true, &actual, now), None, "the other family");
}

#[test]
fn a_purge_waits_for_a_pause_but_not_for_ever() {
    let (start, udp) = (Instant::now(), key(Protocol::Udp, 53));
    let actual = state(udp, 0);
    let mut purges = Purges::default();
    assert_eq!(purges.next_due(), None);
    purges.stepped(&add(udp), &actual, start);
    let later = start + PATIENCE / 2;
    purges.stepped(&add(key(Protocol::Udp, 54)), &actual, later);
    assert_eq!(purges.due(false, &actual, later), None);
    let live = purges.due(false, &actual, start + PATIENCE).expect("it waited long enough").live.clone();
    assert_eq!(live.len(), 2, "both in one walk");
    assert_eq!(purges.due(true, &actual, start + PATIENCE), None, "once");
    assert_eq!(purges.next_due(), None);
}

#[test]
fn purges_take_a_third_of_the_time_at_most() {
    let (start, udp) = (Instant::now(), key(Protocol::Udp, 53));
    let actual = state(udp, 0);
    let mut purges = Purges::default();
    purges.stepped(&add(udp), &actual, start);
    assert!(purges.due(true, &actual, start).is_some());
    end(&mut purges, None, start);
    purges.stepped(&add(udp), &actual, start);
    assert_eq!(purges.due(true, &actual, start + TOOK), None);
    let due = purges.next_due().expect("it will come");
    assert_eq!(due, start + TOOK * REST);
    assert!(purges.due(true, &actual, due).is_some());
}

#[test]
fn what_failed_is_tried_once_more() {
    let (mut now, udp) = (Instant::now(), key(Protocol::Udp, 53));
    let actual = state(udp, 0);
    let mut purges = Purges::default();
    purges.stepped(&add(udp), &actual, now);
    assert!(purges.due(true, &actual, now).is_some());
    end(&mut purges, Some("no"), now);
    now += RETRY;
    assert_eq!(purges.next_due(), Some(now));
    assert!(purges.due(true, &actual, now).is_some());
    end(&mut purges, Some("no"), now);
    assert_eq!(purges.next_due(), None, "not a third time");
    // A new change is purged again.
    purges.stepped(&add(udp), &actual, now);
    now = purges.next_due().expect("it will come");
    assert!(purges.due(true, &actual, now).is_some());
}
