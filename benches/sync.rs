//! The pure part: events → facts → wanted state → difference → memory kernel, at growing sizes.
//!
//! The floor beside each figure is the memory kernel alone, to which the same planned steps are applied once more. The
//! figures should show that the cold start stays a small multiple of its floor, and that a change costs the same at any
//! size, alone or as one of 1,000 at once.

#[path = "../src/cluster/examples.rs"]
mod examples;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::types::{
    EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::diff::Plan;
use kube_ipvs::kernel::Kernel;
use kube_ipvs::kernel::memory::MemoryKernel;
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler, Work};

const ENDPOINTS: u32 = 10;
const CHANGES: u32 = 500;
/// How many slices change at once.
const BURST: u32 = 1000;
/// How many times.
const ROUNDS: u32 = 10;

fn service(number: u32) -> Service {
    let [_, high, middle, low] = number.to_be_bytes();
    Service {
        created_seconds: i64::from(number),
        cluster_ips: vec![[10, 96 + high, middle, low].into()],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(ServiceKey::new("default", format!("service-{number}")))
    }
}

fn slice(number: u32, endpoints: u32) -> EndpointSlice {
    let endpoints = (0..endpoints).map(|endpoint| {
        let [a, b, c, d] = (number * (ENDPOINTS + 1) + endpoint).to_be_bytes();
        examples::endpoint([10 + a, 128 + b, c, d].into())
    });
    EndpointSlice {
        key: SliceKey::new("default", format!("service-{number}-1")),
        service: ServiceKey::new("default", format!("service-{number}")),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
        triggered_nanoseconds: None,
    }
}

/// Works until nothing is left to do; returns the plans and the time in the memory kernel.
fn settle(
    reconciler: &mut Reconciler,
    kernel: &mut MemoryKernel,
    now: Instant,
) -> (Vec<Arc<Plan>>, Duration) {
    let mut plans = Vec::new();
    let mut in_kernel = Duration::ZERO;
    while let Next::Work(work) = reconciler.next(now) {
        let started = Instant::now();
        let answer = work.carry_out(kernel);
        in_kernel += started.elapsed();
        if let Work::Apply(plan) = work {
            plans.push(plan);
        }
        reconciler.complete(answer, now);
    }
    (plans, in_kernel)
}

/// Takes in these slices at once, and writes what they ask for; returns how long that took, and the kernel's part of
/// it.
fn change(
    reconciler: &mut Reconciler,
    kernel: &mut MemoryKernel,
    now: Instant,
    slices: impl Iterator<Item = EndpointSlice>,
) -> (Duration, Duration) {
    let started = Instant::now();
    for slice in slices {
        reconciler.observe(Event::Slice(Change::Upsert(slice)));
    }
    let (_, in_kernel) = settle(reconciler, kernel, now);
    let took = started.elapsed();
    kernel.take_written();
    (took, in_kernel)
}

fn main() {
    // `cargo test --benches` only checks that the bench runs.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let sizes: &[u32] = if measured { &[1_000, 5_000, 10_000, 50_000] } else { &[100] };
    println!(
        "{:>9} {:>14} {:>14} {:>7} {:>16} {:>16} {:>16} {:>16}",
        "services",
        "cold start ms",
        "floor ms",
        "ratio",
        "one change us",
        "floor us",
        "of 1000 us",
        "floor us"
    );
    for &size in sizes {
        let options = ProxyOptions::default();
        let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: [].into() };
        let mut reconciler =
            Reconciler::new(options, "node".into(), supported, Duration::ZERO, Duration::from_hours(1));
        let mut kernel = MemoryKernel::default();
        let services = (0..size).map(service).collect();
        let slices = (0..size).map(|number| slice(number, ENDPOINTS)).collect();

        let now = Instant::now();
        reconciler.observe(Event::Node(Change::Replace(vec![])));
        reconciler.observe(Event::Service(Change::Replace(services)));
        reconciler.observe(Event::Slice(Change::Replace(slices)));
        let (plans, _) = settle(&mut reconciler, &mut kernel, now);
        let cold = now.elapsed();
        kernel.take_written();
        assert_eq!(kernel.state().virtual_servers.len(), size as usize);

        let mut bare = MemoryKernel::default();
        let started = Instant::now();
        for plan in &plans {
            bare.apply(plan);
        }
        let floor = started.elapsed();
        assert_eq!(bare.state().virtual_servers, kernel.state().virtual_servers);

        let mut changes = Vec::new();
        let mut change_floors = Vec::new();
        for index in 0..CHANGES {
            let number = index * 7919 % size;
            let endpoints = if index / size.min(CHANGES) % 2 == 0 { ENDPOINTS + 1 } else { ENDPOINTS };
            let slices = std::iter::once_with(|| slice(number, endpoints));
            let (took, in_kernel) = change(&mut reconciler, &mut kernel, now, slices);
            changes.push(took);
            change_floors.push(in_kernel);
        }
        let count = size.min(BURST);
        let (mut bursts, mut burst_floors) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let slices = (0..count).map(|number| slice(number, ENDPOINTS + 1 - round % 2));
            let (took, in_kernel) = change(&mut reconciler, &mut kernel, now, slices);
            bursts.push(took / count);
            burst_floors.push(in_kernel / count);
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e6
        };
        println!(
            "{size:>9} {:>14.1} {:>14.1} {:>7.1} {:>16.1} {:>16.1} {:>16.1} {:>16.1}",
            cold.as_secs_f64() * 1e3,
            floor.as_secs_f64() * 1e3,
            cold.as_secs_f64() / floor.as_secs_f64(),
            median(&mut changes),
            median(&mut change_floors),
            median(&mut bursts),
            median(&mut burst_floors),
        );
    }
}
