//! What others may ask: health, metrics, the mode.
//!
//! This folder sees what is published here and nothing of the loop that publishes it: a [`Status`] through one
//! `tokio::sync::watch` channel, and the numbers in [`metrics::Metrics`]. No answer waits for the loop, and none
//! makes it wait; but for those to [`questions`], which only it knows.

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

/// For so long after a look at both clocks the time of day is reckoned by the other one: whether it was set meanwhile does not
/// matter. And so long it is at least from one note of progress to the next.
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
    /// The same moment as this instant. What is not long after needs no other look at the clock: it is asked twice for each
    /// change otherwise.
    #[must_use]
    pub fn soon_after(self, instant: Instant) -> Self {
        let elapsed = instant.saturating_duration_since(self.instant);
        let wall = if elapsed < SOON { self.wall + elapsed } else { SystemTime::now() };
        Self { instant, wall }
    }

    /// This moment.
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// How long before `self` the other one was; zero if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        self.instant.saturating_duration_since(earlier.instant)
    }
}

/// How the node does: what health answers are made of. By default nothing is reported, and nothing known against the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The IP families of the node, once the loop has started; before, nothing says anything about health.
    pub families: BTreeMap<Family, FamilyStatus>,
    /// Whether all that was known of the cluster was given to the kernel once since the start, whatever it said.
    pub synced_once: bool,
    /// When something of that was written last, to a second; `None`: nothing was.
    pub advanced: Option<Instant>,
    /// Why load balancers should send no new traffic here, by the Node object; `None`: they may.
    pub ineligible: Option<&'static str>,
    /// The sources of facts that cannot be read at the moment, and why. What was read before stays in force, so that
    /// this alone makes nothing unhealthy.
    pub sources: BTreeMap<String, String>,
    /// What fails at the moment, for people.
    pub failures: Failures,
    /// What of kube-proxy's could not be removed at the last attempt, or made in its place, or came since, for people.
    pub takeover: Failures,
    /// The iptables whose FORWARD drops what endpoints answer to clients elsewhere, since no accept for it could be made.
    pub drops_replies: Vec<String>,
    /// What everything stands on and cannot be read at the moment, by what it is.
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
    /// Something was written: that the first sync advances is noted once a second, and not in its first one. Returns whether it
    /// was.
    pub fn wrote(&mut self, now: Instant) -> bool {
        // Later there are many, and none of them is of interest.
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

    /// Whether what endpoints answer gets to the clients, as far as that is known.
    fn lets_replies_through(&self) -> bool {
        self.drops_replies.is_empty()
    }

    /// Whether the kernel has had all that was known of the cluster, of both families, once since the start, but for single
    /// objects that it refuses.
    pub fn was_written(&self) -> bool {
        self.synced_once && self.families.values().all(|family| family.last_synced.is_some())
    }
}

/// How one IP family does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Since when something waits to be written; `None`: nothing does.
    pub unsynced_since: Option<Moment>,
    /// The last time all that was to be written was written.
    pub last_synced: Option<Moment>,
}

impl FamilyStatus {
    /// Something is to be written.
    pub fn queued(&mut self, now: Moment) {
        self.unsynced_since.get_or_insert(now);
    }

    /// All that was to be written was written. What came meanwhile is told of afterwards, as queued.
    pub fn synced(&mut self, now: Moment) {
        self.last_synced = Some(now);
        self.unsynced_since = None;
    }
}

/// A few lines about what fails, and how many more there are: a status stays small whatever happens.
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

    /// The first of so many lines; the others are not even made.
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
