//! What is known but not written yet: for health and metrics. Pure.
//!
//! A change is *fresh* until it is looked at. Then it is in the schedule, and is written once the schedule has nothing
//! left of its family. A fresh change must not count as written when a plan that was made before it is carried out, and
//! must not keep earlier changes from counting as written: a cluster that never stops changing is not ill.

use std::collections::{BTreeMap, BTreeSet};

use super::note::Note;
use crate::cluster::types::Family;

/// How many trigger times of unwritten changes are kept per family. Where the kernel refuses the foundations nothing is
/// ever written, while changes go on. The first ones are kept: they wait longest.
const MOST_TRIGGERS: usize = 10_000;

/// How many changes there were, and how many of them are not written yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes of Services since the start.
    pub services: u64,
    /// Of these, not written yet.
    pub services_pending: u64,
    /// Changes of EndpointSlices since the start: each event counts the Services for which it changed a slice.
    pub slices: u64,
    /// Of these, not written yet.
    pub slices_pending: u64,
}

/// Keeps count of changes that came, were looked at, and were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    services: u64,
    slices: u64,
    fresh: Waiting,
    taken: Waiting,
    /// Families with something that is not written yet.
    unsettled: BTreeSet<Family>,
    /// Families that were noted as queued since [`Progress::told`].
    told: Vec<Family>,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    services: u64,
    slices: u64,
    /// When slice changes happened, in nanoseconds since 1970.
    triggers: BTreeMap<Family, Vec<i64>>,
}

impl Progress {
    /// An event about a Service changed the facts of this many Services.
    pub(super) fn services_changed(&mut self, count: u64) {
        self.services += count;
        self.fresh.services += count;
    }

    /// An event about a slice changed the facts of this many Services.
    pub(super) fn slices_changed(&mut self, count: u64) {
        self.slices += count;
        self.fresh.slices += count;
    }

    /// A slice changed, and says when that change began.
    pub(super) fn triggered(&mut self, family: Family, nanoseconds: i64) {
        let taken = self.taken.triggers.get(&family).map_or(0, Vec::len);
        let fresh = self.fresh.triggers.entry(family).or_default();
        if fresh.len() + taken < MOST_TRIGGERS {
            fresh.push(nanoseconds);
        }
    }

    /// All fresh changes are in the schedule now.
    pub(super) fn looked(&mut self) {
        let Waiting { services, slices, triggers } = std::mem::take(&mut self.fresh);
        self.taken.services += services;
        self.taken.slices += slices;
        for (family, mut triggers) in triggers {
            self.taken.triggers.entry(family).or_default().append(&mut triggers);
        }
    }

    /// Notes that these families have something to be written: where nothing waited before, or else once for all
    /// changes that come together.
    pub(super) fn queued(&mut self, families: impl IntoIterator<Item = Family>) -> Vec<Note> {
        let note = |family| {
            let is_first = self.unsettled.insert(family);
            let is_told = self.told.contains(&family);
            if !is_told {
                self.told.push(family);
            }
            match (is_first, is_told) {
                (true, _) => Some(Note::Queued(family)),
                (false, false) => Some(Note::QueuedMore(family)),
                (false, true) => None,
            }
        };
        families.into_iter().filter_map(note).collect()
    }

    /// Separates what comes from now on from what came together before.
    pub(super) fn told(&mut self) {
        self.told.clear();
    }

    /// Everything that was looked at is written, for the families of which `is_settled` holds. If the schedule
    /// `is_empty`, no change that was looked at is pending.
    pub(super) fn settled(&mut self, is_settled: impl Fn(Family) -> bool, is_empty: bool) -> Vec<Note> {
        let settled: Vec<_> = self.unsettled.iter().copied().filter(|family| is_settled(*family)).collect();
        if is_empty {
            (self.taken.services, self.taken.slices) = (0, 0);
        }
        let note = |family: Family| {
            self.unsettled.remove(&family);
            let triggered_nanoseconds = self.taken.triggers.remove(&family).unwrap_or_default();
            Note::Synced { family, triggered_nanoseconds }
        };
        settled.into_iter().map(note).collect()
    }

    /// How many changes there were, and how many are not written yet.
    pub(super) fn changes(&self) -> Changes {
        Changes {
            services: self.services,
            services_pending: self.fresh.services + self.taken.services,
            slices: self.slices,
            slices_pending: self.fresh.slices + self.taken.slices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notes: Vec<Note>) -> Vec<String> {
        notes.into_iter().map(|note| format!("{note:?}")).collect()
    }

    #[test]
    fn what_comes_while_the_kernel_works_is_not_written_yet() {
        let mut progress = Progress::default();
        progress.triggered(Family::V4, 1);
        progress.slices_changed(1);
        assert_eq!(told(progress.queued(Family::ALL)), ["Queued(V4)", "Queued(V6)"]);
        progress.looked();
        progress.triggered(Family::V4, 2);
        progress.slices_changed(1);
        assert!(progress.queued(Family::ALL).is_empty(), "they wait already");
        progress.told();
        assert_eq!(told(progress.queued(Family::ALL)), ["QueuedMore(V4)", "QueuedMore(V6)"]);
        assert!(progress.queued([Family::V4]).is_empty(), "it came together with those");
        assert_eq!(
            told(progress.settled(|family| family == Family::V4, true)),
            ["Synced { family: V4, triggered_nanoseconds: [1] }"]
        );
        assert_eq!(
            progress.changes(),
            Changes { slices: 2, slices_pending: 1, ..Changes::default() },
            "the second is still fresh"
        );
        assert_eq!(told(progress.queued([Family::V4])), ["Queued(V4)"]);
        progress.looked();
        assert_eq!(
            told(progress.settled(|_| true, true)),
            [
                "Synced { family: V4, triggered_nanoseconds: [2] }",
                "Synced { family: V6, triggered_nanoseconds: [] }"
            ]
        );
        assert_eq!(progress.changes().slices_pending, 0);
    }

    #[test]
    fn a_family_that_is_not_settled_keeps_its_changes() {
        let mut progress = Progress::default();
        progress.services_changed(2);
        progress.triggered(Family::V6, 7);
        progress.queued(Family::ALL);
        progress.looked();
        progress.settled(|family| family == Family::V4, false);
        assert_eq!(progress.changes().services_pending, 2);
        assert_eq!(
            told(progress.settled(|_| true, true)),
            ["Synced { family: V6, triggered_nanoseconds: [7] }"]
        );
    }

    #[test]
    fn times_of_changes_are_not_kept_without_end() {
        let mut progress = Progress::default();
        progress.queued(Family::ALL);
        for number in 0..1_000_000 {
            progress.triggered(Family::V4, number);
            progress.looked();
        }
        assert!(progress.taken.triggers[&Family::V4].len() <= MOST_TRIGGERS);
        assert_eq!(progress.taken.triggers[&Family::V4][0], 0, "the first ones wait longest");
        // Unwritten changes of one family take no room from the other, and written ones make room.
        for round in 0..3 {
            progress.triggered(Family::V6, round);
            progress.looked();
            progress.queued([Family::V6]);
            assert_eq!(
                told(progress.settled(|family| family == Family::V6, false)),
                [format!("Synced {{ family: V6, triggered_nanoseconds: [{round}] }}")]
            );
        }
        progress.settled(|_| true, true);
        progress.triggered(Family::V4, 7);
        progress.looked();
        assert_eq!(progress.taken.triggers, BTreeMap::from([(Family::V4, vec![7])]));
    }
}
