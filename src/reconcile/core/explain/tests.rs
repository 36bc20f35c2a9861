use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::Serialize;

use super::super::super::explanation::{
    EntryPointKind, Explanation, NewConnections, RealServerState, ServiceExplained, Standing,
};
use super::super::{Next, Reconciler};
use crate::api::{Change, Event};
use crate::cluster::examples;
use crate::cluster::topology::{EndpointUse, Near};
use crate::cluster::types::{
    AddressScope, Endpoint, EndpointSlice, External, Family, Hints, Node, NodeAddress, Policy, Protocol,
    Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use crate::desired::settings::Supported;
use crate::diff::Step;
use crate::kernel::memory::{Fault, MemoryKernel};
use crate::options::ProxyOptions;
use crate::state::{Element, RealServerKey, Sysctl, VirtualServerKey};

const EINVAL: i32 = 22;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn web() -> Service {
    Service {
        created_seconds: 7,
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(ServiceKey::new("default", "web"))
    }
}

/// A load balancer's Service with policy `Local` and a node port, for some clients only.
fn balanced() -> Service {
    let external = External {
        load_balancer_ips: vec![ip("203.0.113.1")],
        policy: Policy::Local,
        source_ranges: vec!["198.51.100.0/24".parse().expect("a network")],
        health_check_node_port: Some(32000),
        ..External::default()
    };
    let mut service = Service { external: Some(Box::new(external)), ..web() };
    service.ports[0].node_port = Some(30080);
    service
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint { node: Some(node.into()), ..examples::endpoint(ip(address)) }
}

fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new("default", "web-1"),
        service: ServiceKey::new("default", "web"),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
        triggered_nanoseconds: None,
    }
}

/// One endpoint on this node, and one elsewhere.
fn two() -> Vec<Endpoint> {
    vec![endpoint("10.244.0.2", "here"), endpoint("10.244.1.2", "there")]
}

fn real(address: &str) -> RealServerKey {
    RealServerKey { address: ip(address), port: 8080 }
}

fn server(address: &str) -> VirtualServerKey {
    VirtualServerKey { address: ip(address), protocol: Protocol::Tcp, port: 80 }
}

fn shown(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

/// A loop on the node `here` with a kernel in memory.
struct Life {
    reconciler: Reconciler,
    kernel: MemoryKernel,
    now: Instant,
}

impl Life {
    /// Tells pods from others by their network.
    fn new() -> Self {
        Self::with_pods(vec!["10.244.0.0/16".parse().expect("a network")])
    }

    fn with_pods(cluster_cidrs: Vec<IpNet>) -> Self {
        Self::with_options(ProxyOptions { cluster_cidrs, ..ProxyOptions::default() })
    }

    fn with_options(options: ProxyOptions) -> Self {
        Self::of(&[Family::V4], options)
    }

    fn of(families: &[Family], options: ProxyOptions) -> Self {
        let families = families.iter().copied().collect();
        let supported = Supported { families, kernel: (6, 12), missing: [].into() };
        let reconciler =
            Reconciler::new(options, "here".into(), supported, Duration::ZERO, Duration::from_hours(1));
        Self { reconciler, kernel: MemoryKernel::default(), now: Instant::now() }
    }

    /// A life that has written what these ask for.
    fn with(services: Vec<Service>, endpoints: Vec<Endpoint>) -> Self {
        let mut life = Self::new();
        life.feed(cluster(services, endpoints));
        life
    }

    /// Takes in events, and then works until there is nothing to do.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.reconciler.observe(event));
        self.work();
    }

    fn work(&mut self) {
        while let Next::Work(work) = self.reconciler.next(self.now) {
            let answer = work.carry_out(&mut self.kernel);
            self.reconciler.complete(answer, self.now);
        }
    }

    fn fail(&self, fault: Fault, what: impl Fn(&Step) -> bool + Send + 'static) {
        self.kernel.set_faults(Some(Box::new(move |step| what(step).then_some(fault))));
    }

    fn service(&self, name: &str) -> ServiceExplained {
        match self.reconciler.explain_service(&ServiceKey::new("default", name), self.now) {
            Ok(Explanation::Service(explained)) => *explained,
            other => panic!("{other:?}"),
        }
    }

    fn web(&self) -> ServiceExplained {
        self.service("web")
    }

    fn unknown(&self, name: &str) -> String {
        self.reconciler
            .explain_service(&ServiceKey::new("default", name), self.now)
            .expect_err("nobody knows it")
    }

    fn address(&self, text: &str) -> String {
        match self.reconciler.explain_address(ip(text), self.now) {
            Ok(explanation) => shown(&explanation),
            Err(text) => text,
        }
    }
}

fn cluster(services: Vec<Service>, endpoints: Vec<Endpoint>) -> [Event; 4] {
    let address =
        NodeAddress { address: ip("192.168.0.1"), interface: "eth0".into(), scope: AddressScope::Global };
    let node = Node {
        name: "here".into(),
        addresses: vec![ip("192.168.0.1")],
        zone: Some("a".into()),
        pod_cidrs: Vec::new(),
        eligible: true,
    };
    [
        Event::NodeAddresses([address].into()),
        Event::Node(Change::Replace(vec![node])),
        Event::Service(Change::Replace(services)),
        Event::Slice(Change::Replace(vec![slice(endpoints)])),
    ]
}

fn puts(endpoints: Vec<Endpoint>) -> Event {
    Event::Slice(Change::Upsert(slice(endpoints)))
}

#[test]
fn a_service_that_works() {
    let explained = Life::with(vec![web()], two()).web();
    assert_eq!((explained.state, &*explained.findings), (Standing::Written, &[][..]));
    insta::assert_snapshot!(shown(&explained));
}

#[test]
fn a_service_with_every_kind_of_entry_point() {
    let mut sticky = balanced();
    sticky.affinity_seconds = Some(10_800);
    let explained = Life::with(vec![sticky], two()).web();
    insta::assert_snapshot!(shown(&explained));
}

#[test]
fn without_endpoints_it_says_why() {
    let not_ready = Endpoint { ready: false, serving: false, ..endpoint("10.244.0.2", "here") };
    let other_port = Event::Slice(Change::Upsert(EndpointSlice {
        ports: vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
        ..slice(two())
    }));
    for (event, wanted) in [
        (
            puts(vec![]),
            "has no endpoints: the EndpointSlices have no endpoints: no pod matches the selector, or none has an address.",
        ),
        (puts(vec![not_ready.clone(), not_ready]), "has no endpoint that is ready, of 1."),
        (
            other_port,
            "has no endpoints: no EndpointSlice with endpoints has a port with the name \"http\" and this protocol.",
        ),
        (
            Event::Slice(Change::Delete(SliceKey::new("default", "web-1"))),
            "has no endpoints: the Service has no EndpointSlice of that family.",
        ),
    ] {
        let mut life = Life::with(vec![web()], vec![]);
        life.feed([event]);
        let explained = life.web();
        assert_eq!(explained.state, Standing::Written);
        assert_eq!(explained.findings, [format!("Port 80 TCP (IPv4) {wanted}")]);
        let point = &explained.entry_points[0];
        assert_eq!((point.new_connections, point.real_servers.len()), (NewConnections::Refused, 0));
    }
}

#[test]
fn policy_local_without_an_endpoint_here_drops() {
    let explained = Life::with(vec![balanced()], two().split_off(1)).web();
    assert_eq!(explained.state, Standing::Written);
    assert_eq!(
        explained.findings[0],
        "Port 80 TCP (IPv4) has no endpoint that is ready on this node: where the policy is Local, new connections are \
         dropped."
    );
    let fates: Vec<_> =
        explained.entry_points.iter().map(|point| (point.kind, point.new_connections)).collect();
    assert_eq!(
        fates,
        [
            (EntryPointKind::ClusterIp, NewConnections::Balanced),
            (EntryPointKind::NodePort, NewConnections::Dropped),
            (EntryPointKind::LoadBalancer, NewConnections::Dropped),
        ]
    );

    let mut life = Life::with_pods(vec![]);
    life.feed(cluster(vec![balanced()], two().split_off(1)));
    let explained = life.web();
    assert_eq!(
        explained.findings[0],
        "Port 80 TCP (IPv4) has no endpoint that is ready on this node: where the policy is Local, new connections go to \
         other nodes, since pods cannot be told from clients outside."
    );
    assert!(explained.entry_points.iter().all(|point| point.new_connections == NewConnections::Balanced));
}

/// The networks of pods are known of one family only: connections that are dropped in it go to other nodes in the other
/// family.
#[test]
fn each_family_says_what_becomes_of_its_own_connections() {
    let mut life = Life::of(
        &Family::ALL,
        ProxyOptions {
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a network")],
            ..ProxyOptions::default()
        },
    );
    let mut service = balanced();
    service.cluster_ips.push(ip("fd00:10:96::1"));
    service.external.as_deref_mut().expect("a way in").load_balancer_ips.push(ip("2001:db8::1"));
    // A second port, with an endpoint here: nothing is to be said about it, and it does not affect the first.
    service.ports.push(ServicePort {
        name: "dns".into(),
        port: 53,
        node_port: Some(30053),
        ..service.ports[0].clone()
    });
    life.feed(cluster(vec![service], two().split_off(1)));
    let of = |name: &str, family, ports: Vec<SlicePort>, endpoint| {
        let key = SliceKey::new("default", name);
        let slice = EndpointSlice { key, family, ports, endpoints: vec![endpoint], ..slice(vec![]) };
        Event::Slice(Change::Upsert(slice))
    };
    let dns = vec![SlicePort { name: "dns".into(), protocol: Protocol::Tcp, port: 5353 }];
    life.feed([
        of("web-6", Family::V6, slice(vec![]).ports, endpoint("fd00:10:244:1::2", "there")),
        of("dns-4", Family::V4, dns.clone(), endpoint("10.244.0.3", "here")),
        of("dns-6", Family::V6, dns, endpoint("fd00:10:244::3", "here")),
    ]);
    let findings = life.web().findings;
    let found: Vec<&String> = findings.iter().filter(|finding| finding.starts_with("Port ")).collect();
    let none = "has no endpoint that is ready on this node: where the policy is Local, new connections";
    let (dropped, elsewhere) =
        ("are dropped.", "go to other nodes, since pods cannot be told from clients outside.");
    assert_eq!(
        found,
        [&format!("Port 80 TCP (IPv4) {none} {dropped}"), &format!("Port 80 TCP (IPv6) {none} {elsewhere}")]
    );
}

#[test]
fn what_an_older_service_has_is_not_said_to_be_dropped() {
    let older = Service { key: ServiceKey::new("default", "old"), created_seconds: 1, ..balanced() };
    let mut life = Life::with(vec![older, balanced()], two().split_off(1));
    let findings = life.web().findings;
    assert!(
        findings.iter().any(|finding| finding.contains("belongs to Service default/old")),
        "{findings:?}"
    );
    assert!(!findings.iter().any(|finding| finding.starts_with("Port ")), "{findings:?}");
    life.feed([Event::Service(Change::Delete(ServiceKey::new("default", "old")))]);
    let findings = life.web().findings;
    assert!(findings.iter().any(|finding| finding.ends_with("new connections are dropped.")), "{findings:?}");
}

#[test]
fn where_the_entry_points_of_a_port_differ_both_are_named() {
    let mut life = Life::with_pods(vec![]);
    let service = Service { internal_policy: Policy::Local, ..balanced() };
    life.feed(cluster(vec![service], two().split_off(1)));
    let explained = life.web();
    assert_eq!(
        explained.findings[0],
        "Port 80 TCP (IPv4) has no endpoint that is ready on this node: where the policy is Local, new connections to the \
         cluster IP are dropped, those to the load balancer and node port go to other nodes, since pods cannot be told from \
         clients outside."
    );
}

#[test]
fn an_address_of_another_node_is_left_to_it() {
    let mut life = Life::with(vec![balanced()], two());
    let address = life.web().addresses[1].address.clone();
    let node = Node {
        name: "there".into(),
        addresses: vec![ip(&address)],
        zone: None,
        pod_cidrs: vec![],
        eligible: true,
    };
    life.feed([Event::OtherNode(Change::Replace(vec![node]))]);
    let explained = life.web();
    assert!(explained.findings.contains(&format!(
        "{address} is not put on kube-ipvs0: it belongs to node there, to which it is left."
    )));
    assert!(!explained.entry_points.iter().any(|point| point.virtual_server.address == ip(&address)));
}

fn meant_for(endpoint: &mut Endpoint, zone: &str) {
    endpoint.hints = Some(Hints { zones: vec![zone.into()], nodes: vec![] }.into());
}

#[test]
fn endpoints_that_are_not_used_say_why() {
    let with = |name: &str, change: fn(&mut Endpoint)| {
        let mut endpoint = endpoint(name, "there");
        change(&mut endpoint);
        endpoint
    };
    let endpoints = vec![
        with("10.244.1.1", |endpoint| meant_for(endpoint, "a")),
        with("10.244.1.2", |endpoint| meant_for(endpoint, "b")),
        with("10.244.1.3", |endpoint| (endpoint.ready, endpoint.terminating) = (false, true)),
        with("10.244.1.4", |endpoint| (endpoint.ready, endpoint.serving) = (false, false)),
    ];
    let explained = Life::with(vec![web()], endpoints).web();
    let port = &explained.ports[0];
    assert_eq!((port.hints, port.used_with_policy_cluster, port.used_with_policy_local), (Near::Zone, 1, 0));
    let why: Vec<_> =
        port.endpoints.iter().map(|endpoint| (endpoint.policy_cluster, endpoint.policy_local)).collect();
    let elsewhere = EndpointUse::Elsewhere;
    assert_eq!(
        why,
        [
            (EndpointUse::Used, elsewhere),
            (EndpointUse::MeantForOthers, elsewhere),
            (EndpointUse::OthersAreReady, elsewhere),
            (EndpointUse::NotReady, elsewhere),
        ]
    );
    assert_eq!(explained.entry_points[0].real_servers.len(), 1);
}

#[test]
fn what_the_kernel_refuses_is_named_with_its_words_and_when_it_is_tried_again() {
    let mut life = Life::new();
    life.fail(Fault::Refuse(EINVAL), |step| matches!(step, Step::AddVirtualServer(..)));
    life.feed(cluster(vec![web()], two()));
    let explained = life.web();
    assert_eq!(explained.state, Standing::Refused);
    let [address, refused] = &explained.not_as_wanted[..] else { panic!("{:?}", explained.not_as_wanted) };
    let (refused, address) =
        if refused.object.starts_with("virtual server") { (refused, address) } else { (address, refused) };
    assert_eq!(refused.object, "virtual server TCP 10.96.0.1:80");
    assert_eq!((refused.attempts, refused.tried_again_in_seconds), (Some(1), Some(1)));
    let reason = refused.reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("add_virtual_server: "), "{reason}");
    assert_eq!(address.reason.as_deref(), Some("waits for virtual server TCP 10.96.0.1:80"));
    assert_eq!((address.state, address.attempts), (Standing::Waiting, None));
    let states = (explained.entry_points[0].state, explained.addresses[0].state);
    assert_eq!(states, (Standing::Refused, Standing::Waiting));
    assert!(explained.findings[0].starts_with("The kernel refused, and is asked again: virtual server TCP"));
    assert!(explained.entry_points[0].real_servers.iter().all(|real| real.state == RealServerState::Waiting));

    let troubles = shown(&life.reconciler.explain_troubles());
    assert!(troubles.contains("\"service\": \"default/web\",\n      \"state\": \"refused\"\n"), "{troubles}");
    assert!(troubles.contains("\"objectsNotAsWanted\": 2\n"), "{troubles}");
    life.kernel.set_faults(None);
    life.now += Duration::from_secs(1);
    life.work();
    assert_eq!(life.web().state, Standing::Written);
    let troubles = shown(&life.reconciler.explain_troubles());
    assert!(troubles.contains("\"troubled\": [],\n  \"objectsNotAsWanted\": 0\n"), "{troubles}");
}

/// We do without most kernel parameters.
#[test]
fn what_everything_stands_on_is_named_where_it_is_refused() {
    type Refused = fn(&Step) -> bool;
    let rules: Refused = |step| matches!(step, Step::InstallRules(..));
    let needed: Refused = |step| matches!(step, Step::SetSysctl(Sysctl::VsConntrack, _));
    let other: Refused = |step| matches!(step, Step::SetSysctl(Sysctl::VsExpireNodestConn, _));
    for (refused, named, state) in [
        (rules, Some("IPv4 rules"), Standing::Refused),
        (needed, Some("sysctl net/ipv4/vs/conntrack"), Standing::Refused),
        (other, None, Standing::Written),
    ] {
        let mut life = Life::new();
        life.fail(Fault::Refuse(EINVAL), refused);
        life.feed(cluster(vec![web()], two()));
        let explained = life.web();
        // Elements that found no table may come after it.
        let mut all = explained.not_as_wanted.iter().filter(|object| object.state == Standing::Refused);
        let first = all.next().map(|object| &*object.object);
        assert_eq!((first, explained.state), (named, state));
    }
}

#[test]
fn of_many_that_are_refused_some_are_named() {
    let mut many = web();
    let port =
        |number: u16| ServicePort { name: number.to_string().into(), port: number, ..web().ports[0].clone() };
    many.ports = (81..=85_u16).map(port).collect();
    let mut slice = slice(two());
    slice.ports = many
        .ports
        .iter()
        .map(|port| SlicePort { name: port.name.clone(), ..slice.ports[0].clone() })
        .collect();
    let mut life = Life::new();
    life.fail(Fault::Refuse(EINVAL), |step| matches!(step, Step::AddVirtualServer(..)));
    life.feed(cluster(vec![many], Vec::new()));
    life.feed([Event::Slice(Change::Upsert(slice))]);
    let said = &life.web().findings[0];
    assert!(said.contains("virtual server TCP 10.96.0.1:83 ") && said.ends_with(") and 2 more."), "{said}");
    assert!(!said.contains("10.96.0.1:84"), "{said}");
}

#[test]
fn what_changed_just_now_waits() {
    let mut life = Life::with(vec![web()], two());
    life.reconciler.observe(puts(two().split_off(1)));
    assert_eq!(life.web().state, Standing::Waiting);
    life.work();
    assert_eq!(life.web().state, Standing::Written);
}

#[test]
fn what_is_uncertain_says_so_until_it_is_read() {
    let mut life = Life::with(vec![web()], two());
    life.fail(Fault::LoseAnswer, |step| {
        matches!(step, Step::DeleteRealServer(..) | Step::EditRealServer(..))
    });
    life.reconciler.observe(puts(two().split_off(1)));
    life.kernel.fail_reads(1);
    life.work();
    let explained = life.web();
    assert_eq!(explained.state, Standing::Uncertain);
    assert_eq!(explained.entry_points[0].state, Standing::Uncertain);
    assert_eq!(
        explained.findings,
        ["The kernel's state is not known; it is being read back: virtual server TCP 10.96.0.1:80 \
             (edit_real_server: the kernel's answer was lost)."]
    );
    let troubles = shown(&life.reconciler.explain_troubles());
    assert!(
        troubles.contains("\"objectsNotAsWanted\": 1\n"),
        "it is one, whatever is wrong with it: {troubles}"
    );
    life.kernel.set_faults(None);
    life.now += Duration::from_secs(1);
    life.work();
    assert_eq!(life.web().state, Standing::Written);
}

#[test]
fn a_real_server_that_drains_says_for_how_long() {
    let mut life = Life::with(vec![web()], two());
    life.kernel.set_connections(server("10.96.0.1"), real("10.244.0.2"), 3);
    let mut not_ready = two();
    (not_ready[0].ready, not_ready[0].serving) = (false, false);
    let drains = |life: &Life| {
        let explained = life.web();
        assert_eq!(explained.state, Standing::Written);
        let real = explained.entry_points[0].real_servers[0].clone();
        assert_eq!(
            (&*real.endpoint, real.weight, real.state),
            ("10.244.0.2:8080", 0, RealServerState::Draining)
        );
        real.goes_in_seconds
    };
    life.feed([puts(not_ready)]);
    assert_eq!(drains(&life), None, "a slice has it");
    life.feed([puts(two().split_off(1))]);
    life.now += Duration::from_mins(1);
    assert_eq!(drains(&life), Some(14 * 60));
    life.now += Duration::from_mins(14);
    life.work();
    let left: Vec<_> =
        life.web().entry_points[0].real_servers.iter().map(|real| real.endpoint.clone()).collect();
    assert_eq!(left, ["10.244.1.2:8080"]);
    assert_eq!(life.web().state, Standing::Written);
}

#[test]
fn an_entry_point_that_an_older_service_has_names_it() {
    let younger = Service { key: ServiceKey::new("default", "young"), created_seconds: 9, ..web() };
    let life = Life::with(vec![web(), younger], two());
    let explained = life.service("young");
    assert_eq!(explained.state, Standing::Conflict);
    let point = &explained.entry_points[0];
    assert_eq!((point.state, point.belongs_to.as_deref()), (Standing::Conflict, Some("default/web")));
    let wanted = "TCP 10.96.0.1:80 belongs to Service default/web, which asks for it too and keeps it: cluster IPs come \
                  before node ports, load balancers' addresses and external IPs, in this order, then the older one.";
    assert!(explained.findings.iter().any(|finding| finding == wanted), "{:?}", explained.findings);
    assert_eq!(life.web().state, Standing::Written);
    insta::assert_snapshot!(life.address("10.96.0.1"));
}

#[test]
fn external_ips_that_are_switched_off_are_named() {
    let external = External {
        external_ips: vec![ip("198.51.100.1"), ip("198.51.100.2")],
        policy: Policy::Local,
        ..External::default()
    };
    let service = Service { external: Some(Box::new(external)), ..web() };
    let mut life = Life::with_options(ProxyOptions { external_ips: false, ..ProxyOptions::default() });
    life.feed(cluster(vec![service], vec![endpoint("10.244.1.2", "there")]));
    let explained = life.web();
    assert_eq!(
        explained.findings,
        [
            "The external IPs (198.51.100.1, 198.51.100.2) are not served: the feature gate AllowServiceExternalIPs is false."
        ],
        "and nothing about their policy"
    );
    assert_eq!(explained.state, Standing::Written);
    assert_eq!(explained.facts.external_ips, ["198.51.100.1", "198.51.100.2"], "what the Service says");
    let points: Vec<_> =
        explained.entry_points.iter().map(|point| point.virtual_server.to_string()).collect();
    assert_eq!(points, ["TCP 10.96.0.1:80"]);
    assert!(life.address("198.51.100.1").starts_with("No Service that is known here has the address"));
}

#[test]
fn an_address_of_the_node_is_not_on_the_device() {
    let external = External { external_ips: vec![ip("192.168.0.1")], ..External::default() };
    let explained = Life::with(vec![Service { external: Some(Box::new(external)), ..web() }], two()).web();
    let shown: Vec<_> =
        explained.addresses.iter().map(|address| (&*address.address, &*address.on, address.state)).collect();
    let node = "this node, on a device and by its Node object";
    assert_eq!(
        shown,
        [("10.96.0.1", "kube-ipvs0", Standing::Written), ("192.168.0.1", node, Standing::Written)]
    );
    assert_eq!(
        explained.findings,
        [
            "192.168.0.1 is not put on kube-ipvs0: it belongs to this node, on a device and by its Node object."
        ]
    );
}

#[test]
fn what_of_the_object_is_not_served_is_said() {
    let mut ftp = Service {
        affinity_seconds: Some(600),
        remarks: Some("Service default/web: spec.sessionAffinity: \"ClientIP\" is not served".into()),
        ..web()
    };
    ftp.ports[0].port = 21;
    let told = Life::with(vec![ftp], two()).web();
    assert_eq!(told.entry_points[0].persistence_seconds, None);
    assert_eq!(
        (told.state, &*told.findings),
        (
            Standing::Written,
            &["Service default/web: spec.sessionAffinity: \"ClientIP\" is not served.".to_owned()][..]
        )
    );
}

#[test]
fn node_ports_are_found_by_the_address_of_the_node() {
    let at = "\"virtualServer\": \"TCP 192.168.0.1:30080\",\n      \"service\": \"default/web\"";
    let life = Life::with(vec![balanced()], two());
    let text = life.address("192.168.0.1");
    assert!(text.contains(at), "{text}");
    let text = life.address("203.0.113.1");
    assert!(text.contains("TCP 203.0.113.1:80") && !text.contains("TCP 10.96.0.1:80"), "{text}");
    // The same where it has no virtual server.
    let life = Life::with(vec![balanced()], vec![]);
    let text = life.address("192.168.0.1");
    assert!(text.contains(at), "{text}");
    // The same where the kernel refuses the element that marks it as ours, and nothing of it exists.
    let mut life = Life::new();
    life.fail(
        Fault::Refuse(EINVAL),
        |step| matches!(step, Step::AddElement(Element::Owned(server)) if server.port == 30080),
    );
    life.feed(cluster(vec![balanced()], two()));
    let text = life.address("192.168.0.1");
    assert!(text.contains(at) && text.contains("\"state\": \"waiting\""), "{text}");
    assert_eq!(life.address("192.0.2.9"), "No Service that is known here has the address 192.0.2.9.");
}

#[test]
fn what_is_not_known_is_said_not_to_be() {
    let mut life = Life::with(vec![web()], two());
    let text = life.unknown("wep");
    assert!(text.starts_with("No Service \"wep\" in namespace \"default\" is known here. "), "{text}");
    assert!(!text.contains("EndpointSlices"), "{text}");
    life.feed([Event::Service(Change::Delete(ServiceKey::new("default", "web")))]);
    let text = life.unknown("web");
    assert!(text.ends_with("EndpointSlices of it that are known: 1."), "{text}");
}

#[test]
fn before_the_lists_are_complete_everything_waits() {
    let incomplete = "The lists of Services, EndpointSlices and Nodes have not all come yet, and nothing is written before.";
    let mut life = Life::new();
    let [addresses, node, services, slices] = cluster(vec![web()], two());
    life.feed([addresses, node]);
    assert!(life.unknown("web").ends_with(incomplete));
    assert!(life.address("10.96.0.1").ends_with(incomplete));
    life.feed([services]);
    let explained = life.web();
    assert_eq!(explained.state, Standing::Waiting);
    assert_eq!(explained.findings[0], incomplete);
    life.feed([slices]);
    assert_eq!(life.web().state, Standing::Written);
}
