//! What depends on this node: on its zone, its addresses, its pods.

use super::*;
use crate::cluster::types::Hints;

#[test]
fn node_ports_follow_the_nodes_addresses() {
    let networks = |list: &[&str]| {
        let networks = list.iter().map(|network| network.parse().expect("a network")).collect();
        let node_port_addresses = NodePortAddresses { networks, primary: false };
        ProxyOptions { node_port_addresses, ..ProxyOptions::default() }
    };
    let primary = |list| {
        let ProxyOptions { node_port_addresses, .. } = networks(list);
        let node_port_addresses = NodePortAddresses { primary: true, ..node_port_addresses };
        ProxyOptions { node_port_addresses, ..ProxyOptions::default() }
    };
    let all = [("127.0.0.1", "lo"), ("192.168.0.1", "eth0"), ("10.9.0.1", "eth1")];
    let node = Node {
        name: "here".into(),
        addresses: vec![ip("10.9.0.1")],
        zone: None,
        pod_cidrs: vec![],
        eligible: true,
    };
    for (options, wanted) in [
        (networks(&[]), &["10.9.0.1", "192.168.0.1"][..]),
        (networks(&["0.0.0.0/0"]), &["10.9.0.1", "192.168.0.1"]),
        (networks(&["192.168.0.0/16", "127.0.0.0/8"]), &["192.168.0.1"]),
        (networks(&["172.16.0.0/12"]), &[]),
        (networks(&["fd00::/8"]), &["10.9.0.1", "192.168.0.1"]),
        (primary(&[]), &["10.9.0.1"]),
        (primary(&["192.168.0.0/16"]), &["10.9.0.1", "192.168.0.1"]),
        (primary(&["127.0.0.0/8", "::1/128"]), &["10.9.0.1"]),
        (primary(&["0.0.0.0/0", "::/0"]), &["10.9.0.1", "192.168.0.1"]),
        // Networks are given, but none can be served: that does not mean everywhere, as in kube-proxy.
        (networks(&["127.0.0.0/8", "::1/128"]), &[]),
    ] {
        let mut world = World::new(options, service(External::default(), Some(30_080)), &["here"]);
        world.tell(Event::Node(Change::Upsert(node.clone())));
        world.tell(Event::NodeAddresses(addresses(&all)));
        let servers: Vec<String> = world
            .state()
            .virtual_servers
            .into_keys()
            .filter(|server| server.port == 30_080)
            .map(|server| server.address.to_string())
            .collect();
        assert_eq!(servers, wanted);
    }
}

#[test]
fn the_rules_know_what_is_inside_and_the_nodes_address() {
    let name = |name| InterfaceName::new(name).expect("a name");
    let cidrs = vec!["10.244.0.0/16".parse().expect("a network")];
    let node = Node {
        name: "here".into(),
        addresses: vec![ip("192.168.0.9")],
        zone: None,
        pod_cidrs: vec!["10.244.7.0/24".parse().expect("a network")],
        eligible: true,
    };
    for (local_detector, inside) in [
        (LocalDetector::ClusterCidr, Inside::Network("10.244.0.0/16".parse().expect("a network"))),
        (LocalDetector::NodeCidr, Inside::Network("10.244.7.0/24".parse().expect("a network"))),
        (LocalDetector::BridgeInterface(name("cni0")), Inside::Interface(name("cni0"))),
        (LocalDetector::InterfaceNamePrefix(name("cali")), Inside::InterfacePrefix(name("cali"))),
    ] {
        let options =
            ProxyOptions { local_detector, cluster_cidrs: cidrs.clone(), ..ProxyOptions::default() };
        let mut world = World::new(options, service(External::default(), None), &[]);
        world.tell(Event::Node(Change::Upsert(node.clone())));
        world.tell(Event::NodeAddresses(addresses(&[
            ("10.244.7.1", "cni0"),
            ("192.168.0.9", "eth0"),
            ("192.168.0.1", "eth0"),
        ])));
        let Rules::Intact(settings) = &world.state().rules[&Family::V4] else {
            panic!("not as we make them")
        };
        assert_eq!(settings.inside, Some(inside));
        assert_eq!(
            settings.node_address,
            Some("192.168.0.9".parse().expect("an address")),
            "the Node object's"
        );
        assert!(world.has(Element::Numbered(name("cni0"))) && world.has(Element::Numbered(name("eth0"))));
        let Rules::Intact(settings) = &world.state().rules[&Family::V6] else {
            panic!("not as we make them")
        };
        assert_eq!(settings.node_address, None);
    }
}

/// Clients go to the endpoints that are meant for the node's current zone.
#[test]
fn a_node_that_gets_another_zone_leads_to_other_endpoints() {
    let mut world = World::new(ProxyOptions::default(), service(External::default(), None), &["a", "b"]);
    let mut hinted = slice(&["a", "b"]);
    for (endpoint, zone) in hinted.endpoints.iter_mut().zip(["west", "east"]) {
        endpoint.hints = Some(for_zone(zone).into());
    }
    world.tell(Event::Slice(Change::Upsert(hinted)));
    let server = tcp("10.96.0.1", 80);
    for (zone, wanted) in [(None, &[1, 2][..]), (Some("west"), &[1]), (Some("east"), &[2]), (None, &[1, 2])] {
        world.tell(Event::Node(Change::Upsert(Node { zone: zone.map(Into::into), ..node(&[]) })));
        assert_eq!(world.real_servers(server), wanted, "{zone:?}");
    }
}

/// A cluster has many Services, and most of them do not depend on the node's place or name.
#[test]
fn a_change_of_the_node_concerns_only_the_services_that_depend_on_it() {
    let external =
        |address: &str, policy| External { load_balancer_ips: vec![ip(address)], ..balanced(policy) };
    let ranges = vec!["10.0.0.0/8".parse().expect("a network")];
    let services = [
        ("hinted", External::default(), None),
        ("local", external("203.0.113.2", Policy::Local), None),
        ("plain", external("203.0.113.3", Policy::Cluster), None),
        ("with-node-port", External::default(), Some(30_080)),
        ("with-ranges", External { source_ranges: ranges, ..external("203.0.113.4", Policy::Cluster) }, None),
    ];
    let options = ProxyOptions { local_detector: LocalDetector::NodeCidr, ..ProxyOptions::default() };
    let mut world = World::new(options, service(External::default(), None), &["here"]);
    for (number, (name, external, node_port)) in (2..).zip(services) {
        let key = ServiceKey::new("default", name);
        let mut slice =
            EndpointSlice { key: SliceKey::new("default", name), service: key.clone(), ..slice(&["here"]) };
        slice.endpoints[0].hints = (name == "hinted").then(|| for_zone("west").into());
        world.tell(Event::Slice(Change::Upsert(slice)));
        let cluster_ips = vec![ip(&format!("10.96.0.{number}"))];
        world.tell(Event::Service(Change::Upsert(Service {
            key,
            cluster_ips,
            ..service(external, node_port)
        })));
    }
    let here = |zone: Option<&str>, address, pods: &[&str]| {
        let pod_cidrs = pods.iter().map(|network| network.parse().expect("a network")).collect();
        Event::Node(Change::Upsert(Node { zone: zone.map(Into::into), pod_cidrs, ..node(&[address]) }))
    };
    world.tell(here(None, "192.168.0.1", &[]));
    let more = addresses(&[("127.0.0.1", "lo"), ("192.168.0.1", "eth0"), ("192.168.0.2", "eth0")]);
    for (what, event, concerned) in [
        ("its zone", here(Some("west"), "192.168.0.1", &[]), &["hinted"][..]),
        ("the address it is known by", here(Some("west"), "192.168.0.9", &[]), &["with-ranges"]),
        ("whose pods are its own", here(Some("west"), "192.168.0.9", &["10.244.0.0/24"]), &["local"]),
        ("where pods are", here(Some("west"), "192.168.0.9", &["10.244.1.0/24"]), &[]),
        ("its addresses", Event::NodeAddresses(more), &["with-node-port", "with-ranges"]),
    ] {
        world.cluster.apply(event);
        let (_, touched) = world.desired.look_at_node(&world.cluster);
        let names: Vec<&str> = touched.iter().map(ServiceKey::name).collect();
        assert_eq!(names, concerned, "{what}");
    }
}

fn for_zone(zone: &str) -> Hints {
    Hints { zones: vec![zone.into()], nodes: vec![] }
}

fn node(addresses: &[&str]) -> Node {
    Node {
        name: "here".into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        zone: None,
        pod_cidrs: vec![],
        eligible: true,
    }
}
