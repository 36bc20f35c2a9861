use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::{Change, Event};
use crate::cluster::examples;
use crate::cluster::types::{
    EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use crate::desired::settings::Supported;
use crate::diff::Plan;
use crate::kernel::memory::MemoryKernel;
use crate::kernel::{Kernel as _, Outcome};
use crate::options::ProxyOptions;
use crate::reconcile::core::Reconciler;
use crate::reconcile::note::Note;
use crate::reconcile::{Listener, run};

/// Counts the plans, and the purges that have ended.
struct Counts(watch::Sender<(usize, usize)>);

impl Listener for Counts {
    type Question = ();

    fn tell(&mut self, _reconciler: &Reconciler, notes: Vec<Note>, _now: Instant) {
        let purged = notes.iter().filter(|note| matches!(note, Note::Purged(..))).count();
        self.0.send_modify(|(_, purges)| *purges += purged);
    }

    fn wrote(&mut self, _reconciler: &Reconciler, _plan: &Plan, _outcomes: &[Outcome]) {
        self.0.send_modify(|(plans, _)| *plans += 1);
    }

    fn answer(&mut self, _reconciler: &Reconciler, (): (), _now: Instant) {}
}

fn dns() -> Service {
    Service {
        cluster_ips: vec!["10.96.0.10".parse().expect("an address")],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Udp, port: 53, node_port: None }],
        ..examples::service(ServiceKey::new("default", "dns"))
    }
}

fn slices(endpoint: &str) -> Event {
    Event::Slice(Change::Replace(vec![EndpointSlice {
        key: SliceKey::new("default", "dns-1"),
        service: ServiceKey::new("default", "dns"),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Udp, port: 53 }],
        endpoints: vec![examples::endpoint(endpoint.parse().expect("an address"))],
        triggered_nanoseconds: None,
    }]))
}

#[tokio::test]
async fn a_search_that_lasts_holds_up_no_change() {
    let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: [].into() };
    let (period, node) = (Duration::from_hours(1), "here".into());
    let reconciler = Reconciler::new(ProxyOptions::default(), node, supported, Duration::ZERO, period);
    let (events, heard) = mpsc::channel(1);
    let (_questions, asked) = mpsc::channel(1);
    let (counts, mut seen) = watch::channel((0, 0));
    let kernel = MemoryKernel::default();
    let (goes_on, waits) = blocking::channel::<()>();
    let (begins, mut begun) = mpsc::channel(1);
    let mut asks = kernel.clone();
    let find_stale = move |purge: &Purge| {
        begins.blocking_send(()).expect("somebody waits for it");
        waits.recv().expect("it goes on");
        asks.find_stale(purge)
    };
    let shutdown = CancellationToken::new();
    let loops =
        run(reconciler, Box::new(kernel.clone()), find_stale, heard, asked, shutdown.clone(), Counts(counts));
    let running = tokio::spawn(loops);
    let services = Event::Service(Change::Replace(vec![dns()]));
    let first = vec![services, slices("10.244.0.1"), Event::Node(Change::Replace(vec![]))];
    events.send(first).await.expect("the loop runs");
    begun.recv().await.expect("all is purged once");

    let plans = seen.borrow().0;
    events.send(vec![slices("10.244.0.2")]).await.expect("the loop runs");
    seen.wait_for(|seen| seen.0 > plans).await.expect("it is written");
    assert_eq!(seen.borrow().1, 0);
    goes_on.send(()).expect("it waits");
    seen.wait_for(|seen| seen.1 > 0).await.expect("the purge has ended");
    goes_on.send(()).expect("for that of the change");
    shutdown.cancel();
    running.await.expect("no panic").expect("it started");
}
