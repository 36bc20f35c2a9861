use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::{Change, Event};
use crate::cluster::types::Family;
use crate::desired::settings::Supported;
use crate::diff::Plan;
use crate::diff::purge::Purge;
use crate::kernel::memory::MemoryKernel;
use crate::kernel::{
    Found, Foundations, Kernel, Outcome, Purged, ReadError, Selection, StaleEntry, Witnesses,
};
use crate::options::ProxyOptions;
use crate::reconcile::core::Reconciler;
use crate::reconcile::note::Note;
use crate::reconcile::{Listener, run};
use crate::state::{RealServerKey, State, VirtualServerKey};

/// A kernel whose answers cost nothing, and come late.
struct Late(MemoryKernel);

impl Kernel for Late {
    fn read(&mut self, selection: &Selection) -> Result<State, ReadError> {
        thread::sleep(Duration::from_millis(50));
        self.0.read(selection)
    }

    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError> {
        thread::sleep(Duration::from_millis(50));
        self.0.list_virtual_servers()
    }

    fn apply(&mut self, plan: &Plan) -> Vec<Outcome> {
        self.0.apply(plan)
    }

    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations {
        self.0.foundations(witnesses)
    }

    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError> {
        self.0.connections(servers)
    }

    fn find_stale(&mut self, purge: &Purge) -> Found {
        self.0.find_stale(purge)
    }

    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged {
        self.0.delete_stale(entries)
    }
}

/// Counts the rounds of the audit.
struct Rounds(watch::Sender<usize>);

impl Listener for Rounds {
    type Question = ();

    fn tell(&mut self, _reconciler: &Reconciler, notes: Vec<Note>, _now: Instant) {
        let ended = notes.iter().filter(|note| matches!(note, Note::AuditRound)).count();
        self.0.send_modify(|rounds| *rounds += ended);
    }

    fn wrote(&mut self, _reconciler: &Reconciler, _plan: &Plan, _outcomes: &[Outcome]) {}

    fn answer(&mut self, _reconciler: &Reconciler, (): (), _now: Instant) {}
}

#[tokio::test]
async fn the_audit_does_not_rest_for_the_time_that_its_looks_waited() {
    let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: [].into() };
    let period = Duration::from_millis(10);
    let reconciler =
        Reconciler::new(ProxyOptions::default(), "here".into(), supported, Duration::ZERO, period);
    let (events, heard) = mpsc::channel(1);
    let (_questions, asked) = mpsc::channel(1);
    let (rounds, mut seen) = watch::channel(0);
    let complete = [
        Event::Service(Change::Replace(vec![])),
        Event::Slice(Change::Replace(vec![])),
        Event::Node(Change::Replace(vec![])),
    ];
    events.send(complete.into()).await.unwrap();
    let shutdown = CancellationToken::new();
    let kernel = Box::new(Late(MemoryKernel::default()));
    let find_stale = |_: &Purge| Found::default();
    let running =
        tokio::spawn(run(reconciler, kernel, find_stale, heard, asked, shutdown.clone(), Rounds(rounds)));
    // A round is some six looks. Each of them would rest for three seconds.
    let begun = Instant::now();
    seen.wait_for(|rounds| *rounds >= 2).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[test]
fn what_waits_uses_nothing_and_what_works_does() {
    let begun = time_used();
    let used = || time_used().saturating_sub(begun);
    thread::sleep(Duration::from_millis(100));
    assert!(used() < Duration::from_millis(50));
    while used() < Duration::from_millis(50) {}
}
