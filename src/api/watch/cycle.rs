//! The loop of one watch: complete set, changes, and what to do when either ends.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::core::Request;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Client, core::request::Error as RequestError};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;

use super::encoding::{Encoded, NamedMetadata, WatchEvent};
use super::failure::{Failure, Verb};
use super::frames::Frames;
use super::http::{self, Answer};
use super::kinds::Kind;
use super::status::{Complaints, Counters, WatchReport};
use super::strategy::{How, Strategy};
use super::version::Version;
use super::{Error, Settings};
use crate::api::convert::{Converted, Problem, in_words};
use crate::api::objects::{Object, Text};
use crate::api::{Change, Event};

/// A watch that ends sooner than this, without having sent anything, has failed.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// After watches have been silent for this long, a complete set is asked for.
///
/// A server that was restored from a backup says nothing about versions below the one that a watch goes on from, so it
/// may say nothing at all for days; and nothing else compares the positions of the two. The price: servers that send no
/// bookmarks are asked for a list every five quiet minutes.
const LONGEST_SILENCE: Duration = Duration::from_mins(5);

/// After this many failures in a row to go on from a version, which may be their cause, a complete set is asked for.
/// The server may fail at just this version, or at what comes next after it, until it forgets both, which may be never.
const FAILURES_AT_A_VERSION: u32 = 3;

/// A watch that was cut is opened again after a random delay of up to this: a server that shuts down cuts the watches
/// of thousands of nodes.
const SPREAD: Duration = Duration::from_secs(1);

/// The longest `Retry-After` that is obeyed: it is in seconds, and a wrong number must not stop a node for long.
const LONGEST_DEMAND: Duration = Duration::from_mins(2);

/// Why the loop does not simply continue.
enum Stop {
    /// Nobody reads events any more.
    NoReader,
    /// Something failed.
    Failed(Verb, Failure),
}

/// What an object turned out to be.
struct Judged<K: Kind> {
    key: K::Key,
    version: Version,
    /// `None` if the object is not one of ours.
    item: Option<K::Item>,
}

/// Lets other tasks run after a number of events, in case thousands of events are already there.
///
/// An event takes some ten microseconds. The reader of the events gets as many of them together. (tokio's own budget is
/// half of that, at most, and each turn of the runtime reads the clock several times.)
#[derive(Default)]
struct Turn(u32);

impl Turn {
    const EVENTS: u32 = 256;

    /// Counts one more event.
    async fn take(&mut self) {
        self.0 += 1;
        if self.0 == Self::EVENTS {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The state of one watch.
pub(super) struct Cycle<K: Kind> {
    kind: K,
    client: Client,
    settings: Settings,
    events: mpsc::Sender<Event>,
    report: WatchReport,
    complaints: Complaints<K::Key>,
    strategy: Strategy,
    /// The newest known version: that of the last complete set, event or bookmark. Kept whatever fails.
    seen: Option<Version>,
    /// Whether a watch can go on from `seen`; otherwise a complete set is needed first.
    listed: bool,
    /// How many attempts in a row to go on from `seen` have failed.
    failures_at_version: u32,
    /// How long nothing has been received, over all watches since something was.
    silent: Duration,
    /// Whether the server ever granted a request.
    granted: bool,
    turn: Turn,
}

impl<K: Kind> Cycle<K> {
    pub(super) fn new(
        kind: K,
        client: Client,
        settings: Settings,
        report: WatchReport,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let complaints = Complaints::new(Arc::clone(&report.counters));
        Self {
            kind,
            client,
            settings,
            events,
            report,
            complaints,
            strategy: Strategy::new(),
            seen: None,
            listed: false,
            failures_at_version: 0,
            silent: Duration::ZERO,
            granted: false,
            turn: Turn::default(),
        }
    }

    /// Watches until nobody reads the events any more. Ends with an error only if the server denies a request before it
    /// has granted any: someone has to set up permissions then. Later denials are waited out like everything else,
    /// since a running proxy must not stop.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        tracing::info!("Starting {} controller", K::RESOURCE.controller());
        tracing::info!(controller = K::RESOURCE.controller(), "Waiting for caches to sync");
        // 0.8 s, doubled up to 30 s, plus a random part of up to the same; starts over after a watch that did not fail.
        let mut backoff = DefaultBackoff::default();
        loop {
            match self.once().await {
                Ok(()) => {
                    self.failures_at_version = 0;
                    backoff.reset();
                }
                Err(Stop::NoReader) => return Ok(()),
                Err(Stop::Failed(verb, failure)) => {
                    if failure.is_denial() && !self.granted {
                        let (resource, reason) = (K::RESOURCE, failure.to_string());
                        return Err(Error::Denied { verb: verb.to_string(), resource, reason });
                    }
                    self.report.failed(verb, &failure);
                    if failure.is_gone() || matches!(failure, Failure::Older { .. }) {
                        self.listed = false;
                    }
                    if self.listed && failure.may_be_of_the_version() {
                        self.failures_at_version += 1;
                        self.listed = self.failures_at_version < FAILURES_AT_A_VERSION;
                    }
                    let pause = backoff.next().unwrap_or(Duration::from_secs(30));
                    let demanded = failure.retry_after().unwrap_or_default().min(LONGEST_DEMAND);
                    tokio::time::sleep(pause.max(demanded)).await;
                }
            }
            self.report.restarted();
        }
    }

    /// Gets a complete set if one is needed, then follows changes until the stream ends.
    async fn once(&mut self) -> Result<(), Stop> {
        let listed = if self.listed { None } else { self.list().await? };
        let frames = match listed {
            Some(frames) => frames,
            None => self.resume().await?,
        };
        self.follow(frames).await
    }

    /// Gets a complete set and hands it on. A streaming list continues as a watch, whose frames are returned.
    async fn list(&mut self) -> Result<Option<Frames>, Stop> {
        loop {
            self.complaints.list_begins();
            let how = self.strategy.how();
            let not_older_than = self.strategy.not_older_than(self.seen.as_ref()).cloned();
            let result = match how {
                How::Stream => self.list_stream(not_older_than).await.map(Some),
                How::Pages => {
                    self.list_pages(Some(self.settings.page_size), not_older_than).await.map(|()| None)
                }
                How::OnePage => self.list_pages(None, not_older_than).await.map(|()| None),
            };
            match result {
                Err(Stop::Failed(_, failure)) if self.asks_for_less(&failure) => {}
                Err(Stop::Failed(_, failure)) if self.strategy.failed(how, &failure) => {
                    tracing::info!(
                        resource = %K::RESOURCE, reason = %failure,
                        "The API server has no streaming lists, using list and watch"
                    );
                }
                result => return result,
            }
        }
    }

    async fn list_stream(&mut self, not_older_than: Option<Version>) -> Result<Frames, Stop> {
        let failed = |failure| Stop::Failed(Verb::Watch, failure);
        let parameters = WatchParams { send_initial_events: true, ..self.watch_parameters() };
        let version = not_older_than.as_ref().map_or("", Version::as_str);
        let request = Request::new(K::RESOURCE.path()).watch(&parameters, version);
        let mut frames = Frames::of(self.open(Verb::Watch, request).await?);
        let mut set = BTreeMap::new();
        loop {
            let event = frames.next(self.settings.progress_timeout).await.map_err(failed)?;
            let Some(event) = event else {
                return Err(failed(Failure::Incomplete));
            };
            match event {
                WatchEvent::Put(object) => {
                    let Judged { key, item, .. } = self.judge(object).map_err(failed)?;
                    match item {
                        Some(item) => set.insert(key, item),
                        None => set.remove(&key),
                    };
                }
                WatchEvent::Delete(metadata) => {
                    Counters::count(&self.report.counters.events_received);
                    let key = key_of::<K>(&metadata);
                    self.complaints.settled(&key);
                    set.remove(&key);
                }
                WatchEvent::Bookmark { version: Some(version), ends_list: true } => {
                    self.strategy.accept(&version, self.seen.as_ref()).map_err(failed)?;
                    self.replace(set, version).await?;
                    return Ok(frames);
                }
                WatchEvent::Bookmark { version: None, ends_list: true } => {
                    return Err(failed(without_version()));
                }
                WatchEvent::Bookmark { ends_list: false, .. } => {}
            }
            self.turn.take().await;
        }
    }

    async fn list_pages(&mut self, limit: Option<u32>, not_older_than: Option<Version>) -> Result<(), Stop> {
        let failed = |failure| Stop::Failed(Verb::List, failure);
        let mut parameters = ListParams {
            label_selector: self.kind.labels().map(str::to_owned),
            field_selector: self.kind.fields().map(str::to_owned),
            limit,
            version_match: not_older_than.is_some().then_some(VersionMatch::NotOlderThan),
            resource_version: not_older_than.map(|version| version.as_str().to_owned()),
            ..ListParams::default()
        };
        let mut set = BTreeMap::new();
        loop {
            let request = Request::new(K::RESOURCE.path()).list(&parameters);
            let Answer { encoding, body } = self.open(Verb::List, request).await?;
            let bytes = http::read_all(body, self.settings.progress_timeout).await.map_err(failed)?;
            let page = encoding.page(&bytes).map_err(failed)?;
            let version = page.version.ok_or_else(|| failed(without_version()))?;
            self.strategy.accept(&version, self.seen.as_ref()).map_err(failed)?;
            for object in page.items {
                let Judged { key, item, .. } = self.judge(object).map_err(failed)?;
                if let Some(item) = item {
                    set.insert(key, item);
                }
                self.turn.take().await;
            }
            match page.continues.filter(|ticket| !ticket.is_empty()) {
                Some(ticket) => parameters.continue_token = Some(ticket),
                None => return self.replace(set, version).await,
            }
        }
    }

    /// Hands on a complete set.
    async fn replace(&mut self, set: BTreeMap<K::Key, K::Item>, version: Version) -> Result<(), Stop> {
        if let Some(seen) = self.seen.as_ref().filter(|seen| version.is_older_than(seen)) {
            tracing::warn!(
                resource = %K::RESOURCE, offered = %version, %seen,
                "The API server returned an older state than before; assuming it was restored from a backup"
            );
        }
        let objects = set.len();
        self.send(Change::Replace(set.into_values().collect())).await?;
        self.complaints.list_ends();
        self.strategy.succeeded();
        self.listed = true;
        self.failures_at_version = 0;
        self.silent = Duration::ZERO;
        self.seen = Some(version);
        self.report.synced(objects);
        Ok(())
    }

    /// Opens a watch that goes on where the last one ended.
    async fn resume(&mut self) -> Result<Frames, Stop> {
        loop {
            let version = self.seen.as_ref().map_or("", Version::as_str);
            let request = Request::new(K::RESOURCE.path()).watch(&self.watch_parameters(), version);
            match self.open(Verb::Watch, request).await {
                Err(Stop::Failed(_, failure)) if self.asks_for_less(&failure) => {}
                answer => {
                    let frames = Frames::of(answer?);
                    self.report.accepted();
                    return Ok(frames);
                }
            }
        }
    }

    /// Whether a request failed because of its field selector, and the next one will do without it.
    fn asks_for_less(&mut self, failure: &Failure) -> bool {
        let less = failure.bad_request().is_some_and(|refusal| self.kind.give_up_fields(refusal));
        if less {
            tracing::info!(
                resource = %K::RESOURCE, reason = %failure,
                "The API server does not know the field selector, asking without it"
            );
        }
        less
    }

    /// Hands on changes until the stream ends: `Ok` if the end is nothing unusual.
    async fn follow(&mut self, frames: Frames) -> Result<(), Stop> {
        let opened = Instant::now();
        let mut sent_something = false;
        let ended = self.follow_since(opened, frames, &mut sent_something).await;
        // Added up however watches end: a balancer that cuts silent connections keeps any single watch from being
        // silent for long.
        self.silent = if sent_something { Duration::ZERO } else { self.silent + opened.elapsed() };
        if sent_something {
            self.failures_at_version = 0;
        }
        self.listed &= self.silent < LONGEST_SILENCE;
        ended
    }

    async fn follow_since(
        &mut self,
        opened: Instant,
        mut frames: Frames,
        sent_something: &mut bool,
    ) -> Result<(), Stop> {
        let failed = |failure| Stop::Failed(Verb::Watch, failure);
        loop {
            let event = match frames.next(self.settings.idle_timeout).await {
                Ok(Some(event)) => event,
                Ok(None) if *sent_something || opened.elapsed() >= SHORT_WATCH => return Ok(()),
                Ok(None) => return Err(failed(Failure::ShortWatch)),
                Err(Failure::Silence(limit)) => {
                    // The connection is dead, or the server sends no bookmarks: opening the watch again costs little.
                    tracing::debug!(resource = %K::RESOURCE, ?limit, "A silent watch is opened again");
                    return Ok(());
                }
                // Treated like an end: balancers cut what is idle for longer than they like, and servers that are
                // replaced do not say goodbye. The next request will show whether the server is well.
                Err(Failure::Broken(reason)) if *sent_something || opened.elapsed() >= SHORT_WATCH => {
                    tracing::debug!(resource = %K::RESOURCE, reason, "A watch that was cut is opened again");
                    tokio::time::sleep(SPREAD.mul_f64(f64::from(random()) / f64::from(u32::MAX))).await;
                    return Ok(());
                }
                Err(failure) => return Err(failed(failure)),
            };
            let (version, change) = match event {
                WatchEvent::Put(object) => {
                    let Judged { key, version, item } = self.judge(object).map_err(failed)?;
                    (Some(version), Some(item.map_or(Change::Delete(key), Change::Upsert)))
                }
                WatchEvent::Delete(metadata) => {
                    Counters::count(&self.report.counters.events_received);
                    let key = key_of::<K>(&metadata);
                    self.complaints.settled(&key);
                    (Version::new(&metadata.resource_version), Some(Change::Delete(key)))
                }
                WatchEvent::Bookmark { version, .. } => (version, None),
            };
            if let (Some(offered), Some(seen)) = (&version, &self.seen)
                && offered.is_older_than(seen)
            {
                // In one watch, versions only grow. Whatever this event is, it must not undo what is newer.
                return Err(failed(Failure::Older { offered: offered.clone(), seen: seen.clone() }));
            }
            *sent_something = true;
            self.report.alive();
            if let Some(change) = change {
                self.send(change).await?;
            }
            self.seen = version.or(self.seen.take());
            self.turn.take().await;
        }
    }

    /// Decodes and converts an object, and drops it. Only an object without a readable name and version is a failure.
    ///
    /// An invalid object counts as nonexistent, even if it was valid before. The alternative, to keep its last valid
    /// version, would make this node's behaviour depend on its past: after a restart, or on a node that joined later,
    /// the object would be gone anyway; and addresses that it no longer names may be someone else's by then. (For files
    /// that people edit, the alternative is right, and is used there.)
    fn judge<'a>(&mut self, object: Encoded<'a>) -> Result<Judged<K>, Failure> {
        const SKIPPED: &str = "Skipping an invalid object";
        const PARTLY: &str = "Skipping an invalid part of an object";
        const UNSERVED: &str = "Serving an object without a part of it";
        Counters::count(&self.report.counters.events_received);
        let counters = &self.report.counters;
        let (metadata, converted) = match object.decode::<K::Object<'_>>() {
            Ok(object) => {
                let metadata = object.metadata();
                let text = |text: &Option<Text<'a>>| text.clone().unwrap_or_default();
                let metadata = NamedMetadata::new(
                    text(&metadata.namespace),
                    text(&metadata.name),
                    text(&metadata.resource_version),
                );
                (metadata, Ok(self.kind.convert(&object)))
            }
            Err(error) => (object.metadata()?, Err(error)),
        };
        let Some(version) = Version::new(&metadata.resource_version).filter(|_| !metadata.name.is_empty())
        else {
            return Err(Failure::Malformed("an object without name and resource version".into()));
        };
        let key = key_of::<K>(&metadata);
        let item = match converted {
            Ok(Converted::Kept { object, problems }) => {
                match in_words(&problems) {
                    None => self.complaints.settled(&key),
                    Some(text) if problems.iter().any(Problem::is_invalid) => {
                        Counters::count(&counters.objects_refused);
                        self.complaints.about(&key, text, PARTLY);
                    }
                    Some(text) => self.complaints.unserved(&key, text, UNSERVED),
                }
                Some(object)
            }
            Ok(Converted::Ignored) => {
                Counters::count(&counters.objects_ignored);
                self.complaints.settled(&key);
                None
            }
            Ok(Converted::Refused(problem)) => {
                Counters::count(&counters.objects_refused);
                self.complaints.about(&key, problem.to_string(), SKIPPED);
                None
            }
            Err(error) => {
                Counters::count(&counters.objects_refused);
                let (namespace, name) = (&*metadata.namespace, &*metadata.name);
                let slash = if namespace.is_empty() { "" } else { "/" };
                let problem = format!("{} {namespace}{slash}{name}: {error}", K::RESOURCE);
                self.complaints.about(&key, problem, SKIPPED);
                None
            }
        };
        Ok(Judged { key, version, item })
    }

    /// Sends a request. All its parameters are ours, so building it cannot fail.
    async fn open(
        &mut self,
        verb: Verb,
        request: Result<::http::Request<Vec<u8>>, RequestError>,
    ) -> Result<Answer, Stop> {
        let request = request.expect("fixed path and encoded parameters make a request");
        let answer =
            http::open(&self.client, request, self.settings.encoding, self.settings.progress_timeout)
                .await
                .map_err(|failure| Stop::Failed(verb, failure))?;
        self.granted = true;
        Ok(answer)
    }

    fn watch_parameters(&self) -> WatchParams {
        let (least, most) = (self.settings.watch_seconds.start(), self.settings.watch_seconds.end());
        WatchParams {
            label_selector: self.kind.labels().map(str::to_owned),
            field_selector: self.kind.fields().map(str::to_owned),
            timeout: Some(least + random() % (most - least + 1)),
            bookmarks: true,
            send_initial_events: false,
        }
    }

    async fn send(&self, change: Change<K::Key, K::Item>) -> Result<(), Stop> {
        match self.events.try_send(K::event(change)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(event)) => self.events.send(event).await.map_err(|_| Stop::NoReader),
            Err(TrySendError::Closed(_)) => Err(Stop::NoReader),
        }
    }
}

fn without_version() -> Failure {
    Failure::Malformed("a list without a resource version".into())
}

fn key_of<K: Kind>(metadata: &NamedMetadata<'_>) -> K::Key {
    K::key(&metadata.namespace, &metadata.name)
}

/// A random number, to spread the watches of many nodes. The standard library's hasher has random keys: random enough.
fn random() -> u32 {
    u32::try_from(RandomState::new().hash_one(()) >> 32).expect("32 bits are left")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn others_get_their_turn_after_so_many_events() {
        let mut turn = Turn::default();
        let mut goes_on =
            || pin!(turn.take()).as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        for _ in 0..2 {
            assert!((1..Turn::EVENTS).all(|_| goes_on()));
            assert!(!goes_on());
        }
    }
}
