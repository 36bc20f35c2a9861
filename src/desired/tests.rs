mod claims;
mod node;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::settings::Supported;
use super::{Desired, Shared};
use crate::api::{Change, Event};
use crate::cluster::Cluster;
use crate::cluster::examples;
use crate::cluster::types::{
    AddressScope, Endpoint, EndpointSlice, External, Family, Node, NodeAddress, NodeAddresses, Policy,
    Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use crate::options::ProxyOptions;
use crate::options::proxy::{LocalDetector, NodePortAddresses};
use crate::state::{
    Element, Inside, InterfaceName, Key, RealServerKey, Rules, Scope, State, Sysctl, VirtualServer,
    VirtualServerKey, Weight,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tcp(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: ip(address), protocol: Protocol::Tcp, port }
}

fn service(external: External, node_port: Option<u16>) -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port }],
        external: Some(Box::new(external)),
        ..examples::service(ServiceKey::new("default", "web"))
    }
}

/// Endpoints 10.244.0.N on these nodes.
fn slice(nodes: &[&str]) -> EndpointSlice {
    let endpoint = |(number, node): (u8, &&str)| Endpoint {
        node: Some((*node).into()),
        ..examples::endpoint(ip(&format!("10.244.0.{number}")))
    };
    EndpointSlice {
        key: SliceKey::new("default", "web-1"),
        service: ServiceKey::new("default", "web"),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (1..).zip(nodes).map(endpoint).collect(),
        triggered_nanoseconds: None,
    }
}

fn addresses(list: &[(&str, &str)]) -> NodeAddresses {
    let address = |(address, interface): &(&str, &str)| NodeAddress {
        address: ip(address),
        interface: (*interface).into(),
        scope: if ip(address).is_loopback() { AddressScope::Host } else { AddressScope::Global },
    };
    list.iter().map(address).collect()
}

/// As on most kernels: both families, and every parameter.
fn supported() -> Supported {
    Supported { families: Family::ALL.into(), kernel: (6, 12), missing: BTreeSet::new() }
}

/// A node with 192.168.0.1 on eth0 and one Service.
struct World {
    cluster: Cluster,
    desired: Desired,
}

impl World {
    fn new(options: ProxyOptions, service: Service, endpoints_on: &[&str]) -> Self {
        let desired = Desired::new(options, "here".into(), supported());
        let mut world = Self { cluster: Cluster::default(), desired };
        world.tell(Event::NodeAddresses(addresses(&[("127.0.0.1", "lo"), ("192.168.0.1", "eth0")])));
        world.tell(Event::Slice(Change::Upsert(slice(endpoints_on))));
        world.tell(Event::Service(Change::Upsert(service)));
        world
    }

    /// Takes an event in, as the loop does. Every key whose wanted value changes must be in the scope.
    fn tell(&mut self, event: Event) -> (Scope, Vec<Shared>) {
        let before = self.state();
        let touched = self.cluster.apply(event);
        let (settings, of_node) = self.desired.look_at_node(&self.cluster);
        let update = self.desired.update(&self.cluster, &touched.union(&of_node).cloned().collect());
        let scope: Scope = settings.into_iter().chain(update.scope).collect();
        let after = self.state();
        let keys: Scope = before.keys().chain(after.keys()).collect();
        for key in keys.into_iter().filter(|key| !before.same(&after, key)) {
            assert!(scope.contains(&key), "{key} changed, and was not told");
        }
        self.assert_contested_is_counted();
        (scope, update.shared)
    }

    /// The conflicts and shared addresses that are counted must be those that a look at everything finds.
    fn assert_contested_is_counted(&self) {
        let (mut lost, mut shared) = (0, 0);
        for Service { key, .. } in self.cluster.services() {
            lost += self
                .desired
                .virtual_servers_of(key)
                .filter(|server| self.desired.owner(server) != Some(key))
                .count();
            let keys = self.desired.keys_of(key);
            shared +=
                keys.iter().filter(|key| matches!(key, Key::Element(Element::SharedAddress(_)))).count();
        }
        assert_eq!(self.desired.contested(), (lost, shared));
    }

    fn state(&self) -> State {
        self.desired.select(&self.desired.keys().collect())
    }

    fn elements(&self) -> BTreeSet<String> {
        self.state().elements.iter().map(ToString::to_string).collect()
    }

    fn has(&self, element: Element) -> bool {
        let key = Key::Element(element);
        assert_eq!(self.desired.wants(&key), self.state().elements.contains(&element));
        self.desired.wants(&key)
    }

    fn real_servers(&self, server: VirtualServerKey) -> Vec<u8> {
        let state = self.state();
        let last = |real: &RealServerKey| match real.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => panic!("{real} is of the other family"),
        };
        let server = &state.virtual_servers[&server];
        assert!(server.real_servers.values().all(|real| real.weight == Weight::Exactly(1)));
        server.real_servers.keys().map(last).collect()
    }
}

fn balanced(policy: Policy) -> External {
    External { load_balancer_ips: vec![ip("203.0.113.1")], policy, ..External::default() }
}

/// With affinity, IPVS would lead all ports from 1024 on that no Service has to the endpoints of FTP's port.
#[test]
fn affinity_is_not_asked_for_at_the_port_of_ftp() {
    let port = |protocol, port| ServicePort { name: "".into(), protocol, port, node_port: None };
    let sticky = Service {
        ports: vec![
            port(Protocol::Tcp, 21),
            port(Protocol::Udp, 21),
            ServicePort { node_port: Some(21), ..port(Protocol::Tcp, 22) },
        ],
        affinity_seconds: Some(600),
        ..service(External { external_ips: vec![ip("198.51.100.1")], ..External::default() }, None)
    };
    let mut state = World::new(ProxyOptions::default(), sticky, &["here"]).state();
    let all: Vec<_> = ["10.96.0.1", "198.51.100.1", "192.168.0.1"].map(ip).into_iter().collect();
    state.virtual_servers.retain(|server, _| all.contains(&server.address));
    assert_eq!(state.virtual_servers.len(), 7);
    for (key, server) in &state.virtual_servers {
        let affinity = if (key.protocol, key.port) == (Protocol::Tcp, 21) {
            (0, 0)
        } else {
            (VirtualServer::PERSISTENT, 600)
        };
        assert_eq!((server.flags, server.timeout_seconds), affinity, "{key}");
    }
}

#[test]
fn policy_cluster_leads_everybody_everywhere_and_masquerades() {
    let world = World::new(
        ProxyOptions::default(),
        service(balanced(Policy::Cluster), Some(30_080)),
        &["here", "there"],
    );
    for server in [tcp("10.96.0.1", 80), tcp("203.0.113.1", 80), tcp("192.168.0.1", 30_080)] {
        assert_eq!(world.real_servers(server), [1, 2], "{server}");
    }
    let wanted = [
        "cluster-addresses 10.96.0.1",
        "external-addresses 203.0.113.1",
        "hairpin 10.244.0.1",
        "masqueraded TCP 192.168.0.1:30080",
        "masqueraded TCP 203.0.113.1:80",
        "numbered eth0",
        "owned TCP 192.168.0.1:30080",
    ];
    assert_eq!(world.elements(), wanted.map(str::to_owned).into());
    let on_device: Vec<_> = world.state().addresses.into_keys().collect();
    assert_eq!(on_device, [ip("10.96.0.1"), ip("203.0.113.1")]);
}

/// Pods are told apart from others by their network.
fn with_pods() -> ProxyOptions {
    let cluster_cidrs = vec!["10.244.0.0/16".parse().expect("a network")];
    ProxyOptions { cluster_cidrs, ..ProxyOptions::default() }
}

#[test]
fn policy_local_leads_clients_inside_elsewhere() {
    let mut world =
        World::new(with_pods(), service(balanced(Policy::Local), Some(30_080)), &["here", "there"]);
    assert_eq!(world.real_servers(tcp("10.96.0.1", 80)), [1, 2]);
    for server in [tcp("203.0.113.1", 80), tcp("192.168.0.1", 30_080)] {
        assert_eq!(world.real_servers(server), [1], "{server}");
        assert!(world.has(Element::InCluster(server, ip("10.96.0.1"), 80)));
        assert!(!world.has(Element::Masquerade(server)) && !world.has(Element::Dropped(server)));
    }
    assert!(
        world.has(Element::Hairpin(ip("10.244.0.2"))),
        "pods of other nodes come by with their own address"
    );

    world.tell(Event::Slice(Change::Upsert(slice(&["there"]))));
    for server in [tcp("203.0.113.1", 80), tcp("192.168.0.1", 30_080)] {
        assert!(world.real_servers(server).is_empty());
        assert!(world.has(Element::Dropped(server)) && !world.has(Element::Refused(server)));
    }
    world.tell(Event::Slice(Change::Upsert(slice(&[]))));
    assert!(!world.has(Element::Dropped(tcp("203.0.113.1", 80))), "refused with all that is not declared");
    assert!(world.has(Element::Refused(tcp("192.168.0.1", 30_080))), "the node's other ports are the node's");
}

/// As kube-proxy's ipvs mode does everywhere: pods should reach all endpoints, but cannot be told apart from others.
#[test]
fn where_pods_are_unknown_policy_local_leads_away_rather_than_nowhere() {
    let outside = [tcp("203.0.113.1", 80), tcp("192.168.0.1", 30_080)];
    let local = || service(balanced(Policy::Local), Some(30_080));
    let mut world = World::new(ProxyOptions::default(), local(), &["there", "there"]);
    for server in outside {
        assert_eq!(world.real_servers(server), [1, 2], "{server}");
        assert!(!world.has(Element::Dropped(server)) && !world.has(Element::Masquerade(server)));
    }
    world.tell(Event::Slice(Change::Upsert(slice(&["there", "here"]))));
    assert!(outside.iter().all(|server| world.real_servers(*server) == [2]), "this node's, if it has any");
    world.tell(Event::Slice(Change::Upsert(slice(&[]))));
    assert!(world.has(Element::Refused(outside[1])));

    let inside = Service { internal_policy: Policy::Local, ..local() };
    let world = World::new(ProxyOptions::default(), inside, &["there"]);
    assert!(
        world.has(Element::Dropped(tcp("10.96.0.1", 80))),
        "the internal policy asks nobody who they are"
    );

    let by_node = ProxyOptions { local_detector: LocalDetector::NodeCidr, ..ProxyOptions::default() };
    let mut world = World::new(by_node, local(), &["there"]);
    let node = Node {
        name: "here".into(),
        addresses: vec![],
        zone: None,
        pod_cidrs: vec!["10.244.7.0/24".parse().expect("a network")],
        eligible: true,
    };
    assert!(!world.has(Element::Dropped(outside[0])));
    world.tell(Event::Node(Change::Upsert(node)));
    assert!(world.has(Element::Dropped(outside[0])), "its network came to be known");
}

#[test]
fn where_both_policies_are_local_there_is_a_virtual_server_for_clients_inside() {
    for (node_port, number) in [(Some(30_080), 30_080), (Some(80), 65_535), (None, 65_535)] {
        let both = Service { internal_policy: Policy::Local, ..service(balanced(Policy::Local), node_port) };
        let world = World::new(ProxyOptions::default(), both, &["here", "there"]);
        assert_eq!(world.real_servers(tcp("10.96.0.1", 80)), [1]);
        assert_eq!(world.real_servers(tcp("10.96.0.1", number)), [1, 2]);
        assert!(world.has(Element::Internal(tcp("10.96.0.1", number))));
        assert!(world.has(Element::InCluster(tcp("203.0.113.1", 80), ip("10.96.0.1"), number)));
    }
}

#[test]
fn several_ports_without_node_ports_have_ways_inside_of_their_own() {
    let mut both = Service { internal_policy: Policy::Local, ..service(balanced(Policy::Local), None) };
    let port =
        |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None };
    both.ports = vec![port("a", 80), port("b", 65_535), port("c", 81)];
    let world = World::new(ProxyOptions::default(), both, &["here"]);
    let inside: Vec<u16> = world
        .state()
        .elements
        .into_iter()
        .filter_map(|element| match element {
            Element::InCluster(_, _, port) => Some(port),
            _ => None,
        })
        .collect();
    assert_eq!(inside.len(), 3);
    assert_eq!(inside.iter().collect::<BTreeSet<_>>().len(), 3, "{inside:?}");
    assert!(inside.iter().all(|port| ![80, 81, 65_535].contains(port)), "{inside:?}");
}

#[test]
fn internal_policy_local_drops_what_has_endpoints_on_other_nodes_only() {
    let local =
        Service { internal_policy: Policy::Local, external: None, ..service(External::default(), None) };
    let mut world = World::new(ProxyOptions::default(), local, &["there"]);
    assert!(world.has(Element::Dropped(tcp("10.96.0.1", 80))));
    world.tell(Event::Slice(Change::Upsert(slice(&["there", "here"]))));
    assert!(!world.has(Element::Dropped(tcp("10.96.0.1", 80))));
    assert_eq!(world.real_servers(tcp("10.96.0.1", 80)), [2]);
}

#[test]
fn an_address_that_another_device_has_is_served_and_not_put_on_ours() {
    let mut world = World::new(ProxyOptions::default(), service(balanced(Policy::Cluster), None), &["here"]);
    let (address, server) = (ip("203.0.113.1"), tcp("203.0.113.1", 80));
    assert!(world.state().addresses.contains_key(&address) && !world.has(Element::Owned(server)));

    let more = addresses(&[("192.168.0.1", "eth0"), ("203.0.113.1", "eth0")]);
    let (_, shared) = world.tell(Event::NodeAddresses(more));
    assert_eq!(shared, [Shared { service: ServiceKey::new("default", "web"), address }]);
    assert!(!world.state().addresses.contains_key(&address));
    assert_eq!(world.real_servers(server), [1]);
    assert!(world.has(Element::Owned(server)) && world.has(Element::SharedAddress(address)));

    world.tell(Event::NodeAddresses(addresses(&[("192.168.0.1", "eth0")])));
    assert!(world.state().addresses.contains_key(&address) && !world.has(Element::SharedAddress(address)));

    let node =
        Node { name: "here".into(), addresses: vec![address], zone: None, pod_cidrs: vec![], eligible: true };
    world.tell(Event::Node(Change::Upsert(node)));
    assert!(!world.state().addresses.contains_key(&address), "the Node object calls it its own");
    // No device has the address, so only rewritten packets stay on this node.
    assert!(
        world.has(Element::InCluster(server, ip("10.96.0.1"), 80)) && world.has(Element::Masquerade(server))
    );
    let back = addresses(&[("192.168.0.1", "eth0"), ("203.0.113.1", "eth0")]);
    world.tell(Event::NodeAddresses(back));
    assert!(!world.has(Element::InCluster(server, ip("10.96.0.1"), 80)) && world.has(Element::Owned(server)));
}

/// The external policy allows all endpoints, but the cluster IP's own port leads to this node's only.
#[test]
fn an_address_that_no_device_has_reaches_all_endpoints_where_the_internal_policy_is_local() {
    let (address, server) = (ip("203.0.113.1"), tcp("203.0.113.1", 80));
    let external = External { external_ips: vec![address], ..External::default() };
    for external in [external, balanced(Policy::Cluster)] {
        let local = Service { internal_policy: Policy::Local, ..service(external, None) };
        let mut world = World::new(ProxyOptions::default(), local, &["there"]);
        let inside = tcp("10.96.0.1", u16::MAX);
        assert!(!world.state().virtual_servers.contains_key(&inside), "nobody is sent there");

        let node = |addresses| Node {
            name: "here".into(),
            addresses,
            zone: None,
            pod_cidrs: vec![],
            eligible: true,
        };
        world.tell(Event::Node(Change::Upsert(node(vec![address]))));
        assert!(world.has(Element::InCluster(server, inside.address, inside.port)));
        assert_eq!(world.real_servers(inside), [1]);
        assert!(world.has(Element::Internal(inside)) && !world.has(Element::Dropped(inside)));
        assert!(world.has(Element::Dropped(tcp("10.96.0.1", 80))), "this node has no endpoint");

        world.tell(Event::Node(Change::Upsert(node(vec![ip("2001:db8::1")]))));
        assert!(!world.state().virtual_servers.contains_key(&inside), "the address is nobody's");
    }
}

#[test]
fn what_two_services_claim_is_told_whoever_comes_first() {
    let web = service(External::default(), None);
    let named = |name: &str, created_seconds| Service {
        key: ServiceKey::new("default", name),
        created_seconds,
        ..web.clone()
    };
    let mut world = World::new(ProxyOptions::default(), web.clone(), &["here"]);
    let slices = ["older", "younger"].map(|name| EndpointSlice {
        key: SliceKey::new("default", name),
        service: ServiceKey::new("default", name),
        ..slice(&["here"])
    });
    for slice in slices {
        world.tell(Event::Slice(Change::Upsert(slice)));
    }
    let tell = |world: &mut World, event: Event| {
        let touched = world.cluster.apply(event);
        let update = world.desired.update(&world.cluster, &touched);
        world.assert_contested_is_counted();
        let conflicts = update.conflicts.into_iter();
        let names = |key: &ServiceKey| key.to_string();
        conflicts.map(|conflict| (names(&conflict.loser), names(&conflict.winner))).collect::<BTreeSet<_>>()
    };
    let pair = |loser: &str, winner: &str| {
        BTreeSet::from([(format!("default/{loser}"), format!("default/{winner}"))])
    };
    let created = web.created_seconds;
    let younger = Event::Service(Change::Upsert(named("younger", created + 1)));
    assert_eq!(tell(&mut world, younger), pair("younger", "web"));
    let lost = world.desired.contested().0;
    assert_ne!(lost, 0);
    let older = Event::Service(Change::Upsert(named("older", created - 1)));
    assert_eq!(tell(&mut world, older), pair("web", "older"), "the list may be in any order");
    assert_eq!(world.desired.contested().0, lost * 2);
    for (name, left) in [("older", lost), ("younger", 0)] {
        let gone = Event::Service(Change::Delete(ServiceKey::new("default", name)));
        assert_eq!(tell(&mut world, gone), BTreeSet::new());
        assert_eq!(world.desired.contested().0, left);
    }
}

#[test]
fn an_address_of_another_node_is_left_to_it() {
    let mut world = World::new(ProxyOptions::default(), service(balanced(Policy::Cluster), None), &["here"]);
    let (address, server) = (ip("203.0.113.1"), tcp("203.0.113.1", 80));
    let node = |address| Node {
        name: "there".into(),
        addresses: vec![address],
        zone: None,
        pod_cidrs: vec![],
        eligible: true,
    };
    world.tell(Event::OtherNode(Change::Replace(vec![node(address)])));
    assert!(!world.state().addresses.contains_key(&address) && world.has(Element::SharedAddress(address)));
    world.tell(Event::OtherNode(Change::Upsert(node(ip("192.168.0.2")))));
    assert!(world.state().addresses.contains_key(&address));
    world.tell(Event::OtherNode(Change::Upsert(node(address))));
    world.tell(Event::OtherNode(Change::Delete("there".into())));
    assert!(world.state().addresses.contains_key(&address));

    // Traffic to the address is left alone, whatever the Service says about it.
    for policy in [Policy::Cluster, Policy::Local] {
        let external = External {
            source_ranges: vec!["10.0.0.0/8".parse().expect("a network")],
            health_check_node_port: Some(32_000),
            ..balanced(policy)
        };
        let mut world = World::new(with_pods(), service(external, None), &["there"]);
        assert!(world.state().virtual_servers.contains_key(&server));
        let (_, shared) = world.tell(Event::OtherNode(Change::Replace(vec![node(address)])));
        assert_eq!(shared, [Shared { service: ServiceKey::new("default", "web"), address }]);
        let about = |element: &Element| element.address().or_else(|| Some(element.entry_point()?.address));
        let elements: Vec<Element> =
            world.state().elements.into_iter().filter(|element| about(element) == Some(address)).collect();
        assert_eq!(elements, [Element::SharedAddress(address)], "{policy:?}");
        assert!(!world.state().virtual_servers.contains_key(&server));
        world.tell(Event::NodeAddresses(addresses(&[("203.0.113.1", "eth0")])));
        assert!(world.has(Element::Owned(server)), "a device of this node has it");
    }
    // Cluster IPs never belong to another node.
    let mut world = World::new(ProxyOptions::default(), service(External::default(), None), &["here"]);
    world.tell(Event::OtherNode(Change::Replace(vec![node(ip("10.96.0.1"))])));
    assert!(world.state().addresses.contains_key(&ip("10.96.0.1")));
    assert_eq!(world.real_servers(tcp("10.96.0.1", 80)), [1]);
}

#[test]
fn ranges_are_about_load_balancers_addresses_and_let_a_node_inside_of_them_pass() {
    let ranges = |list: &[&str]| External {
        external_ips: vec![ip("198.51.100.1")],
        source_ranges: list.iter().map(|range| range.parse().expect("a network")).collect(),
        ..balanced(Policy::Cluster)
    };
    let server = tcp("203.0.113.1", 80);
    let allowed = |network: &str| Element::Allowed(server, network.parse().expect("a network"));
    let world = World::new(
        ProxyOptions::default(),
        service(ranges(&["10.0.0.0/8", "10.1.0.0/16"]), Some(30_080)),
        &["here"],
    );
    assert!(world.has(Element::Restricted(server)) && world.has(allowed("10.0.0.0/8")));
    assert!(!world.has(allowed("10.1.0.0/16")), "disjoint");
    assert!(!world.has(allowed("203.0.113.1/32")), "the node is not inside");
    assert!(!world.has(Element::Restricted(tcp("198.51.100.1", 80))));
    assert!(!world.has(Element::Restricted(tcp("192.168.0.1", 30_080))));

    let world = World::new(ProxyOptions::default(), service(ranges(&["192.168.0.0/24"]), None), &["here"]);
    assert!(world.has(allowed("203.0.113.1/32")), "a node's own connections come from the address itself");
    let world = World::new(ProxyOptions::default(), service(ranges(&["fd00::/8"]), None), &["here"]);
    assert!(!world.has(Element::Restricted(server)), "ranges of the other family");

    // Only this node has the address itself as a source.
    for (range, around) in [
        ("203.0.113.0/30", &["203.0.113.0/32", "203.0.113.2/31"][..]),
        ("203.0.113.1/32", &[]),
        ("203.0.112.0/24", &["203.0.112.0/24"]),
    ] {
        let world = World::new(ProxyOptions::default(), service(ranges(&[range]), None), &["here"]);
        let elements = world.state().elements.into_iter();
        let found: Vec<_> = elements
            .filter_map(|element| match element {
                Element::Allowed(_, network) => Some(network.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(found, around, "{range}");
        assert!(world.has(Element::Restricted(server)));
    }
    let everybody = World::new(ProxyOptions::default(), service(ranges(&["0.0.0.0/0"]), None), &["here"]);
    assert!(everybody.has(allowed("0.0.0.0/0")), "the node is inside");
}

/// In each family, the one address by which the node is known decides, whatever others it has.
#[test]
fn a_node_is_inside_of_ranges_by_the_address_that_it_is_known_by() {
    let node = |addresses: &[&str]| {
        Event::Node(Change::Upsert(Node {
            name: "here".into(),
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            zone: None,
            pod_cidrs: vec![],
            eligible: true,
        }))
    };
    let ranges = |range: &str| External {
        source_ranges: vec![range.parse().expect("a network")],
        ..balanced(Policy::Cluster)
    };
    let passes = Element::Allowed(tcp("203.0.113.1", 80), "203.0.113.1/32".parse().expect("a network"));
    for (range, bind_address, expected) in [
        ("10.0.0.0/24", None, true),
        ("198.51.100.0/24", None, false),
        ("10.0.0.0/24", Some("192.0.2.9"), false),
        ("192.0.2.0/24", Some("192.0.2.9"), true),
        ("127.0.0.0/8", Some("fd00::9"), false),
    ] {
        let options = ProxyOptions { bind_address: bind_address.map(ip), ..ProxyOptions::default() };
        let mut world = World::new(options, service(ranges(range), None), &["here"]);
        world.tell(node(&["10.0.0.5", "198.51.100.7"]));
        assert_eq!(world.has(passes), expected, "{range} {bind_address:?}");
    }
}

#[test]
fn health_checks_are_answered_on_the_load_balancers_addresses() {
    let external = External {
        external_ips: vec![ip("198.51.100.1"), ip("2001:db8::1")],
        health_check_node_port: Some(32_000),
        ..balanced(Policy::Local)
    };
    let world = World::new(ProxyOptions::default(), service(external.clone(), None), &["here"]);
    for (address, expected) in
        [("203.0.113.1", true), ("198.51.100.1", true), ("10.96.0.1", false), ("2001:db8::1", false)]
    {
        assert_eq!(world.has(Element::HealthCheck(tcp(address, 32_000))), expected, "{address}");
    }
    // Without any other external entry point, there is no second way inside.
    let external = External { external_ips: vec![], load_balancer_ips: vec![], ..external };
    let local = Service { internal_policy: Policy::Local, ..service(external, None) };
    let world = World::new(ProxyOptions::default(), local, &["here"]);
    assert_eq!(world.state().virtual_servers.len(), 1);
}

/// The gate `AllowServiceExternalIPs` removes these addresses and nothing else: node ports and load balancers keep
/// their policy.
#[test]
fn external_ips_that_are_switched_off_are_as_if_they_were_not_there() {
    let options = |external_ips| ProxyOptions { external_ips, ..ProxyOptions::default() };
    let with = |external: &External| External { external_ips: vec![ip("198.51.100.1")], ..external.clone() };
    for external in [External::default(), balanced(Policy::Local)] {
        let service =
            |external| Service { internal_policy: Policy::Local, ..service(external, Some(30_080)) };
        let off = World::new(options(false), service(with(&external)), &["here"]);
        let without = World::new(options(true), service(external.clone()), &["here"]);
        assert_eq!(off.state(), without.state(), "{external:?}");
        let on = World::new(options(true), service(with(&external)), &["here"]);
        assert!(on.state().virtual_servers.contains_key(&tcp("198.51.100.1", 80)));
    }
}

/// Elements about an entry point are those of the Service that has it.
#[test]
fn a_loser_restricts_nobody() {
    let mut world = World::new(ProxyOptions::default(), service(balanced(Policy::Cluster), None), &["here"]);
    let server = tcp("203.0.113.1", 80);
    let restricted =
        External { source_ranges: vec!["10.0.0.0/8".parse().expect("a network")], ..balanced(Policy::Local) };
    let younger = Service {
        key: ServiceKey::new("default", "younger"),
        created_seconds: 1,
        cluster_ips: vec![ip("10.96.0.2")],
        ..service(restricted, None)
    };
    world.tell(Event::Service(Change::Upsert(younger)));
    assert!(world.has(Element::Masquerade(server)) && !world.has(Element::Restricted(server)));
    world.tell(Event::Service(Change::Delete(ServiceKey::new("default", "web"))));
    assert!(!world.has(Element::Masquerade(server)) && world.has(Element::Restricted(server)));
    assert!(world.has(Element::InCluster(server, ip("10.96.0.2"), 80)));
}

/// The Service that has the entry point may ask for no elements about it at all.
#[test]
fn elements_go_and_come_with_the_service_that_has_the_entry_point() {
    let local =
        Service { internal_policy: Policy::Local, created_seconds: 1, ..service(External::default(), None) };
    let mut world = World::new(ProxyOptions::default(), local, &["there"]);
    let server = tcp("10.96.0.1", 80);
    assert!(world.has(Element::Dropped(server)));
    let older = Service { key: ServiceKey::new("default", "older"), ..service(External::default(), None) };
    world.tell(Event::Service(Change::Upsert(older.clone())));
    assert_eq!(world.desired.owner(&server), Some(&older.key));
    assert!(!world.has(Element::Dropped(server)));
    world.tell(Event::Service(Change::Delete(older.key)));
    assert!(world.has(Element::Dropped(server)));
}

/// With mode 1, kernels before 5.9 delay each connection from a reused port by a second.
#[test]
fn older_kernels_do_not_delay_ports_that_are_used_again() {
    for (kernel, mode) in
        [((0, 0), "0"), ((4, 18), "0"), ((5, 8), "0"), ((5, 9), "1"), ((5, 10), "1"), ((6, 12), "1")]
    {
        let supported = Supported { kernel, ..supported() };
        let desired = Desired::new(ProxyOptions::default(), "here".into(), supported);
        let wanted = desired.select(&Scope::from([Key::Sysctl(Sysctl::VsConnReuseMode)]));
        assert_eq!(wanted.sysctls[&Sysctl::VsConnReuseMode], mode, "{kernel:?}");
    }
}

/// For example, a node without IPv6 in a cluster with both families.
#[test]
fn of_a_family_that_the_kernel_does_not_have_nothing_is_wanted() {
    let external =
        External { external_ips: vec![ip("198.51.100.1"), ip("2001:db8::1")], ..External::default() };
    let both =
        Service { cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")], ..service(external, Some(30_080)) };
    let of_v6 = EndpointSlice {
        key: SliceKey::new("default", "web-6"),
        family: Family::V6,
        endpoints: vec![examples::endpoint(ip("fd01::1"))],
        ..slice(&[])
    };
    let mut cluster = Cluster::default();
    for event in [
        Event::NodeAddresses(addresses(&[("192.168.0.1", "eth0"), ("fd0f::1", "eth0")])),
        Event::Slice(Change::Upsert(slice(&["here"]))),
        Event::Slice(Change::Upsert(of_v6)),
        Event::Service(Change::Upsert(both.clone())),
    ] {
        cluster.apply(event);
    }
    let supported = Supported { families: [Family::V4].into(), ..supported() };
    let mut desired = Desired::new(ProxyOptions::default(), "here".into(), supported);
    desired.look_at_node(&cluster);
    desired.update(&cluster, &[both.key].into());
    let of_v6: Vec<Key> = desired.keys().filter(|key| key.family() == Some(Family::V6)).collect();
    assert_eq!(of_v6, []);
    for server in [tcp("10.96.0.1", 80), tcp("198.51.100.1", 80), tcp("192.168.0.1", 30_080)] {
        assert!(desired.wants(&Key::VirtualServer(server)), "{server}");
    }
}
