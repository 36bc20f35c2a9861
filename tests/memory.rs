//! What came and went leaves no memory in use.

#[path = "../src/cluster/examples.rs"]
mod examples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::types::{
    EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::kernel::memory::MemoryKernel;
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler};

/// Counts the bytes in use.
struct Counted;

static BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is; this one passes on to the system's what it was asked for")]
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

const AUDIT_PERIOD: Duration = Duration::from_secs(1);
const ENDPOINTS: u32 = 10;

fn service(number: u32) -> Service {
    Service {
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0001 + number).into()],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(ServiceKey::new("default", format!("s{number}")))
    }
}

fn slice(number: u32) -> EndpointSlice {
    let addresses = (0..ENDPOINTS).map(|index| Ipv4Addr::from(0x0af4_0000 + ENDPOINTS * number + index));
    EndpointSlice {
        key: SliceKey::new("default", format!("s{number}-a")),
        service: ServiceKey::new("default", format!("s{number}")),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses.map(|address| examples::endpoint(address.into())).collect(),
        triggered_nanoseconds: None,
    }
}

/// A loop with a kernel in memory.
struct Life {
    reconciler: Reconciler,
    kernel: MemoryKernel,
    now: Instant,
}

impl Life {
    /// Works until nothing is left to do, and longer than two looks for the foundations are apart.
    fn rest(&mut self) {
        for _ in 0..25 {
            self.now += AUDIT_PERIOD;
            while let Next::Work(work) = self.reconciler.next(self.now) {
                let answer = work.carry_out(&mut self.kernel);
                self.reconciler.complete(answer, self.now);
            }
            self.reconciler.take_notes();
            self.kernel.take_written();
        }
    }

    fn observe(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.reconciler.observe(event);
        }
    }
}

/// How many bytes the loop has in use, and a kernel in memory with the same state.
fn bytes_in_use() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// All at once, as when the loop waited for the kernel meanwhile.
#[test]
fn many_services_that_came_and_went_leave_no_memory_in_use() {
    const STAY: u32 = 2_000;
    const GO: u32 = 30_000;
    let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: BTreeSet::new() };
    let options = ProxyOptions::default();
    let mut life = Life {
        reconciler: Reconciler::new(options, "here".into(), supported, Duration::ZERO, AUDIT_PERIOD),
        kernel: MemoryKernel::default(),
        now: Instant::now(),
    };
    life.observe([
        Event::Service(Change::Replace((0..STAY).map(service).collect())),
        Event::Slice(Change::Replace((0..STAY).map(slice).collect())),
        Event::Node(Change::Replace(vec![])),
    ]);
    life.rest();
    let (before, wanted) = (bytes_in_use(), life.kernel.state());

    let goes = STAY..STAY + GO;
    life.observe(goes.clone().map(|number| Event::Service(Change::Upsert(service(number)))));
    life.observe(goes.clone().map(|number| Event::Slice(Change::Upsert(slice(number)))));
    life.rest();
    let most = bytes_in_use();
    assert!(most > 8 * before, "{before} bytes, later {most}");
    life.observe(goes.clone().map(|number| Event::Service(Change::Delete(service(number).key))));
    life.observe(goes.map(|number| Event::Slice(Change::Delete(slice(number).key))));
    life.rest();
    assert!(life.kernel.state() == wanted, "the kernel has what it had");
    drop(wanted);
    let after = bytes_in_use();
    assert!(after * 10 <= before * 11, "{before} bytes before, {after} after");
}
