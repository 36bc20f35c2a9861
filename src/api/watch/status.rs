//! What others may know about a watch: its state, its counters, and its log lines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::Resource;
use super::failure::{Failure, Verb};

/// How a watch is doing. Published whenever it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether a complete set of objects was ever received. What is known stays in force, whatever happens later.
    pub synced: bool,
    /// The last failure, until it is overcome: `list services: forbidden: ...`.
    pub last_error: Option<Arc<str>>,
    /// How often the watch was opened again, for whatever reason. In a quiet cluster, that is once in five to ten
    /// minutes.
    pub restarts: u64,
}

/// What a watch has counted since the start. Can be read without locks, at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects received: those of lists, and each change.
    pub events_received: AtomicU64,
    /// Of these, objects that this proxy has nothing to do with.
    pub objects_ignored: AtomicU64,
    /// Of these, objects that are invalid, have an invalid part, or could not be decoded.
    pub objects_refused: AtomicU64,
    /// How many objects are like that now: the only number here that can fall again.
    pub refused_now: AtomicU64,
    /// Complete sets of objects received after the first one.
    pub relists: AtomicU64,
    /// Requests, and streams, that failed.
    pub errors: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One watch as seen from outside.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// What is watched.
    pub resource: Resource,
    /// Its state; can be waited on.
    pub status: watch::Receiver<Status>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// The other end of a [`Monitor`], and the log.
pub(super) struct WatchReport {
    resource: Resource,
    status: watch::Sender<Status>,
    pub(super) counters: Arc<Counters>,
    /// The failure that was logged last. A repetition is not worth a line, nor is the same failure of another request:
    /// if a server fails at everything, watches and lists take turns.
    logged: Option<String>,
}

impl WatchReport {
    pub(super) fn new(resource: Resource) -> Self {
        let (status, _) = watch::channel(Status::default());
        Self { resource, status, counters: Arc::default(), logged: None }
    }

    pub(super) fn monitor(&self) -> Monitor {
        let (status, counters) = (self.status.subscribe(), Arc::clone(&self.counters));
        Monitor { resource: self.resource, status, counters }
    }

    /// Records a failure.
    pub(super) fn failed(&mut self, verb: Verb, failure: &Failure) {
        Counters::count(&self.counters.errors);
        let reason = failure.to_string();
        let text = format!("{verb} {}: {reason}", self.resource);
        if self.logged.as_ref() != Some(&reason) {
            if failure.is_gone() {
                // The normal outcome of having been disconnected for long.
                tracing::info!(err = text, "The watch cannot be resumed, listing all objects again");
            } else {
                tracing::warn!(
                    err = text,
                    "Watching the API server failed, keeping the known objects and trying again"
                );
            }
            self.logged = Some(reason);
        }
        self.status.send_modify(|status| status.last_error = Some(text.into()));
    }

    /// The server lets a watch go on. This ends the error in the status; the log says so only when the server sends
    /// something. (A list that is accepted may break off, again and again: for lists, only a complete one counts.)
    pub(super) fn accepted(&self) {
        self.status.send_if_modified(|status| status.last_error.take().is_some());
    }

    /// The server sends something: the failure is over.
    pub(super) fn alive(&mut self) {
        self.accepted();
        if self.logged.take().is_some() {
            tracing::info!(resource = %self.resource, "The API server can be watched again");
        }
    }

    /// A complete set was handed on.
    pub(super) fn synced(&mut self, objects: usize) {
        let first = !self.status.borrow().synced;
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.synced, true));
        if first {
            tracing::info!(controller = self.resource.controller(), objects, "Caches are synced");
        } else {
            Counters::count(&self.counters.relists);
        }
        self.alive();
    }

    /// The watch is opened again.
    pub(super) fn restarted(&self) {
        self.status.send_modify(|status| status.restarts += 1);
    }
}

/// What was logged about which object: the same problem is not logged twice, however often the object changes.
pub(super) struct Complaints<K> {
    said: BTreeMap<K, Said>,
    /// How many of these say that their object is invalid. Kept as a number, since a first list may have thousands.
    invalid: u64,
    /// The objects complained about since the list began.
    in_list: BTreeSet<K>,
    /// Where the number of invalid objects is published.
    counters: Arc<Counters>,
}

/// What was logged about an object.
#[derive(PartialEq, Eq)]
struct Said {
    problem: String,
    is_invalid: bool,
}

impl<K: Ord + Clone> Complaints<K> {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { said: BTreeMap::new(), invalid: 0, in_list: BTreeSet::new(), counters }
    }

    /// An object, or a part of it, is invalid. Logged unless it was already.
    pub(super) fn about(&mut self, key: &K, problem: String, consequence: &'static str) {
        self.say(key, Said { problem, is_invalid: true }, consequence);
    }

    /// A part of a valid object is not served. Logged unless it was already.
    pub(super) fn unserved(&mut self, key: &K, problem: String, consequence: &'static str) {
        self.say(key, Said { problem, is_invalid: false }, consequence);
    }

    fn say(&mut self, key: &K, said: Said, consequence: &'static str) {
        self.in_list.insert(key.clone());
        if self.said.get(key) != Some(&said) {
            tracing::warn!(problem = said.problem, "{consequence}");
            self.invalid += u64::from(said.is_invalid);
            let before = self.said.insert(key.clone(), said);
            self.over(before);
        }
    }

    /// An object is flawless, or gone.
    pub(super) fn settled(&mut self, key: &K) {
        self.in_list.remove(key);
        let before = self.said.remove(key);
        self.over(before);
    }

    /// A list begins.
    pub(super) fn list_begins(&mut self) {
        self.in_list.clear();
    }

    /// A list is complete: an object that was not complained about again does not exist any more.
    pub(super) fn list_ends(&mut self) {
        let gone: Vec<Said> =
            self.said.extract_if(.., |key, _| !self.in_list.contains(key)).map(|(_, said)| said).collect();
        self.over(gone);
    }

    /// These complaints do not hold any more. Publishes how many objects are invalid now.
    fn over(&mut self, said: impl IntoIterator<Item = Said>) {
        let invalid = said.into_iter().filter(|said| said.is_invalid);
        self.invalid -= invalid.map(|_| 1).sum::<u64>();
        self.counters.refused_now.store(self.invalid, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::listen;

    #[test]
    fn a_server_that_fails_at_everything_is_said_once() {
        let (written, _guard) = listen();
        let mut report = WatchReport::new(Resource::Services);
        let failure = Failure::Connection("connection refused".to_owned());
        for verb in [Verb::Watch, Verb::List, Verb::Watch, Verb::List] {
            report.failed(verb, &failure);
        }
        report.failed(Verb::List, &Failure::Connection("no route to host".to_owned()));
        let lines = written.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let last_error = report.status.borrow().last_error.clone();
        assert_eq!(last_error.as_deref(), Some("list services: no route to host"));
    }

    #[test]
    fn the_end_of_a_failure_is_said_once_and_the_next_failure_again() {
        let (written, _guard) = listen();
        let mut report = WatchReport::new(Resource::Services);
        let mut status = report.monitor().status;
        let failure = Failure::Connection("connection refused".to_owned());
        for round in 1..=2 {
            report.failed(Verb::Watch, &failure);
            report.alive();
            assert!(status.has_changed().expect("a sender"));
            status.mark_unchanged();
            report.alive();
            assert!(!status.has_changed().expect("a sender"), "nothing new for those who wait");
            assert_eq!(written.lines().len(), 2 * round, "{:?}", written.lines());
        }
    }

    #[test]
    fn who_waits_hears_of_the_first_complete_set_and_of_each_failure() {
        let mut report = WatchReport::new(Resource::Services);
        let mut status = report.monitor().status;
        let mut is_news = || {
            let is_news = status.has_changed().expect("a sender");
            status.mark_unchanged();
            is_news
        };
        report.synced(1);
        assert!(is_news());
        report.synced(1);
        assert!(!is_news(), "a later set says nothing new");
        for reason in ["connection refused", "no route to host"] {
            report.failed(Verb::Watch, &Failure::Connection(reason.to_owned()));
            assert!(is_news(), "{reason}");
        }
        report.synced(1);
        assert!(is_news(), "the failure is over");
    }

    #[test]
    fn what_a_complete_set_does_not_have_is_not_counted_any_more() {
        let counters = Arc::new(Counters::default());
        let count = || counters.refused_now.load(Ordering::Relaxed);
        let mut complaints = Complaints::new(Arc::clone(&counters));
        complaints.about(&"a", "no port".to_owned(), "");
        complaints.about(&"b", "no port".to_owned(), "");
        complaints.list_begins();
        complaints.about(&"b", "no port".to_owned(), "");
        assert_eq!(count(), 2, "whether it is gone is not known before the end");
        complaints.list_ends();
        assert_eq!(count(), 1);
        complaints.unserved(&"c", "no affinity".to_owned(), "");
        assert_eq!(count(), 1, "a valid object is not refused");
        complaints.about(&"d", "no port".to_owned(), "");
        complaints.about(&"e", "no port".to_owned(), "");
        complaints.list_begins();
        complaints.about(&"b", "no port".to_owned(), "");
        complaints.list_ends();
        assert_eq!(count(), 1, "however many are gone");
        complaints.about(&"c", "no port".to_owned(), "");
        complaints.about(&"c", "another".to_owned(), "");
        assert_eq!(count(), 2, "once each");
        complaints.unserved(&"c", "no affinity".to_owned(), "");
        complaints.settled(&"b");
        assert_eq!(count(), 0);
    }
}
