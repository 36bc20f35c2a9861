//! What others may ask: health, metrics, the proxy mode.
//!
//! This folder sees what is published here, and nothing of the loop that publishes it: a [`Status`] through one
//! `tokio::sync::watch` channel, and the numbers in [`metrics::Metrics`]. No answer waits for the loop, and none makes
//! the loop wait, except for the answers to [`questions`], which only the loop knows.

mod connections;
pub mod healthz;
pub mod http;
pub mod metrics;
pub mod pages;
pub mod questions;
pub mod service_health;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::types::Family;

/// For this long after both clocks were read, the time of day is reckoned by the monotonic clock, whether or not the
/// wall clock was set meanwhile. It is also the shortest time from one note of progress to the next.
const SOON: Duration = Duration::from_secs(1);

/// A moment on both clocks: one to compare with, which nobody sets back, and one to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// To compare with.
    pub instant: Instant,
    /// To show.
    pub wall: SystemTime,
}

impl Moment {
    /// The same moment as this instant. Shortly after `self` the wall clock is not read again: it would otherwise be
    /// read twice for each change.
    #[must_use]
    pub fn soon_after(self, instant: Instant) -> Self {
        let elapsed = instant.saturating_duration_since(self.instant);
        let wall = if elapsed < SOON { self.wall + elapsed } else { SystemTime::now() };
        Self { instant, wall }
    }

    /// The present moment.
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// How long before `self` the `earlier` moment was; zero if it was not before.
    pub fn since(self, earlier: Self) -> Duration {
        self.instant.saturating_duration_since(earlier.instant)
    }
}

/// How the node does, from which health answers are made. By default nothing is reported, and nothing is known against
/// the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The IP families of the node, once the loop has started; before that, nothing is known about health.
    pub families: BTreeMap<Family, FamilyStatus>,
    /// Whether all that was known of the cluster was handed to the kernel once since the start, whatever the kernel
    /// answered.
    pub synced_once: bool,
    /// When something of that was last written, to a second; `None`: nothing was.
    pub advanced: Option<Instant>,
    /// Why, by the Node object, load balancers should send no new traffic here; `None`: they may.
    pub ineligible: Option<&'static str>,
    /// The sources of facts that cannot be read at the moment, and why. What was read before stays in force, so this
    /// alone makes nothing unhealthy.
    pub sources: BTreeMap<String, String>,
    /// What fails at the moment, for people.
    pub failures: Failures,
    /// What kube-proxy left that could not be removed or replaced at the last attempt, or that came since: for people.
    pub takeover: Failures,
    /// The iptables whose FORWARD drops endpoints' replies to clients elsewhere, since no accept rule could be made for
    /// them.
    pub drops_replies: Vec<String>,
    /// The foundations that cannot be read at the moment, by name; also that the kernel does not answer at all.
    pub unreadable: BTreeMap<&'static str, Unreadable>,
}

/// Something that cannot be read from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Since when.
    pub since: Moment,
    /// What, and why.
    pub text: String,
}

impl Status {
    /// Something was written: notes once a second that the first sync advances, but not in its first second. Returns
    /// whether it was noted.
    pub fn wrote(&mut self, now: Instant) -> bool {
        // After the first sync there are many writes, and none of them is of interest.
        if self.synced_once {
            return false;
        }
        let is_late = |last| now.saturating_duration_since(last) >= SOON;
        let begun = self
            .families
            .values()
            .filter_map(|family| family.unsynced_since)
            .map(|since| since.instant)
            .min();
        let is_news = self.advanced.or(begun).is_none_or(is_late);
        if is_news {
            self.advanced = Some(now);
        }
        is_news
    }

    /// Whether endpoints' replies get to the clients, as far as is known.
    fn lets_replies_through(&self) -> bool {
        self.drops_replies.is_empty()
    }

    /// Whether the kernel was given all that was known of the cluster, of every family, once since the start, except
    /// for single objects that it refuses.
    pub fn was_written(&self) -> bool {
        self.synced_once && self.families.values().all(|family| family.last_synced.is_some())
    }
}

/// How one IP family does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Since when something has been waiting to be written; `None`: nothing is.
    pub unsynced_since: Option<Moment>,
    /// When everything that was to be written was last written.
    pub last_synced: Option<Moment>,
}

impl FamilyStatus {
    /// Something is to be written.
    pub fn queued(&mut self, now: Moment) {
        self.unsynced_since.get_or_insert(now);
    }

    /// Everything that was to be written was written. What came meanwhile is noted afterwards, as queued.
    pub fn synced(&mut self, now: Moment) {
        self.last_synced = Some(now);
        self.unsynced_since = None;
    }
}

/// A few lines about what fails, and how many more there are, so that a status stays small whatever happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    lines: Vec<String>,
    more: usize,
}

impl Failures {
    /// How many lines are kept.
    pub const KEPT: usize = 10;
    /// How many bytes of a line are kept.
    pub const LINE_BYTES: usize = 300;

    /// Keeps the first of `count` lines; the others are not even made.
    pub fn first(lines: impl Iterator<Item = String>, count: usize) -> Self {
        let shortened = |mut line: String| {
            line.truncate(line.floor_char_boundary(Self::LINE_BYTES));
            line
        };
        let lines: Vec<_> = lines.take(Self::KEPT).map(shortened).collect();
        Self { more: count - lines.len(), lines }
    }

    /// The lines to show.
    fn shown(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.lines.iter().cloned().chain(more)
    }
}
