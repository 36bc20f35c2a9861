//! When connection tracking is purged, and of what: after real servers of UDP went, after a virtual server of UDP got its
//! first one, and once after the first complete set was written, for what a crash left behind.
//!
//! A purge is no state: it cannot be compared and repaired. So what it is about is noted when a step is done, or may
//! have been; it comes after all that waits to be written, but not for ever after; and where it fails it is tried
//! once more. The kernel walks its whole table each time, so purges take a third of the time at most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::cluster::types::Protocol;
use crate::diff::Step;
use crate::diff::purge::Purge;
use crate::state::{Element, State, VirtualServerKey};

/// How long a purge waits for a pause between changes.
const PATIENCE: Duration = Duration::from_secs(1);
/// The wait after a purge that failed.
const RETRY: Duration = Duration::from_secs(10);
/// Between two purges there is this many times as long as the first of them took.
const REST: u32 = 2;

/// Where clients inside the cluster are sent instead: from which entry point, to which virtual server. Few Services have
/// these.
fn ways_inside(actual: &State) -> impl Iterator<Item = (VirtualServerKey, VirtualServerKey)> {
    let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let first = VirtualServerKey { address: lowest, protocol: Protocol::Tcp, port: 0 };
    actual
        .elements
        .range(Element::InCluster(first, lowest, 0)..)
        .map_while(|element| match element {
            Element::InCluster(from, address, port) => Some((*from, *address, *port)),
            _ => None,
        })
        .map(|(from, address, port)| (from, VirtualServerKey { address, protocol: from.protocol, port }))
}

/// What is to be purged.
#[derive(Clone, Debug, Default)]
pub(super) struct Purges {
    waiting: BTreeSet<VirtualServerKey>,
    /// Since when something waits.
    since: Option<Instant>,
    /// Not before this.
    rest: Option<Instant>,
    /// What failed once.
    failed: BTreeSet<VirtualServerKey>,
}

impl Purges {
    /// A step was done, or may have been. `actual`: the picture before it.
    pub(super) fn stepped(&mut self, step: &Step, actual: &State, now: Instant) {
        let is_empty =
            |key| actual.virtual_servers.get(key).is_none_or(|server| server.real_servers.is_empty());
        match step {
            Step::DeleteRealServer(key, _) | Step::DeleteVirtualServer(key) => self.note(*key, now),
            Step::AddRealServer(key, ..) if is_empty(key) => self.note(*key, now),
            // What was sent there before asks for the way only once it is forgotten.
            Step::AddElement(Element::InCluster(key, ..))
            | Step::DeleteElement(Element::InCluster(key, ..)) => {
                self.note(*key, now);
            }
            _ => {}
        }
    }

    /// Everything may be stale.
    pub(super) fn everything(&mut self, actual: &State, now: Instant) {
        for key in actual.virtual_servers.keys() {
            self.note(*key, now);
        }
    }

    fn note(&mut self, key: VirtualServerKey, now: Instant) {
        if key.protocol == Protocol::Udp {
            self.waiting.insert(key);
            self.since.get_or_insert(now);
        }
    }

    /// What to purge now. `idle`: nothing waits to be written.
    pub(super) fn due(&mut self, idle: bool, actual: &State, now: Instant) -> Option<Purge> {
        let since = self.since?;
        let due = if idle { since } else { since + PATIENCE };
        if now < due || self.rest.is_some_and(|rest| now < rest) {
            return None;
        }
        self.since = None;
        let inside: BTreeMap<VirtualServerKey, VirtualServerKey> = ways_inside(actual).collect();
        let led_here = inside.iter().filter(|(_, to)| self.waiting.contains(to)).map(|(from, _)| *from);
        self.waiting.extend(led_here.collect::<Vec<_>>());
        let servers = |key: &VirtualServerKey| {
            let server = actual.virtual_servers.get(key).map(|server| &server.real_servers);
            server.into_iter().flat_map(|servers| servers.keys()).copied()
        };
        let live = |key: VirtualServerKey| {
            // Clients inside the cluster, who asked for the same, were sent elsewhere.
            let inside = inside.get(&key).into_iter().flat_map(&servers);
            (key, servers(&key).chain(inside).collect())
        };
        Some(Purge { live: std::mem::take(&mut self.waiting).into_iter().map(live).collect() })
    }

    /// When [`Purges::due`] may have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.since.map(|since| self.rest.map_or(since, |rest| rest.max(since)))
    }

    /// A purge ended, after this time. `failed`: what is to be tried again.
    pub(super) fn ended(
        &mut self,
        failed: impl IntoIterator<Item = VirtualServerKey>,
        took: Duration,
        now: Instant,
    ) {
        let again: BTreeSet<_> = failed.into_iter().filter(|key| !self.failed.contains(key)).collect();
        self.rest = Some(now + if again.is_empty() { took * REST } else { RETRY });
        for key in &again {
            self.note(*key, now);
        }
        self.failed = again;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::state::{RealServer, RealServerKey, VirtualServer, Weight};

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

    /// A state with this virtual server, and so many real servers.
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

    #[test]
    fn what_may_leave_stale_flows_is_purged() {
        let (now, udp) = (Instant::now(), key(Protocol::Udp, 53));
        let due = |step: &Step, before: &State, after: &State| {
            let mut purges = Purges::default();
            purges.stepped(step, before, now);
            purges.due(true, after, now).map(|purge| purge.live)
        };
        let purged = |live: &[RealServerKey]| Some([(udp, live.iter().copied().collect())].into());
        assert_eq!(due(&add(udp), &state(udp, 0), &state(udp, 1)), purged(&[real()]), "the first");
        assert_eq!(due(&add(udp), &state(udp, 1), &state(udp, 2)), None, "one more");
        let delete = Step::DeleteRealServer(udp, real());
        assert_eq!(due(&delete, &state(udp, 2), &state(udp, 1)), purged(&[real()]));
        assert_eq!(due(&Step::DeleteVirtualServer(udp), &state(udp, 1), &State::default()), purged(&[]));
        for other in [Protocol::Tcp, Protocol::Sctp] {
            let other = key(other, 53);
            let delete = Step::DeleteRealServer(other, real());
            assert_eq!(due(&delete, &state(other, 2), &state(other, 1)), None, "they have an end");
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

        // One that no virtual server serves here: a client that sends all the time is not sent there otherwise.
        actual.virtual_servers.remove(&balanced);
        let way = Element::InCluster(balanced, cluster_ip.address, 53);
        for step in [Step::AddElement(way), Step::DeleteElement(way)] {
            let mut purges = Purges::default();
            purges.stepped(&step, &actual, now);
            let live = purges.due(true, &actual, now).expect("a purge").live;
            assert_eq!(live.keys().collect::<Vec<_>>(), [&balanced], "{step}");
            assert_eq!(live[&balanced].len(), 2, "those of the cluster IP");
        }
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
        let live = purges.due(false, &actual, start + PATIENCE).expect("it waited long enough").live;
        assert_eq!(live.len(), 2, "both in one walk");
        assert_eq!(purges.due(true, &actual, start + PATIENCE), None, "once");
        assert_eq!(purges.next_due(), None);
    }

    #[test]
    fn purges_take_a_third_of_the_time_at_most() {
        let (start, udp) = (Instant::now(), key(Protocol::Udp, 53));
        let actual = state(udp, 0);
        let mut purges = Purges::default();
        purges.ended([], TOOK, start);
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
        purges.ended([udp], TOOK, now);
        now += RETRY;
        assert_eq!(purges.next_due(), Some(now));
        assert!(purges.due(true, &actual, now).is_some());
        purges.ended([udp], TOOK, now);
        assert_eq!(purges.next_due(), None, "not a third time");
        // Another change is another matter.
        purges.stepped(&add(udp), &actual, now);
        now = purges.next_due().expect("it will come");
        assert!(purges.due(true, &actual, now).is_some());
    }
}
