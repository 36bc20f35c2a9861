//! Work on an object grows no faster than the object: whoever may write a Service must not hold up all the others.

#[path = "../src/cluster/examples.rs"]
mod examples;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use kube_ipvs::api::convert::{Converted, Converter};
use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::Cluster;
use kube_ipvs::cluster::topology::{self, Place};
use kube_ipvs::cluster::types::{
    EndpointSlice, External, Family, Policy, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use kube_ipvs::desired::Desired;
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::diff::{Step, diff};
use kube_ipvs::kernel::memory::{Fault, MemoryKernel};
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler};
use kube_ipvs::state::{Element, RealServerKey, Scope, State, VirtualServerKey};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// How many times larger the large object is.
const TIMES: u16 = 16;
/// How many times longer the work may take: four times more than linear growth, which allows for sorting and for memory
/// that does not fit into caches, and a quarter of quadratic growth.
const LIMIT: f64 = 64.0;

const EINVAL: i32 = 22;

/// How long this thread has had a processor: unlike wall-clock time, this does not run while others have it.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
}

/// Compares the work on an object of this size with that on one [`TIMES`] as large. `work` returns the measured time.
fn assert_grows_with_size(small: u16, work: impl Fn(u16) -> Duration) {
    /// The tests of this program must not measure each other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Other activity of the machine evicts caches: the quickest of several runs counts.
    let quickest = |size| (0..5).map(|_| work(size)).min().expect("some runs");
    let (of_small, of_large) = (quickest(small), quickest(small * TIMES));
    let growth = of_large.as_secs_f64() / of_small.as_secs_f64();
    assert!(
        growth < LIMIT,
        "{small}: {of_small:?}, {TIMES} times as many: {of_large:?}, {growth:.0} times longer"
    );
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A Service with this many ports and no endpoints.
fn service(ports: u16, external: External) -> Service {
    let port = |number: u16| ServicePort {
        name: format!("port-{number}").into(),
        protocol: Protocol::Tcp,
        port: number,
        node_port: None,
    };
    Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ports: (1..=ports).map(port).collect(),
        internal_policy: Policy::Local,
        external: Some(Box::new(external)),
        ..examples::service(ServiceKey::new("default", "web"))
    }
}

fn supported() -> Supported {
    Supported { families: Family::ALL.into(), kernel: (6, 12), missing: BTreeSet::new() }
}

fn desired() -> Desired {
    Desired::new(ProxyOptions::default(), "here".into(), supported())
}

/// Each of its ports has a way inside, on a port that the Service does not have.
#[test]
fn a_service_with_many_ports_and_both_policies_local() {
    assert_grows_with_size(50, |ports| {
        let external =
            External { external_ips: vec![ip("198.51.100.1")], policy: Policy::Local, ..External::default() };
        let service = service(ports, external);
        let mut cluster = Cluster::default();
        let touched = cluster.apply(Event::Service(Change::Upsert(service.clone())));
        let mut desired = desired();
        let begin = processor_time();
        desired.update(&cluster, &touched);
        let asked = desired.asked(&service);
        let took = processor_time().saturating_sub(begin);
        assert_eq!(asked.expect("a known Service").len(), 3 * usize::from(ports));
        took
    });
}

/// Each network is split, or results from such a split.
#[test]
fn a_load_balancer_whose_many_ranges_all_change() {
    let server = VirtualServerKey { address: ip("203.0.113.1"), protocol: Protocol::Tcp, port: 80 };
    let ranges = |count: u16, bits| -> State {
        let range = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let network = IpNet::new(IpAddr::from([10, high, low, 0]), bits).expect("bits of an address");
            Element::Allowed(server, network)
        };
        State { elements: (0..count).map(range).collect(), ..State::default() }
    };
    for (old_bits, new_bits) in [(24, 25), (25, 24)] {
        assert_grows_with_size(100, |count| {
            let (actual, wanted) = (ranges(count, old_bits), ranges(count, new_bits));
            // Only the new ranges are to be compared; nobody has looked at the old ones yet.
            let scope: Scope = wanted.keys().collect();
            let begin = processor_time();
            let plan = diff(&wanted, &actual, &scope);
            let took = processor_time().saturating_sub(begin);
            assert_eq!(plan.steps.len(), 2 * usize::from(count));
            took
        });
    }
}

/// Decodes and converts a Service `default/web` with this spec; returns the time of the conversion, too.
fn convert(spec: &Value) -> (Service, Duration) {
    let object = json!({"metadata": {"name": "web"}, "spec": spec}).to_string();
    let object = serde_json::from_str(&object).expect("a Service");
    let begin = processor_time();
    let converted = Converter::new().service(&object);
    let took = processor_time().saturating_sub(begin);
    match converted {
        Converted::Kept { object, .. } => (object, took),
        other => panic!("{other:?}"),
    }
}

#[test]
fn conversion_of_many_ports() {
    assert_grows_with_size(500, |count| {
        let port = |number| json!({"name": format!("port-{number}"), "port": number});
        let ports: Vec<Value> = (1..=count).map(port).collect();
        let (service, took) = convert(&json!({"clusterIP": "10.96.0.1", "ports": ports}));
        assert_eq!(service.ports.len(), usize::from(count));
        took
    });
}

#[test]
fn conversion_of_many_addresses_and_ranges() {
    assert_grows_with_size(500, |count| {
        let of_number = |network: &str, number: u16| format!("{network}.{}.{}", number >> 8, number & 0xff);
        let addresses: Vec<String> = (1..=count).map(|number| of_number("198.51", number)).collect();
        // One family is open to all, the other one to many ranges.
        let open = (1..=count).map(|_| "0.0.0.0/0".to_owned());
        let ranges: Vec<String> =
            open.chain((1..=count).map(|number| format!("fd00:{number:x}::/64"))).collect();
        let (service, took) = convert(&json!({
            "clusterIP": "10.96.0.1", "ports": [{"port": 80}],
            "externalIPs": addresses, "loadBalancerSourceRanges": ranges,
        }));
        let external = service.external.expect("addresses");
        assert_eq!(external.external_ips.len(), usize::from(count));
        assert_eq!(external.source_ranges.len(), usize::from(count));
        took
    });
}

/// Each of its ports is found in the slice.
#[test]
fn endpoints_of_many_ports() {
    assert_grows_with_size(500, |count| {
        let service = service(count, External::default());
        let slice = slice_of_ports(&service, &[ip("10.244.0.1")]);
        let mut cluster = Cluster::default();
        let place = Place { node: "here", zone: None };
        let begin = processor_time();
        cluster.apply(Event::Slice(Change::Upsert(slice)));
        for port in &service.ports {
            let found = topology::endpoints(&cluster, &service, port, Family::V4, place).cluster;
            assert_eq!(found, [RealServerKey { address: ip("10.244.0.1"), port: port.port }]);
        }
        processor_time().saturating_sub(begin)
    });
}

/// A single removed endpoint is a real server of each port.
#[test]
fn an_endpoint_of_many_ports_that_drains() {
    assert_grows_with_size(100, |count| {
        let service = service(count, External::default());
        let service = Service { internal_policy: Policy::Cluster, external: None, ..service };
        let mut slice = slice_of_ports(&service, &[ip("10.244.0.1"), ip("10.244.0.2")]);
        let (mut reconciler, mut kernel, now) = (reconciler(), MemoryKernel::default(), Instant::now());
        reconciler.observe(Event::Node(Change::Replace(vec![])));
        reconciler.observe(Event::Service(Change::Replace(vec![service])));
        reconciler.observe(Event::Slice(Change::Replace(vec![slice.clone()])));
        work(&mut reconciler, &mut kernel, now);
        let begin = processor_time();
        slice.endpoints.truncate(1);
        reconciler.observe(Event::Slice(Change::Upsert(slice)));
        work(&mut reconciler, &mut kernel, now);
        let took = processor_time().saturating_sub(begin);
        assert_eq!(reconciler.draining(), usize::from(count));
        took
    });
}

/// A slice of a Service with these endpoints, all of one family.
fn slice(service: &ServiceKey, endpoints: &[IpAddr]) -> EndpointSlice {
    let family = Family::of(endpoints[0]);
    EndpointSlice {
        key: SliceKey::new("default", format!("{}-{family}", service.name())),
        service: service.clone(),
        family,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(|address| examples::endpoint(*address)).collect(),
        triggered_nanoseconds: None,
    }
}

/// A slice with all ports of the Service, in another order, as a control plane may write them.
fn slice_of_ports(service: &Service, endpoints: &[IpAddr]) -> EndpointSlice {
    let port =
        |port: &ServicePort| SlicePort { name: port.name.clone(), protocol: port.protocol, port: port.port };
    EndpointSlice { ports: service.ports.iter().rev().map(port).collect(), ..slice(&service.key, endpoints) }
}

/// A reconciler that knows nothing, and makes no audit.
fn reconciler() -> Reconciler {
    const SO_LONG: Duration = Duration::from_hours(1000);
    Reconciler::new(ProxyOptions::default(), "here".into(), supported(), Duration::ZERO, SO_LONG)
}

/// A reconciler with this many Services, each with an endpoint that `is_ready` or drains, whose kernel refuses only
/// what `is_refused`.
fn settled(count: u16, is_ready: bool, is_refused: fn(&Step) -> bool) -> (Reconciler, MemoryKernel, Instant) {
    let of = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let key = ServiceKey::new("default", format!("s{number}"));
        let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let service = Service {
            cluster_ips: vec![[10, 96, high, low].into(), [0xfd00, 0, 0, 0, 0, 0, 1, number].into()],
            ports: vec![port],
            ..examples::service(key.clone())
        };
        (service, [slice(&key, &[[10, 244, high, low].into()]), slice(&key, &[ip("fd00:10:244::1")])])
    };
    let (services, slices): (Vec<_>, Vec<_>) = (1..=count).map(of).unzip();
    // Only one Service has an endpoint of IPv6.
    let of_v6 = |slice: &EndpointSlice| slice.family == Family::V4 || slice.service.name() == "s1";
    let slices: Vec<_> = slices.into_iter().flatten().filter(of_v6).collect();
    let (mut reconciler, mut kernel) = (reconciler(), MemoryKernel::default());
    let refuse = move |step: &Step| is_refused(step).then_some(Fault::Refuse(EINVAL));
    kernel.set_faults(Some(Box::new(refuse)));
    let now = Instant::now();
    reconciler.observe(Event::Node(Change::Replace(vec![])));
    reconciler.observe(Event::Service(Change::Replace(services)));
    reconciler.observe(Event::Slice(Change::Replace(slices.clone())));
    work(&mut reconciler, &mut kernel, now);
    if !is_ready {
        for (key, server) in kernel.state().virtual_servers {
            for real in server.real_servers.keys() {
                kernel.set_connections(key, *real, 1);
            }
        }
        for mut slice in slices {
            slice.endpoints[0].ready = false;
            reconciler.observe(Event::Slice(Change::Upsert(slice)));
        }
        work(&mut reconciler, &mut kernel, now);
    }
    (reconciler, kernel, now)
}

/// Works until there is nothing to do.
fn work(reconciler: &mut Reconciler, kernel: &mut MemoryKernel, now: Instant) {
    while let Next::Work(work) = reconciler.next(now) {
        let answer = work.carry_out(kernel);
        reconciler.complete(answer, now);
    }
}

/// All pods of a cluster become unready at once when its nodes cannot be reached.
#[test]
fn connections_of_many_virtual_servers_are_counted_one_by_one() {
    assert_grows_with_size(200, |count| {
        let (mut reconciler, mut kernel, now) = settled(count, false, |_| false);
        assert_eq!(reconciler.draining(), usize::from(count) + 1);
        let begun = processor_time();
        work(&mut reconciler, &mut kernel, now + Duration::from_secs(6));
        processor_time().saturating_sub(begun)
    });
}

/// The objects of IPv6 come last in every order.
#[test]
fn one_object_of_a_family_that_is_refused_costs_a_change_of_the_other_nothing() {
    let is_v6 = |step: &Step| matches!(step, Step::AddVirtualServer(key, _) if key.address.is_ipv6());
    let of_size = |count: u16| {
        let (mut reconciler, mut kernel, now) = settled(count, true, is_v6);
        assert_eq!(reconciler.failures().len(), 1);
        let key = ServiceKey::new("default", "s1");
        let begun = processor_time();
        for number in 0..200_u16 {
            let endpoints = [ip("10.244.0.1"), ip("10.245.0.1")];
            let slice = slice(&key, &endpoints[..usize::from(2 - number % 2)]);
            reconciler.observe(Event::Slice(Change::Upsert(slice)));
            work(&mut reconciler, &mut kernel, now);
        }
        processor_time().saturating_sub(begun)
    };
    let quickest = |count| (0..3).map(|_| of_size(count)).min().expect("some runs");
    let (few, many) = (quickest(500), quickest(8000));
    assert!(many < few * 4, "{few:?} with 500 Services, {many:?} with 8,000");
}
