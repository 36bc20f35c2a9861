use std::sync::mpsc;
use std::thread;

use super::*;
use crate::cluster::types::Family;
use crate::kernel::memory::MemoryKernel;
use crate::serve::FamilyStatus;
use crate::serve::healthz::{healthz, livez};
use crate::telemetry::tests::listen;

const SYNC_PERIOD: Duration = Duration::from_secs(30);

/// A kernel that does not answer until it is released.
struct Stuck {
    asked: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
    kernel: MemoryKernel,
}

impl Kernel for Stuck {
    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations {
        self.asked.send(()).unwrap();
        self.go.recv().unwrap();
        self.kernel.foundations(witnesses)
    }

    fn apply(&mut self, plan: &Plan) -> Vec<Outcome> {
        self.kernel.apply(plan)
    }

    fn read(&mut self, selection: &Selection) -> Result<State, ReadError> {
        self.kernel.read(selection)
    }

    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError> {
        self.kernel.list_virtual_servers()
    }

    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError> {
        self.kernel.connections(servers)
    }

    fn find_stale(&mut self, purge: &Purge) -> Found {
        self.kernel.find_stale(purge)
    }

    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged {
        self.kernel.delete_stale(entries)
    }
}

/// The status of a node where all is well.
fn well() -> watch::Sender<Status> {
    let now = Moment::now();
    let family = FamilyStatus { last_synced: Some(now), ..FamilyStatus::default() };
    watch::Sender::new(Status {
        families: [(Family::V4, family)].into(),
        synced_once: true,
        ..Status::default()
    })
}

#[tokio::test]
async fn a_kernel_that_never_answers_makes_the_node_unhealthy() {
    let (log, _listening) = listen();
    let (asked, is_asked) = mpsc::channel();
    let (go, waits) = mpsc::channel();
    let stuck = Stuck { asked, go: waits, kernel: MemoryKernel::default() };
    let (mut kernel, turns) = WatchedKernel::new(stuck);
    let (status, metrics) = (well(), Metrics::new(&[], &[]));
    let failures = || metrics.own.read_failures_total.get();
    let (mut looks, mut now) = (Looks::default(), Moment::now());
    let mut pass = |looks: &mut Looks, seconds| {
        for _ in 0..seconds / 15 {
            now = now.soon_after(now.instant + Duration::from_secs(15));
            looks.look(&turns, &status, &metrics, now);
        }
        let status = status.borrow();
        (healthz(&status, now, SYNC_PERIOD), livez(&status, now, SYNC_PERIOD))
    };
    assert_eq!(pass(&mut looks, 600).0.code, 200, "nobody asks, nothing is amiss");
    assert_eq!(failures(), 0);

    let thread = thread::spawn(move || drop(kernel.foundations(&Witnesses::default())));
    is_asked.recv().unwrap();
    assert_eq!(pass(&mut looks, 60).0.code, 200, "it may take its time");
    let (healthz, livez) = pass(&mut looks, 15);
    assert_eq!((healthz.code, livez.code), (503, 503));
    assert!(healthz.body.contains("the kernel has not answered, for 60 s"), "{}", healthz.body);
    // At each look except the first one: the counter that alerts use rises as long as the problem lasts.
    assert_eq!(failures(), 4);

    go.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(pass(&mut looks, 600).0.code, 200);
    assert_eq!(failures(), 4);
    assert_eq!(log.lines().len(), 2, "each is said once: {:?}", log.lines());
    assert_eq!(log.lines_with("The kernel answers again").len(), 1);
    assert_eq!(log.lines_with("/proc/PID/task/*/stack").len(), 1, "what to do next");
}

#[tokio::test]
async fn a_kernel_that_is_asked_all_the_time_answers() {
    let (mut kernel, turns) = WatchedKernel::new(MemoryKernel::default());
    let (status, metrics) = (well(), Metrics::new(&[], &[]));
    let mut looks = Looks::default();
    for _ in 0..5 {
        // A call is inside at each look, but a different one each time.
        let mut inside = None;
        kernel.turn(|kernel| {
            looks.look(&turns, &status, &metrics, Moment::now());
            inside = turns.inside();
            kernel.foundations(&Witnesses::default())
        });
        assert!(inside.is_some());
        assert!(status.borrow().unreadable.is_empty());
        assert_eq!(metrics.own.read_failures_total.get(), 0);
    }
}
