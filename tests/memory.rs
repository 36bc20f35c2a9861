//! What came and went leaves no memory in use.

#[path = "../src/cluster/examples.rs"]
mod examples;
#[path = "common/life.rs"]
mod life;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::types::{
    EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use kube_ipvs::kernel::memory::MemoryKernel;
use life::Life;

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

/// Lives on until everything is written, and longer than two looks for the foundations are apart.
fn rest(life: &mut Life) {
    life.settle();
    life.pass(Duration::from_secs(25));
    life.reconciler.take_notes();
    life.kernel.take_written();
}

/// How many bytes are in use: by the loop, and by a kernel in memory with the same state.
fn bytes_in_use() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// All at once, as when the loop waited for the kernel meanwhile.
#[test]
fn many_services_that_came_and_went_leave_no_memory_in_use() {
    const STAY: u32 = 2_000;
    const GO: u32 = 30_000;
    let mut life = Life::new(MemoryKernel::default());
    life.feed([
        Event::Service(Change::Replace((0..STAY).map(service).collect())),
        Event::Slice(Change::Replace((0..STAY).map(slice).collect())),
        Event::Node(Change::Replace(vec![])),
    ]);
    rest(&mut life);
    let (before, wanted) = (bytes_in_use(), life.kernel.state());

    let goes = STAY..STAY + GO;
    life.feed(goes.clone().map(|number| Event::Service(Change::Upsert(service(number)))));
    life.feed(goes.clone().map(|number| Event::Slice(Change::Upsert(slice(number)))));
    rest(&mut life);
    let most = bytes_in_use();
    assert!(most > 8 * before, "{before} bytes, later {most}");
    life.feed(goes.clone().map(|number| Event::Service(Change::Delete(service(number).key))));
    life.feed(goes.map(|number| Event::Slice(Change::Delete(slice(number).key))));
    rest(&mut life);
    assert!(life.kernel.state() == wanted, "the kernel has what it had");
    drop(wanted);
    let after = bytes_in_use();
    assert!(after * 10 <= before * 11, "{before} bytes before, {after} after");
}
