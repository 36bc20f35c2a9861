//! Which Service gets what several ask for, and which conflicts are reported.

use super::*;
use crate::cluster::Touched;
use crate::desired::claims::Conflict;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// A Service with a cluster IP and a port of its own.
fn named(name: &str, created_seconds: i64, number: u8) -> Service {
    Service {
        key: key(name),
        created_seconds,
        cluster_ips: vec![IpAddr::from([10, 96, 0, number])],
        external: None,
        remarks: None,
        ..service(External::default(), None)
    }
}

fn with_port(service: Service, port: u16, node_port: Option<u16>) -> Service {
    Service { ports: vec![ServicePort { port, node_port, ..service.ports[0].clone() }], ..service }
}

fn with(service: Service, external: External) -> Service {
    Service { external: Some(Box::new(external)), ..service }
}

fn external_ip(address: &str) -> External {
    External { external_ips: vec![ip(address)], ..External::default() }
}

fn load_balancer(address: &str) -> External {
    External { load_balancer_ips: vec![ip(address)], ..External::default() }
}

fn put(service: &Service) -> Event {
    Event::Service(Change::Upsert(service.clone()))
}

impl World {
    /// Takes all of these events in at one look, and returns the conflicts.
    fn look(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Conflict> {
        let touched: Touched = events.into_iter().flat_map(|event| self.cluster.apply(event)).collect();
        let update = self.desired.update(&self.cluster, &touched);
        self.assert_contested_is_counted();
        update.conflicts
    }
}

/// Anyone who may write Services may write any address among the external IPs, and any Service may be the older one.
#[test]
fn an_older_service_does_not_get_what_another_has_by_right() {
    let young = |number| named("young", 9, number);
    let old = || named("old", 1, 2);
    let (cluster_ip, node, address) = ("10.96.0.1", "192.168.0.1", "203.0.113.1");
    let on_node = || with_port(with(young(1), External::default()), 80, Some(30_080));
    let both_local = || Service {
        internal_policy: Policy::Local,
        ..with(young(1), External { policy: Policy::Local, ..load_balancer(address) })
    };
    let at_node = |external| with(with_port(old(), 30_080, None), external);
    for (what, server, first, second) in [
        (
            "a cluster IP and an external IP",
            tcp(cluster_ip, 80),
            young(1),
            with(old(), external_ip(cluster_ip)),
        ),
        (
            "a cluster IP and a balancer's",
            tcp(cluster_ip, 80),
            young(1),
            with(old(), load_balancer(cluster_ip)),
        ),
        (
            "a way inside and an external IP",
            tcp(cluster_ip, u16::MAX),
            both_local(),
            with(with_port(old(), u16::MAX, None), external_ip(cluster_ip)),
        ),
        ("a node port and an external IP", tcp(node, 30_080), on_node(), at_node(external_ip(node))),
        ("a node port and a balancer's", tcp(node, 30_080), on_node(), at_node(load_balancer(node))),
        (
            "a node port, which is an external IP too, and a balancer's",
            tcp(node, 30_080),
            with_port(with(young(1), external_ip(node)), 30_080, Some(30_080)),
            at_node(load_balancer(node)),
        ),
        (
            "a balancer's and an external IP",
            tcp(address, 80),
            with(young(1), load_balancer(address)),
            with(old(), external_ip(address)),
        ),
    ] {
        let told = [Conflict { server, winner: key("young"), loser: key("old") }];
        for orders in [[&first, &second], [&second, &first]] {
            let mut world = World::new(ProxyOptions::default(), named("web", 0, 9), &["here"]);
            let [one, other] = orders;
            assert_eq!(world.look([put(one)]), [], "{what}");
            assert_eq!(world.look([put(other)]), told, "{what}");
            assert_eq!(world.desired.owner(&server), Some(&first.key), "{what}");
            // The next Service in order takes over, and gives the virtual server back.
            world.tell(Event::Service(Change::Delete(first.key.clone())));
            assert_eq!(world.desired.owner(&server), Some(&second.key), "{what}");
            world.tell(put(&first));
            assert_eq!(world.desired.owner(&server), Some(&first.key), "{what}");
            let all: Vec<&ServiceKey> = world.desired.claimants(&server).collect();
            assert_eq!(all, [&first.key, &second.key], "{what}");
        }
    }
}

/// For example, the load balancer takes over an address that was written by hand.
#[test]
fn an_address_that_comes_by_another_way_is_judged_anew() {
    let (address, server) = ("203.0.113.1", tcp("203.0.113.1", 80));
    let mut world = World::new(ProxyOptions::default(), named("web", 0, 9), &["here"]);
    world.tell(put(&with(named("old", 1, 1), external_ip(address))));
    world.tell(put(&with(named("young", 9, 2), external_ip(address))));
    assert_eq!(world.desired.owner(&server), Some(&key("old")), "of two in one role the older one");
    world.tell(put(&with(named("young", 9, 2), load_balancer(address))));
    assert_eq!(world.desired.owner(&server), Some(&key("young")));
    world.tell(put(&with(named("young", 9, 2), external_ip(address))));
    assert_eq!(world.desired.owner(&server), Some(&key("old")));
}

/// Services are looked at by name, one after the other; what the last one gives up never stood in anybody's way.
#[test]
fn what_was_contested_during_a_look_only_is_not_told() {
    let (address, server) = ("203.0.113.1", tcp("203.0.113.1", 80));
    let delete = |name: &str| Event::Service(Change::Delete(key(name)));
    let of =
        |name: &str, created, number, address: &str| with(named(name, created, number), external_ip(address));
    for new in ["app", "zap"] {
        for created in [-1, 1] {
            let new = of(new, created, 2, address);
            let mut world = World::new(ProxyOptions::default(), of("web", 0, 1, address), &["here"]);
            assert_eq!(world.look([delete("web"), put(&new)]), [], "the other one goes: {:?}", new.key);
            assert_eq!(world.desired.owner(&server), Some(&new.key));

            let mut world = World::new(ProxyOptions::default(), of("web", 0, 1, address), &["here"]);
            let moved = of("web", 0, 1, "203.0.113.2");
            assert_eq!(world.look([put(&moved), put(&new)]), [], "it gets another address: {:?}", new.key);
            assert_eq!(world.desired.owner(&server), Some(&new.key));
        }
    }
}

/// If Services come while another one goes, the conflict names the new owner, not the old one.
#[test]
fn a_conflict_names_who_has_it_after_the_look() {
    let (address, server) = ("203.0.113.1", tcp("203.0.113.1", 80));
    let of = |name: &str, created, number| with(named(name, created, number), external_ip(address));
    for gone in ["a", "z"] {
        let gone = of(gone, 0, 1);
        for (first, second) in [("m", "n"), ("n", "m")] {
            let mut world = World::new(ProxyOptions::default(), named("web", 0, 9), &["here"]);
            world.tell(put(&gone));
            let (first, second) = (of(first, 1, 2), of(second, 2, 3));
            let events = [Event::Service(Change::Delete(gone.key.clone())), put(&first), put(&second)];
            let told = [Conflict { server, winner: first.key.clone(), loser: second.key.clone() }];
            assert_eq!(world.look(events), told, "{:?} goes", gone.key);
        }
    }
}
