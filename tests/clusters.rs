//! Random clusters on a real kernel: whatever a cluster asks for, and however it changes, the kernel holds it, it reads
//! back as it was written, and a new life finds nothing to write.

#[path = "common/lab.rs"]
mod lab;
#[path = "common/random.rs"]
mod random;

use std::time::{Duration, Instant};

use kube_ipvs::api::Event;
use kube_ipvs::cluster::Cluster;
use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::desired::Desired;
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::diff;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Kernel, Selection, version};
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler};
use kube_ipvs::reconcile::note::{Note, Verdict};
use kube_ipvs::state::{RealServer, Scope, Weight};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use random::{NODE, complete, event, everything};

/// The number of clusters, and how many share a namespace: the kernel keeps removed real servers for two minutes, and
/// searches them for each one that is added.
const CLUSTERS: usize = 1000;
const IN_ONE_NAMESPACE: usize = 20;
/// The events at a cluster's start, and in each later change.
const FIRST_EVENTS: usize = 12;
const CHANGES: usize = 3;
const EVENTS_IN_A_CHANGE: usize = 3;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![random_clusters_are_written_and_read_back])
}

fn options(number: usize) -> ProxyOptions {
    let schedulers = ["rr", "wlc", "sh", "mh"];
    ProxyOptions {
        scheduler: schedulers[number / IN_ONE_NAMESPACE % schedulers.len()].into(),
        cluster_cidrs: ["10.244.0.0/16", "fd01::/64"]
            .map(|network| network.parse().expect("a network"))
            .into(),
        masquerade_all: number.is_multiple_of(7),
        ..ProxyOptions::default()
    }
}

fn supported() -> Supported {
    Supported {
        families: Family::ALL.into(),
        kernel: version::running(),
        missing: std::collections::BTreeSet::new(),
    }
}

/// A proxy without its sources.
struct Life {
    reconciler: Reconciler,
    kernel: LinuxKernel,
    now: Instant,
}

impl Life {
    fn new(options: ProxyOptions) -> Self {
        let period = Duration::from_secs(1);
        let reconciler = Reconciler::new(options, NODE.into(), supported(), Duration::ZERO, period);
        Self { reconciler, kernel: LinuxKernel::open().expect("a kernel"), now: Instant::now() }
    }

    /// Takes events in, and works until nothing is left to write. Returns how many writes were done, and which were
    /// refused.
    fn live(&mut self, events: impl IntoIterator<Item = Event>) -> (u64, Vec<String>) {
        events.into_iter().for_each(|event| self.reconciler.observe(event));
        while let Next::Work(work) = self.reconciler.next(self.now) {
            let answer = work.carry_out(&mut self.kernel);
            self.now += Duration::from_micros(1);
            self.reconciler.complete(answer, self.now);
        }
        let (mut writes, mut refused) = (0, Vec::new());
        for note in self.reconciler.take_notes() {
            match note {
                Note::Wrote { counts, .. } => {
                    let done = counts.iter().filter(|(_, verdict, _)| *verdict == Verdict::Done);
                    writes += done.map(|(.., count)| count).sum::<u64>();
                }
                Note::Refused { key, text, .. } => refused.push(format!("{key}: {text}")),
                Note::Unreadable(_, error) => refused.push(error.to_string()),
                Note::Drift(key) => refused.push(format!("{key} is not as it was written")),
                _ => {}
            }
        }
        (writes, refused)
    }

    /// Asserts that the kernel, read back as a whole, holds what the cluster asks for.
    fn check(&mut self, cluster: &Cluster, options: ProxyOptions) {
        let mut desired = Desired::new(options, NODE.into(), supported());
        desired.look_at_node(cluster);
        desired.update(cluster, &cluster.services().map(|service| service.key.clone()).collect());
        let keys: Scope = desired.keys().collect();
        let mut wanted = desired.select(&keys);
        let actual = self.kernel.read(&Selection::Everything).expect("everything");
        wanted.virtual_servers.retain(|key, server| {
            let known = actual.virtual_servers.get(key).filter(|_| key.protocol != Protocol::Udp);
            for (real, value) in known.into_iter().flat_map(|known| &known.real_servers) {
                if value.weight == Weight::Exactly(0) {
                    let drains = RealServer::with(Weight::DrainIfPresent);
                    server.real_servers.entry(*real).or_insert(drains);
                }
            }
            !server.real_servers.is_empty()
        });
        // In a namespace of our own everything is ours; of parameters and timeouts only the wanted ones count.
        for key in keys.into_iter().chain(actual.keys()) {
            let scope = Scope::from([key.clone()]);
            assert!(
                diff::accepts(&wanted, &actual, &scope),
                "{key}: wanted {:?}, there is {:?}",
                diff::diff(&wanted, &actual, &scope),
                actual.contains(&key)
            );
        }
    }
}

fn random_clusters_are_written_and_read_back() {
    // The same clusters in each run, so that a failure can be reproduced.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut pick = move || event().new_tree(&mut runner).expect("an event").current();
    let mut steps = 0;
    for number in 0..CLUSTERS {
        if number % IN_ONE_NAMESPACE == 0 {
            lab::new_namespace();
        }
        let mut cluster = Cluster::default();
        let first: Vec<Event> = (0..FIRST_EVENTS).map(|_| pick()).collect();
        for event in complete().into_iter().chain(first) {
            cluster.apply(event);
        }
        let mut life = Life::new(options(number));
        // What the previous cluster left behind is taken over, and cleaned up.
        let (_, refused) = life.live(everything(&cluster));
        assert!(refused.is_empty(), "cluster {number}: {refused:#?}");
        life.check(&cluster, options(number));
        for _ in 0..CHANGES {
            let events: Vec<Event> = (0..EVENTS_IN_A_CHANGE).map(|_| pick()).collect();
            for event in &events {
                cluster.apply(event.clone());
            }
            let (_, refused) = life.live(events);
            assert!(refused.is_empty(), "cluster {number}: {refused:#?}");
            life.check(&cluster, options(number));
            steps += 1;
        }
        let mut next = Life::new(options(number));
        let (writes, refused) = next.live(everything(&cluster));
        assert!(refused.is_empty(), "cluster {number}, again: {refused:#?}");
        assert_eq!(writes, 0, "cluster {number}: the next life finds nothing to write");
    }
    println!("{CLUSTERS} clusters, {steps} changes");
}
