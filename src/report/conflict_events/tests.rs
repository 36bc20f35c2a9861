use super::*;
use crate::api::events::Regarding;
use crate::api::{Change, Event};
use crate::cluster::examples;
use crate::cluster::types::{Endpoint, EndpointSlice, External, Family, Protocol, Service, SliceKey, Uid};
use crate::desired::Shared;
use crate::state::VirtualServerKey;

const UID: &str = "0c5a7bde-f012-4034-8967-89abcdef0100";
const NODES: [&str; 3] = ["one", "two", "three"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn slice(service: &str, endpoints: &[(&str, Option<&str>)]) -> Event {
    let endpoint = |(address, node): &(&str, Option<&str>)| Endpoint {
        address: ip(address),
        ready: false,
        serving: false,
        terminating: false,
        node: node.map(Into::into),
        hints: None,
    };
    Event::Slice(Change::Upsert(EndpointSlice {
        key: SliceKey::new("default", format!("{service}-1")),
        service: key(service),
        family: Family::V4,
        ports: Vec::new(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered_nanoseconds: None,
    }))
}

fn conflict(port: u16, loser: &str, winner: &str) -> Conflict {
    let server = VirtualServerKey { address: ip("10.96.0.1"), protocol: Protocol::Tcp, port };
    Conflict { server, winner: key(winner), loser: key(loser) }
}

/// Which nodes write Events, and how many.
fn writers(contested: &Contested, cluster: &Cluster) -> Vec<(&'static str, usize)> {
    let counts = NODES.map(|node| (node, of(contested, cluster, node).len()));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn of_two_services_with_one_address_one_node_tells() {
    let mut cluster = Cluster::default();
    let contested = |conflicts: Vec<Conflict>| Contested { conflicts, shared: Vec::new() };
    let found = contested(vec![conflict(80, "young", "old"), conflict(443, "young", "old")]);
    assert_eq!(writers(&found, &cluster), [], "nobody has an endpoint");
    cluster.apply(slice("young", &[("10.244.0.9", Some("three")), ("10.244.0.10", Some("one"))]));
    assert_eq!(writers(&found, &cluster), [("three", 1)], "the older one has none");
    // The order is that of the addresses, not that of arrival; an endpoint whose node is not known does not count.
    let old = [("10.244.1.7", Some("one")), ("10.244.1.3", Some("two")), ("10.244.1.1", None)];
    cluster.apply(slice("old", &old));
    assert_eq!(writers(&found, &cluster), [("two", 1)]);
    let [event] = &of(&found, &cluster, "two")[..] else { panic!("one") };
    assert_eq!(
        (&event.regarding, event.reason, event.warning),
        (&Regarding::Service { key: key("young"), uid: None }, "AddressConflict", true)
    );
    assert_eq!(
        event.note,
        "other Services have what this one asks for, and keep it (cluster IPs come before node ports, load balancers' \
         addresses and external IPs, in this order, then the older one): TCP 10.96.0.1:80 (default/old), TCP 10.96.0.1:443 \
         (default/old)"
    );
    // One for each Service that does not get its address.
    let found = contested(vec![conflict(80, "young", "old"), conflict(80, "younger", "old")]);
    assert_eq!(writers(&found, &cluster), [("two", 2)]);
}

#[test]
fn of_an_external_ip_that_is_its_own_the_node_tells() {
    let service = |name: &str, external: External| Service {
        uid: Uid::parse(UID),
        cluster_ips: vec![ip("10.96.0.1")],
        external: Some(Box::new(external)),
        ..examples::service(key(name))
    };
    let node = ip("192.168.0.1");
    let mut cluster = Cluster::default();
    for service in [
        service("external", External { external_ips: vec![node], ..External::default() }),
        service("balanced", External { load_balancer_ips: vec![node], ..External::default() }),
    ] {
        cluster.apply(Event::Service(Change::Upsert(service)));
    }
    let shared = |name: &str, owner: Owner| (Shared { service: key(name), address: node }, owner);
    for (name, owner, writes) in [
        ("external", Owner::Node, true),
        ("external", Owner::NodeObject, true),
        // The other node reports that itself.
        ("external", Owner::OtherNode("two".into()), false),
        // Some load balancers have addresses on a device of a node, and some those of all nodes.
        ("external", Owner::Device, false),
        ("balanced", Owner::Node, false),
        ("unknown", Owner::Node, false),
    ] {
        let shared = vec![shared(name, owner.clone())];
        let events = of(&Contested { conflicts: Vec::new(), shared }, &cluster, "one");
        assert_eq!(events.len(), usize::from(writes), "{name} {owner:?}");
        let about = Regarding::Service { key: key(name), uid: Uid::parse(UID) };
        assert!(events.iter().all(|event| event.regarding == about), "{events:?}");
        let note = "external IP 192.168.0.1 is node one's own: there it stays the node's, but for the Service's ports";
        assert!(events.iter().all(|event| event.note == note && event.warning), "{events:?}");
    }
}

/// Another Event about the same thing would be counted as a repetition of the first one.
#[test]
fn one_event_has_all_addresses_of_a_service() {
    let addresses = [ip("192.168.0.1"), ip("fd00::1")];
    let mut cluster = Cluster::default();
    let external = External { external_ips: addresses.to_vec(), ..External::default() };
    cluster.apply(Event::Service(Change::Upsert(Service {
        external: Some(Box::new(external)),
        ..examples::service(key("web"))
    })));
    cluster.apply(slice("old", &[("10.244.1.3", Some("one"))]));
    let shared = |address| (Shared { service: key("web"), address }, Owner::Node);
    let found =
        Contested { conflicts: vec![conflict(80, "web", "old")], shared: addresses.map(shared).to_vec() };
    let [event] = &of(&found, &cluster, "one")[..] else { panic!("one") };
    assert_eq!(
        event.note,
        "other Services have what this one asks for, and keep it (cluster IPs come before node ports, load balancers' \
         addresses and external IPs, in this order, then the older one): TCP 10.96.0.1:80 (default/old); external IPs \
         192.168.0.1, fd00::1 are node one's own: there they stay the node's, but for the Service's ports"
    );
}
