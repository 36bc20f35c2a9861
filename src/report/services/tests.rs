use super::*;
use crate::api::{Change, Event};
use crate::cluster::examples;
use crate::cluster::types::{
    AddressScope, Endpoint, EndpointSlice, External, NodeAddress, Protocol, ServicePort, SliceKey, SlicePort,
    Uid,
};

use crate::telemetry;

const NODE: &str = "here";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn balanced(name: &str, port: Option<u16>) -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:10:96::1")],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        external: Some(Box::new(External {
            policy: Policy::Local,
            health_check_node_port: port,
            ..External::default()
        })),
        ..examples::service(ServiceKey::new("default", name))
    }
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint { node: Some(node.into()), ..examples::endpoint(ip(address)) }
}

fn slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> Event {
    let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 };
    slice_with(vec![port], name, service, endpoints)
}

fn slice_with(ports: Vec<SlicePort>, name: &str, service: &str, endpoints: Vec<Endpoint>) -> Event {
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    Event::Slice(Change::Upsert(EndpointSlice {
        key: SliceKey::new("default", name),
        service: ServiceKey::new("default", service),
        family,
        ports,
        endpoints,
        triggered_nanoseconds: None,
    }))
}

struct World {
    cluster: Cluster,
    services: Services,
    news: mpsc::UnboundedReceiver<Vec<News>>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new(options: &ProxyOptions) -> Self {
        let metrics = Arc::new(Metrics::new(&[], &[]));
        let (sender, news) = mpsc::unbounded_channel();
        let families = Family::ALL.into();
        let services = Services::new(NODE.into(), options, families, Arc::clone(&metrics), sender);
        Self { cluster: Cluster::default(), services, news, metrics }
    }

    /// Applies an event, and returns the news that result.
    fn hear(&mut self, event: Event) -> Vec<News> {
        let touched = self.cluster.apply(event);
        self.services.look_at_node(&self.cluster);
        self.services.look(&self.cluster, &touched);
        std::iter::from_fn(|| self.news.try_recv().ok()).flatten().collect()
    }

    fn lacking(&self, labels: &str) -> String {
        let name = format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{{{labels}}} ");
        let text = self.metrics.text();
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().to_owned()
    }
}

fn wanted(v4: usize, v6: usize) -> BTreeMap<Family, Wanted> {
    let of = |local_endpoints| Wanted { port: 30000, local_endpoints, uid: None };
    [(Family::V4, of(v4)), (Family::V6, of(v6))].into()
}

#[test]
fn a_load_balancer_without_a_health_check_port_is_named_once() {
    let mut world = World::new(&ProxyOptions::default());
    let (log, _listening) = telemetry::tests::listen();
    let put = |lacks, port| {
        let mut service = balanced("web", port);
        let external = service.external.as_mut().unwrap();
        external.lacks_health_check_node_port = lacks;
        Event::Service(Change::Upsert(service))
    };
    let errors = || log.lines_with("\"Service has no healthcheck nodeport\" service=\"default/web\"");
    world.hear(put(false, Some(30000)));
    assert_eq!(errors(), [""; 0]);
    world.hear(put(true, None));
    world.hear(slice("one", "web", vec![endpoint("10.244.0.1", NODE)]));
    assert_eq!(errors().len(), 1);
    assert!(errors()[0].starts_with('E'), "{:?}", errors());
    // Corrected, and then wrong again.
    world.hear(put(false, Some(30000)));
    world.hear(put(true, None));
    assert_eq!(errors().len(), 2);
    world.hear(Event::Service(Change::Delete(ServiceKey::new("default", "web"))));
    assert!(world.services.unanswered.is_empty());
}

#[test]
fn a_health_check_port_counts_the_ready_addresses_here() {
    let mut world = World::new(&ProxyOptions::default());
    let web = ServiceKey::new("default", "web");
    let put = |service| Event::Service(Change::Upsert(service));
    assert_eq!(world.hear(put(balanced("web", Some(30000)))), [News::Service(web.clone(), wanted(0, 0))]);
    let ending = Endpoint { ready: false, terminating: true, ..endpoint("10.244.0.3", NODE) };
    let endpoints = vec![endpoint("10.244.0.1", NODE), endpoint("10.244.0.2", "there"), ending.clone()];
    assert_eq!(world.hear(slice("one", "web", endpoints)), [News::Service(web.clone(), wanted(1, 0))]);
    // The same address for another port, and one of the other family.
    assert_eq!(world.hear(slice("two", "web", vec![endpoint("10.244.0.1", NODE)])), []);
    assert_eq!(
        world.hear(slice("six", "web", vec![endpoint("fd00::1", NODE)])),
        [News::Service(web.clone(), wanted(1, 1))]
    );
    // A pod without the port that the Service names gets no traffic.
    assert_eq!(world.hear(slice_with(vec![], "bare", "web", vec![endpoint("10.244.0.7", NODE)])), []);
    assert_eq!(world.hear(slice("other", "other", vec![endpoint("10.244.0.9", NODE)])), []);
    assert_eq!(world.hear(put(balanced("web", None))), [News::Service(web.clone(), BTreeMap::new())]);
    world.hear(put(balanced("web", Some(30000))));
    assert_eq!(
        world.hear(Event::Service(Change::Delete(web.clone()))),
        [News::Service(web, BTreeMap::new())]
    );
}

#[test]
fn a_port_that_passes_to_another_service_is_told_of_at_once() {
    let mut world = World::new(&ProxyOptions::default());
    world.hear(Event::Service(Change::Upsert(balanced("b", Some(30000)))));
    let keys = ["a", "b"].map(|name| ServiceKey::new("default", name));
    let mut touched = world.cluster.apply(Event::Service(Change::Delete(keys[1].clone())));
    touched.extend(world.cluster.apply(Event::Service(Change::Upsert(balanced("a", Some(30000))))));
    world.services.look(&world.cluster, &touched);
    let [opened, closed] = keys;
    let expected = vec![News::Service(opened, wanted(0, 0)), News::Service(closed, BTreeMap::new())];
    assert_eq!(world.news.try_recv(), Ok(expected));
}

#[test]
fn a_service_that_is_made_anew_is_told_of_anew() {
    let mut world = World::new(&ProxyOptions::default());
    world.hear(Event::Service(Change::Upsert(balanced("web", Some(30000)))));
    let uid = Uid::parse("0c5a7bde-f012-4034-8967-89abcdef0100");
    let anew = Service { uid, ..balanced("web", Some(30000)) };
    let families = wanted(0, 0).into_iter().map(|(family, wanted)| (family, Wanted { uid, ..wanted }));
    let expected = [News::Service(ServiceKey::new("default", "web"), families.collect())];
    assert_eq!(world.hear(Event::Service(Change::Upsert(anew))), expected);
}

#[test]
fn services_that_lack_endpoints_here_are_counted() {
    let mut world = World::new(&ProxyOptions::default());
    let (internal, external) =
        ("ip_family=\"IPv4\",traffic_policy=\"internal\"", "ip_family=\"IPv4\",traffic_policy=\"external\"");
    for name in ["a", "b"] {
        world.hear(Event::Service(Change::Upsert(balanced(name, None))));
    }
    assert_eq!(world.lacking(external), "0", "without endpoints anywhere it lacks none here");
    world.hear(slice("a", "a", vec![endpoint("10.244.0.1", "there")]));
    world.hear(slice("b", "b", vec![endpoint("10.244.0.2", "there")]));
    assert_eq!((&*world.lacking(external), &*world.lacking(internal)), ("2", "0"));
    let ending = Endpoint { ready: false, terminating: true, ..endpoint("10.244.0.3", NODE) };
    world.hear(slice("b", "b", vec![endpoint("10.244.0.2", "there"), ending]));
    assert_eq!(world.lacking(external), "1", "one that ends still serves");
    let local = Service { internal_policy: Policy::Local, ..balanced("a", None) };
    world.hear(Event::Service(Change::Upsert(local)));
    assert_eq!(world.lacking(internal), "1");
    world.hear(Event::Service(Change::Delete(ServiceKey::new("default", "a"))));
    assert_eq!((&*world.lacking(external), &*world.lacking(internal)), ("0", "0"));
}

/// As in kube-proxy, which looks at each port: endpoints of another port are of no use to the clients of this one.
#[test]
fn a_service_lacks_endpoints_here_if_one_of_its_ports_does() {
    let mut world = World::new(&ProxyOptions::default());
    let port =
        |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None };
    let two = Service { ports: vec![port("web", 80), port("admin", 81)], ..balanced("a", None) };
    world.hear(Event::Service(Change::Upsert(two)));
    let slice = |name: &str, ports: &[&str], node| {
        let port = |port: &&str| SlicePort { name: (*port).into(), protocol: Protocol::Tcp, port: 8080 };
        slice_with(ports.iter().map(port).collect(), name, "a", vec![endpoint("10.244.0.1", node)])
    };
    let external = "ip_family=\"IPv4\",traffic_policy=\"external\"";
    world.hear(slice("one", &["web"], NODE));
    assert_eq!(world.lacking(external), "0", "the other port has none anywhere");
    world.hear(slice("two", &["admin"], "there"));
    assert_eq!(world.lacking(external), "1");
    world.hear(slice("two", &["admin"], NODE));
    assert_eq!(world.lacking(external), "0");
    world.hear(slice("two", &["other"], "there"));
    assert_eq!(world.lacking(external), "0", "nobody is led to a port that the Service does not have");
    world.hear(slice("one", &["admin", "web"], "there"));
    world.hear(slice("two", &["web"], NODE));
    assert_eq!(world.lacking(external), "1");
}

#[test]
fn ports_are_listened_on_where_node_ports_are_served() {
    let networks = |list: &[&str]| NodePortAddresses {
        networks: list.iter().map(|text| text.parse().unwrap()).collect(),
        primary: false,
    };
    let these = |list: &[&str]| Addresses::These(list.iter().map(|text| ip(text)).collect());
    for (wanted, v4, v6) in [
        (networks(&[]), Addresses::All, Addresses::All),
        (networks(&["0.0.0.0/0"]), Addresses::All, Addresses::All),
        (networks(&["192.0.2.0/24"]), these(&["192.0.2.1", "192.0.2.9"]), Addresses::All),
        (
            networks(&["192.0.2.9/32", "127.0.0.0/8", "fd00::/64"]),
            these(&["127.0.0.1", "192.0.2.9"]),
            these(&["fd00::1"]),
        ),
        (networks(&["198.51.100.0/24"]), these(&[]), Addresses::All),
        (NodePortAddresses { primary: true, ..networks(&[]) }, these(&["192.0.2.1"]), Addresses::All),
    ] {
        let options = ProxyOptions { node_port_addresses: wanted.clone(), ..ProxyOptions::default() };
        let mut world = World::new(&options);
        let node = crate::cluster::types::Node {
            name: NODE.into(),
            addresses: vec![ip("192.0.2.1")],
            zone: None,
            pod_cidrs: Vec::new(),
            eligible: true,
        };
        let mut news = world.hear(Event::Node(Change::Upsert(node)));
        let known = ["127.0.0.1", "192.0.2.1", "192.0.2.9", "::1", "fd00::1"].map(|address| NodeAddress {
            address: ip(address),
            interface: "eth0".into(),
            scope: AddressScope::Global,
        });
        news.extend(world.hear(Event::NodeAddresses(known.into())));
        let last = |family| {
            let mut told = news.iter().filter_map(|news| match news {
                News::Addresses(of, addresses) if *of == family => Some(addresses.clone()),
                _ => None,
            });
            told.next_back().unwrap_or(Addresses::All)
        };
        assert_eq!((last(Family::V4), last(Family::V6)), (v4, v6), "{wanted:?}");
    }
}
