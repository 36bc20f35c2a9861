//! When to work on which keys: queues by urgency, retries with backoff, keys whose state in the kernel is uncertain.
//!
//! Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::cluster::types::Family;
use crate::state::part::Part;
use crate::state::{Key, Scope};

#[cfg(test)]
mod tests;

/// The wait after the first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_mins(1);
/// A retry comes sooner, by up to one part in so many of its wait, if another retry is due then.
const TOGETHER: u32 = 4;

/// How urgent a key is; the first is worked on first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// The foundations: the device, kernel parameters, the fixed rules.
    Settings,
    /// At start: the Services that everything else needs to start.
    First,
    /// A change, or drift.
    Change,
    /// Much at once: at the start everything else; later, virtual servers that were found to be gone.
    Bulk,
    /// At the start: the ways inside the cluster, which lead to virtual servers in `Bulk`, and the entry points where
    /// they begin.
    Ways,
    /// At the start: ways inside that lead to virtual servers to be removed, and the marks of entry points that no
    /// longer drop.
    Turned,
    /// At the start: what is ours and not wanted.
    Removal,
}

/// Why a key is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How often in a row it failed.
    pub attempts: u32,
    /// What the kernel said last.
    pub text: String,
    /// Whether the reason is about this object alone, as far as can be told.
    pub is_single: bool,
    /// Whether it was reported.
    announced: bool,
    /// When it is tried again.
    due: Instant,
}

impl Failure {
    /// When it is tried again.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether the kernel refused the key, as far as is known. Otherwise the key waits for another one, or for its
    /// first retry, which comes at once.
    pub fn is_refusal(&self) -> bool {
        self.announced
    }
}

/// Keys that wait.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Keys that came together, in order, each once. At the start these are hundreds of thousands, and a tree of them
    /// would leave holes in memory between what is allocated meanwhile and stays.
    filled: VecDeque<Key>,
    /// What came later.
    added: Scope,
    /// How many keys there are of each family, and of none. Kept as a count, since it is asked for all the time.
    of: BTreeMap<Option<Family>, usize>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.filled.is_empty() && self.added.is_empty()
    }

    fn insert(&mut self, key: Key) {
        let family = key.family();
        if self.filled.binary_search(&key).is_err() && self.added.insert(key) {
            *self.of.entry(family).or_default() += 1;
        }
    }

    /// Inserts all of these, in whatever order.
    fn insert_all(&mut self, mut keys: Vec<Key>) {
        if self.is_empty() {
            keys.sort_unstable();
            keys.dedup();
            for key in &keys {
                *self.of.entry(key.family()).or_default() += 1;
            }
            self.filled = keys.into();
        } else {
            for key in keys {
                self.insert(key);
            }
        }
    }

    /// Takes everything.
    fn take(mut self) -> Scope {
        // Keys that are in order already become a tree at once.
        let mut keys: Scope = self.filled.into_iter().collect();
        keys.append(&mut self.added);
        keys
    }

    /// Takes the first `count` keys in order.
    fn take_first(&mut self, count: usize) -> Scope {
        let next = || match (self.filled.front(), self.added.first()) {
            (Some(filled), Some(added)) if added < filled => self.added.pop_first(),
            (Some(_), _) => self.filled.pop_front(),
            (None, _) => self.added.pop_first(),
        };
        let keys = std::iter::from_fn(next).take(count).collect();
        self.taken(keys)
    }

    /// Takes the last `count` keys in order.
    fn take_last(&mut self, count: usize) -> Scope {
        let next = || match (self.filled.back(), self.added.last()) {
            (Some(filled), Some(added)) if added > filled => self.added.pop_last(),
            (Some(_), _) => self.filled.pop_back(),
            (None, _) => self.added.pop_last(),
        };
        let keys = std::iter::from_fn(next).take(count).collect();
        self.taken(keys)
    }

    fn taken(&mut self, keys: Scope) -> Scope {
        for key in &keys {
            if let Some(count) = self.of.get_mut(&key.family()) {
                *count -= 1;
            }
        }
        keys
    }

    /// Whether something waits that concerns this family, or what the families share.
    fn concerns(&self, family: Family) -> bool {
        [None, Some(family)].iter().any(|of| self.of.get(of).is_some_and(|count| *count > 0))
    }
}

/// What waits to be worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    queues: BTreeMap<Urgency, Queue>,
    /// How many keys of the first fill are worked on at once.
    pace: Pace,
    failures: BTreeMap<Key, Failure>,
    retries: BTreeSet<(Instant, Key)>,
    suspects: BTreeMap<Part, Suspects>,
}

/// The uncertain keys of one part.
#[derive(Clone, Debug, Default)]
struct Suspects {
    keys: Scope,
    /// Keys that were taken from a queue and have to wait: they are queued again once this part is certain.
    taken: Scope,
    /// When to read the keys again, after reading them failed.
    due: Option<Instant>,
    attempts: u32,
}

impl Schedule {
    /// Puts a key into a queue.
    pub(super) fn add(&mut self, urgency: Urgency, key: Key) {
        self.queues.entry(urgency).or_default().insert(key);
    }

    /// Puts keys into a queue, in whatever order they come.
    pub(super) fn add_all(&mut self, urgency: Urgency, keys: Vec<Key>) {
        if !keys.is_empty() {
            self.queues.entry(urgency).or_default().insert_all(keys);
        }
    }

    /// Takes the keys to compare next: a whole queue (a burst becomes one run; the plan decides the order inside it),
    /// or a piece of the first fill. Uncertain keys wait until they are read.
    pub(super) fn take(&mut self, now: Instant) -> Scope {
        self.take_retries(now);
        let piece = self.pace.piece();
        while let Some(mut entry) = self.queues.first_entry() {
            let urgency = *entry.key();
            let queue = entry.get_mut();
            let taken = match urgency {
                Urgency::Settings | Urgency::First | Urgency::Change => std::mem::take(queue).take(),
                // From the front come elements, virtual servers, addresses; from the back the reverse. Both are the
                // order that order.rs wants, here across the pieces of one queue. Which step needs which is known only
                // inside one piece: a step that needs something which an earlier piece failed to make is tried all the
                // same.
                Urgency::Bulk | Urgency::Ways => queue.take_first(piece),
                Urgency::Turned | Urgency::Removal => queue.take_last(piece),
            };
            if entry.get().is_empty() {
                entry.remove();
            }
            let ready = if self.suspects.is_empty() { taken } else { self.without_suspects(taken) };
            if !ready.is_empty() {
                return ready;
            }
        }
        Scope::new()
    }

    /// Those of these keys that are certain. The others wait until they are.
    fn without_suspects(&mut self, taken: Scope) -> Scope {
        let (uncertain, ready) = taken.into_iter().partition::<Scope, _>(|key| self.is_suspect(key));
        for key in uncertain {
            if let Some(suspects) = self.suspects.get_mut(&Part::of(&key)) {
                suspects.taken.insert(key);
            }
        }
        ready
    }

    /// Puts the keys whose retry is due among the changes, and with them those that are due soon.
    ///
    /// Before each retry the kernel's state of the key is read, and for an element that is the whole table. A thousand
    /// objects that are always refused would otherwise have the table read all the time.
    fn take_retries(&mut self, now: Instant) {
        if self.retries.first().is_none_or(|(due, _)| *due > now) {
            return;
        }
        let soon = |(due, key): &&(Instant, Key)| {
            let attempts = self.failures.get(key).map_or(0, |failure| failure.attempts);
            *due <= now + full_backoff(attempts) / TOGETHER
        };
        let last = now + LAST_RETRY / TOGETHER;
        let taken: Vec<_> =
            self.retries.iter().take_while(|(due, _)| *due <= last).filter(soon).cloned().collect();
        for retry in taken {
            self.retries.remove(&retry);
            self.add(Urgency::Change, retry.1);
        }
    }

    /// Takes in that the kernel took this long for this many keys.
    pub(super) fn took(&mut self, keys: usize, took: Duration) {
        self.pace.took(keys, took);
    }

    /// Whether there is something to take now.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        !self.queues.is_empty() || self.retries.first().is_some_and(|(due, _)| *due <= now)
    }

    /// The most urgent queue that is not empty.
    pub(super) fn most_urgent(&self) -> Option<Urgency> {
        self.queues.keys().next().copied()
    }

    /// Whether something waits that is worked on piece by piece.
    pub(super) fn has_pieces(&self) -> bool {
        self.queues.range(Urgency::Bulk..).next().is_some()
    }

    /// Lets a key that was taken wait for another one: until that is certain, or for its retry; `false`: there is no
    /// reason to wait.
    pub(super) fn waits_with(&mut self, key: &Key, other: &Key, now: Instant) -> bool {
        if self.is_suspect(other) {
            self.suspects.entry(Part::of(other)).or_default().taken.insert(key.clone());
        } else if self.failures.get(other).is_some_and(|failure| failure.due > now) {
            self.wait_for(key, other);
        } else {
            return false;
        }
        true
    }

    /// Marks a key as uncertain: it must be read before it is compared again.
    pub(super) fn suspect(&mut self, key: Key) {
        self.suspects.entry(Part::of(&key)).or_default().keys.insert(key);
    }

    /// The keys for which it is uncertain what the kernel has.
    pub(super) fn all_uncertain(&self) -> impl Iterator<Item = &Key> {
        self.suspects.values().flat_map(|suspects| &suspects.keys)
    }

    /// Whether it is uncertain what the kernel has of a key.
    pub(super) fn is_suspect(&self, key: &Key) -> bool {
        self.suspects.get(&Part::of(key)).is_some_and(|suspects| suspects.keys.contains(key))
    }

    /// The uncertain keys of the first part that is to be read now.
    pub(super) fn suspects(&self, now: Instant) -> Option<&Scope> {
        let first = self.suspects.values().find(|suspects| suspects.due.is_none_or(|due| due <= now));
        first.map(|suspects| &suspects.keys)
    }

    /// All uncertain keys of one part were read: they are certain again, and are compared next.
    pub(super) fn certain(&mut self, keys: Scope) {
        let suspects = keys.first().and_then(|key| self.suspects.remove(&Part::of(key))).unwrap_or_default();
        for key in keys {
            // A key that waits for its retry goes on waiting, if nothing else was to be done with it.
            let waits = self.failures.get(&key).map(|failure| (failure.due, key.clone()));
            if waits.is_none_or(|retry| !self.retries.contains(&retry)) {
                self.add(Urgency::Change, key);
            }
        }
        for key in suspects.taken {
            self.add(Urgency::Change, key);
        }
    }

    /// These uncertain keys of one part could not be read.
    pub(super) fn still_uncertain(&mut self, keys: &Scope, now: Instant) {
        if let Some(key) = keys.first()
            && let Some(suspects) = self.suspects.get_mut(&Part::of(key))
        {
            suspects.attempts = suspects.attempts.saturating_add(1);
            suspects.due = Some(now + backoff(suspects.attempts, key));
        }
    }

    /// Whether reading uncertain keys failed when it was last tried.
    pub(super) fn has_unreadable(&self) -> bool {
        self.suspects.values().any(|suspects| suspects.attempts > 0)
    }

    /// The kernel refused what a key needs: it is tried again later.
    ///
    /// `is_single`: the reason is about this key alone; otherwise it may be about everything. Returns whether to report
    /// the failure: it is the first one, or has another text.
    pub(super) fn fail(&mut self, key: &Key, text: String, is_single: bool, now: Instant) -> bool {
        let news = self.failures.get(key).is_none_or(|known| !known.announced || known.text != text);
        let attempts = self.failures.get(key).map_or(0, |known| known.attempts).saturating_add(1);
        let due = now + backoff(attempts, key);
        self.set_failure(key, Failure { attempts, text, is_single, announced: true, due });
        news
    }

    /// The kernel refused a step because our picture of the key was wrong.
    ///
    /// The first time, the key is read and tried again at once; after that, this is a failure like any other. Returns
    /// whether to report it.
    pub(super) fn surprise(&mut self, key: &Key, text: String, is_single: bool, now: Instant) -> bool {
        if self.failures.contains_key(key) {
            return self.fail(key, text, is_single, now);
        }
        self.set_failure(key, Failure { attempts: 1, text, is_single, announced: false, due: now });
        false
    }

    /// A key was not worked on because another one was not done: it is tried again together with that one.
    pub(super) fn wait_for(&mut self, key: &Key, prerequisite: &Key) {
        match self.failures.get(prerequisite) {
            // With the other key's attempts too: they decide which retries come sooner, together with another one, and
            // these two must come together. What a step needs is known only inside one plan.
            Some(&Failure { attempts, is_single, due, .. }) => {
                let text = format!("waits for {prerequisite}");
                self.set_failure(key, Failure { attempts, text, is_single, announced: false, due });
            }
            // The other key is uncertain: it is read before anything is taken.
            None => self.add(Urgency::Change, key.clone()),
        }
    }

    fn set_failure(&mut self, key: &Key, failure: Failure) {
        self.retries.insert((failure.due, key.clone()));
        let due = failure.due;
        if let Some(known) = self.failures.insert(key.clone(), failure)
            && known.due != due
        {
            self.retries.remove(&(known.due, key.clone()));
        }
    }

    /// A key is as wanted. Returns whether to report that.
    pub(super) fn succeed(&mut self, key: &Key) -> bool {
        let Some(failure) = self.failures.remove(key) else { return false };
        self.retries.remove(&(failure.due, key.clone()));
        failure.announced
    }

    /// The keys that are not as wanted because the kernel refused something.
    pub(super) fn failures(&self) -> &BTreeMap<Key, Failure> {
        &self.failures
    }

    /// When there will be something to do, if nothing happens before. Where changes are held back until `hold`, retries
    /// wait as well.
    pub(super) fn next_due(&self, hold: Option<Instant>) -> Option<Instant> {
        let reread = self.suspects.values().filter_map(|suspects| suspects.due);
        let retry = self.retries.first().map(|(due, _)| hold.map_or(*due, |hold| hold.max(*due)));
        retry.into_iter().chain(reread).min()
    }

    /// Whether everything of a family, and of what the families share, is as wanted, except for single objects that the
    /// kernel refuses.
    pub(super) fn is_settled(&self, family: Family) -> bool {
        let concerns = |key: &Key| key.family().is_none_or(|other| other == family);
        !self.queues.values().any(|queue| queue.concerns(family))
            && !self.suspects.values().any(|suspects| suspects.keys.iter().any(concerns))
            && !self.failures.iter().any(|(key, failure)| !failure.is_single && concerns(key))
    }
}

/// The wait after this many failures in a row, shortened by up to a quarter so that not all keys of a node come back
/// together.
///
/// The jitter is a fixed hash of the key and the attempts, since this module knows no dice: it is the same on every
/// node.
fn backoff(attempts: u32, key: &Key) -> Duration {
    let mut hasher = DefaultHasher::new();
    (attempts, key).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 256).expect("less than 256");
    full_backoff(attempts) * (1024 - part) / 1024
}

/// The wait after this many failures in a row, not shortened.
fn full_backoff(attempts: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LAST_RETRY)
}
