//! Whole lives of the loop against a kernel in memory, with a time of their own.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::time::{Duration, Instant};

use kube_ipvs::api::Event;
use kube_ipvs::cluster::types::Family;
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::kernel::memory::{Fault, MemoryKernel};
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler, Work};
use kube_ipvs::reconcile::note::Note;
use kube_ipvs::state::Timeouts;

/// The name of this node.
pub(crate) const NODE: &str = "here";

pub(crate) fn options() -> ProxyOptions {
    ProxyOptions {
        scheduler: "rr".into(),
        timeouts: Timeouts { tcp_seconds: 60, tcp_fin_seconds: 0, udp_seconds: 30 },
        exclude_cidrs: vec!["192.0.2.0/24".parse().expect("a network")],
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a network")],
        ..ProxyOptions::default()
    }
}

pub(crate) fn supported() -> Supported {
    Supported { families: Family::ALL.into(), kernel: (6, 12), missing: [].into() }
}

/// A reconciler with its kernel and its own time.
pub(crate) struct Life {
    pub(crate) reconciler: Reconciler,
    pub(crate) kernel: MemoryKernel,
    pub(crate) now: Instant,
}

impl Life {
    pub(crate) fn new(kernel: MemoryKernel) -> Self {
        Self::with(options(), kernel)
    }

    pub(crate) fn with(options: ProxyOptions, kernel: MemoryKernel) -> Self {
        Self::at_pace(options, kernel, Duration::ZERO, Duration::from_secs(1))
    }

    /// A life with this minimum time between writes and this audit period.
    pub(crate) fn at_pace(
        options: ProxyOptions,
        kernel: MemoryKernel,
        min_sync_period: Duration,
        audit_period: Duration,
    ) -> Self {
        let reconciler = Reconciler::new(options, NODE.into(), supported(), min_sync_period, audit_period);
        Self { reconciler, kernel, now: Instant::now() }
    }

    /// Does one piece of work, or lets the time until the next one pass. Returns whether there was work.
    pub(crate) fn step(&mut self) -> bool {
        match self.reconciler.next(self.now) {
            Next::Work(work) => {
                self.work(&work);
                true
            }
            Next::Wait(due) => {
                self.now = due.map_or(self.now, |due| due.max(self.now));
                false
            }
        }
    }

    pub(crate) fn work(&mut self, work: &Work) {
        self.work_for(work, Duration::from_millis(1));
    }

    /// Does a piece of work that takes this long.
    pub(crate) fn work_for(&mut self, work: &Work, time: Duration) {
        let answer = work.carry_out(&mut self.kernel);
        self.now += time;
        self.reconciler.complete(answer, self.now);
    }

    /// Lives on until everything is written, or panics. Returns the notes.
    pub(crate) fn settle(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        for _ in 0..5000 {
            let worked = self.step();
            notes.extend(self.reconciler.take_notes());
            // What is refused counts as settled, too, but is still to be tried again.
            let settled = Family::ALL.iter().all(|family| self.reconciler.is_settled(*family))
                && self.reconciler.failures().is_empty();
            if !worked && settled && !self.reconciler.actual().rules.is_empty() {
                return notes;
            }
        }
        panic!("does not settle: {:?}", self.reconciler.failures());
    }

    /// Lives on for this long; what is due later is left for later.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            match self.reconciler.next(self.now) {
                Next::Work(work) => self.work(&work),
                Next::Wait(due) => self.now = due.map_or(end, |due| due.clamp(self.now, end)),
            }
        }
    }

    pub(crate) fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.reconciler.observe(event));
    }

    /// Takes these events in, and ends as if killed before its n-th step: the kernel takes the steps before, and never
    /// receives that one and later ones. Returns whether there were that many steps.
    pub(crate) fn die_before(mut self, step: usize, events: impl IntoIterator<Item = Event>) -> bool {
        let mut count = 0;
        self.kernel.set_faults(Some(Box::new(move |_| {
            count += 1;
            (count >= step).then_some(Fault::LoseRequest)
        })));
        self.feed(events);
        for _ in 0..20 {
            self.step();
        }
        self.kernel.set_faults(None);
        self.kernel.take_written().len() + 1 == step
    }
}
