//! Watches whether calls into the kernel return.
//!
//! A read or a write may block inside `send`, which no socket timeout ends, for as long as somebody else holds the lock
//! of all network devices: a driver that hangs, a device that cannot be removed. The loop's thread blocks with it,
//! reports nothing, and takes in no more changes. Therefore another task checks whether the loop is still in the same
//! call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::diff::Plan;
use crate::diff::purge::Purge;
use crate::kernel::{
    Found, Foundations, Kernel, Outcome, Purged, ReadError, Selection, StaleEntry, Witnesses,
};
use crate::serve::metrics::Metrics;
use crate::serve::{Moment, Status, Unreadable};
use crate::state::{RealServerKey, State, VirtualServerKey};

/// The key of this problem in [`Status::unreadable`].
const ANSWERS: &str = "answers";

/// How often the kernel was entered and left, counted together: odd while a call is inside.
///
/// It holds no time, since reading the clock is a system call on some systems; the task that looks has a clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<AtomicU64>);

impl Turns {
    /// The turn that is inside the kernel, if any.
    fn inside(&self) -> Option<u64> {
        let turn = self.0.load(Ordering::Relaxed);
        (turn % 2 == 1).then_some(turn)
    }
}

/// A kernel that counts when it is entered and left.
pub(super) struct WatchedKernel<K> {
    kernel: K,
    turns: Turns,
}

impl<K: Kernel> WatchedKernel<K> {
    /// The watched kernel, and its counter.
    pub(super) fn new(kernel: K) -> (Self, Turns) {
        let turns = Turns::default();
        (Self { kernel, turns: turns.clone() }, turns)
    }

    fn turn<T>(&mut self, work: impl FnOnce(&mut K) -> T) -> T {
        // Only one thread counts, and the counter orders no other memory.
        self.turns.0.fetch_add(1, Ordering::Relaxed);
        let answer = work(&mut self.kernel);
        self.turns.0.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

impl<K: Kernel> Kernel for WatchedKernel<K> {
    fn apply(&mut self, plan: &Plan) -> Vec<Outcome> {
        self.turn(|kernel| kernel.apply(plan))
    }

    fn read(&mut self, selection: &Selection) -> Result<State, ReadError> {
        self.turn(|kernel| kernel.read(selection))
    }

    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations {
        self.turn(|kernel| kernel.foundations(witnesses))
    }

    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError> {
        self.turn(K::list_virtual_servers)
    }

    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError> {
        self.turn(|kernel| kernel.connections(servers))
    }

    fn find_stale(&mut self, purge: &Purge) -> Found {
        self.turn(|kernel| kernel.find_stale(purge))
    }

    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged {
        self.turn(|kernel| kernel.delete_stale(entries))
    }
}

/// How many looks there are in each sync period, the unit by which health is judged.
const LOOKS_PER_SYNC_PERIOD: u32 = 2;
/// The shortest time between two looks: reading all of a large cluster at the start may take seconds.
const SHORTEST: Duration = Duration::from_secs(10);

/// Keeps looking whether the kernel is still in the same turn. Two looks that find the same turn mean that the kernel
/// does not answer. The status says so until it does; when this lasts, the node is unhealthy (`healthz`). Each look
/// that confirms it counts as a failed read: while no change waits, nothing else would show it in the metrics.
pub(super) async fn watch(
    turns: Turns,
    status: watch::Sender<Status>,
    metrics: Arc<Metrics>,
    sync_period: Duration,
) {
    let period = (sync_period / LOOKS_PER_SYNC_PERIOD).max(SHORTEST);
    let mut looks = Looks::default();
    loop {
        tokio::time::sleep(period).await;
        looks.look(&turns, &status, &metrics, Moment::now());
    }
}

/// What the last look found.
#[derive(Default)]
struct Looks {
    /// The turn that was inside, and when it was first found.
    turn: Option<(u64, Moment)>,
    told: bool,
}

impl Looks {
    fn look(&mut self, turns: &Turns, status: &watch::Sender<Status>, metrics: &Metrics, now: Moment) {
        let inside = turns.inside();
        match (inside, self.turn) {
            (Some(turn), Some((known, since))) if turn == known => {
                metrics.own.read_failures_total.inc();
                if !self.told {
                    tracing::error!(
                        "The kernel does not answer: nothing is written until it does. To see where it hangs, read \
                         /proc/PID/task/*/stack on the node, where PID is the id of this process there"
                    );
                    let text = "the kernel has not answered".to_owned();
                    status.send_modify(|status| {
                        status.unreadable.insert(ANSWERS, Unreadable { since, text });
                    });
                }
                self.told = true;
            }
            (inside, before) => {
                if std::mem::take(&mut self.told) {
                    let seconds = before.map_or(0, |(_, since)| now.since(since).as_secs());
                    tracing::info!(seconds, "The kernel answers again");
                    status.send_modify(|status| _ = status.unreadable.remove(ANSWERS));
                }
                self.turn = inside.map(|turn| (turn, now));
            }
        }
    }
}

#[cfg(test)]
mod tests;
