//! The rotating audit: the kernel's state is read back in slices, one per tick, so that drift is found without ever
//! reading everything at once. Pure: the time is an argument.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::cluster::types::Family;
use crate::kernel::{Selection, Witnesses};
use crate::state::{Key, Scope, State, VirtualServerKey};

/// At most this many virtual servers, with at most this many real servers in all, are read back in one tick: the kernel
/// lists real servers one by one, and a change that comes meanwhile waits.
const SLICE: usize = 128;
const REAL_SERVERS: usize = 1024;

/// The audit takes at most one part in so many of a processor: `LONG_REST` in a large cluster, where there is always
/// something to read; `SHORT_REST` in others, where a round is a few looks and should soon find what is wrong.
const LONG_REST: u32 = 2500;
const SHORT_REST: u32 = 500;
/// A cluster with more virtual servers than this is large.
const LARGE: usize = 8 * SLICE;
/// The longest wait for the next look, in periods, whatever the last look cost: the kernel may spin for a lock that
/// somebody else holds.
const LONGEST_REST: u32 = 300;

/// After this many periods the kernel is asked whether the foundations are there: a round through everything takes
/// minutes in a large cluster, and a node whose device or tables are gone serves nobody meanwhile.
const FOUNDATIONS: u32 = 10;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Read this back.
    Read(Selection),
    /// List the virtual servers.
    List,
    /// Ask whether the foundations are there, and these witnesses, which stand for all of their kind.
    Foundations(Witnesses),
}

/// Where the rotation stands.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    period: Duration,
    families: BTreeSet<Family>,
    due: Option<Instant>,
    /// When to look for the foundations.
    foundations_due: Option<Instant>,
    /// Looks that were asked for beside the rotation, which goes on as if they had not been made.
    asked: VecDeque<Look>,
    /// Whether the last look was one of `asked`.
    was_asked: bool,
    /// What is still to come in this round before the virtual servers.
    round: VecDeque<Look>,
    /// Whether a round that read everything has ended and was not reported yet.
    round_ended: bool,
    /// Whether something could not be read since the last round ended.
    was_unreadable: bool,
    /// The last virtual server that was read in this round; `None` before the first.
    last: Option<VirtualServerKey>,
    /// Virtual servers that the last list showed and that were not known: read first.
    surprising: Vec<VirtualServerKey>,
    /// How long the next look waits, as a multiple of what the last one cost.
    rest: u32,
}

impl Audit {
    pub(super) fn new(period: Duration, families: BTreeSet<Family>) -> Self {
        Self {
            period,
            families,
            due: None,
            foundations_due: None,
            asked: VecDeque::new(),
            was_asked: false,
            round: VecDeque::new(),
            round_ended: false,
            was_unreadable: false,
            last: None,
            surprising: Vec::new(),
            rest: SHORT_REST,
        }
    }

    /// Starts the rotation, one period from now.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = Some(now + self.period);
        self.foundations_due = Some(now + self.period * FOUNDATIONS);
    }

    /// When [`Audit::due`] will have something, if it has nothing now.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.foundations_due).min()
    }

    /// What to look at now, if it is time.
    pub(super) fn due(&mut self, now: Instant, actual: &State) -> Option<Look> {
        if self.foundations_due.is_some_and(|due| due <= now) {
            self.foundations_due = Some(now + self.period * FOUNDATIONS);
            return Some(Look::Foundations(self.witnesses(actual)));
        }
        if let Some(look) = self.asked.pop_front() {
            self.was_asked = true;
            return Some(look);
        }
        self.due.filter(|due| *due <= now)?;
        self.was_asked = false;
        self.due = Some(now + self.period);
        self.rest = if actual.virtual_servers.len() > LARGE { LONG_REST } else { SHORT_REST };
        if !self.surprising.is_empty() {
            // How many real servers they have is not known yet.
            let rest = self.surprising.split_off(self.surprising.len().min(SLICE));
            let slice = std::mem::replace(&mut self.surprising, rest);
            return Some(read(slice));
        }
        if let Some(look) = self.round.pop_front() {
            return Some(look);
        }
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = actual.virtual_servers.range((after, Bound::Unbounded)).map(|(key, _)| *key).take(SLICE);
        let slice = actual.up_to(REAL_SERVERS, next);
        self.last = slice.last().copied();
        if slice.is_empty() {
            self.begin_round();
            self.round_ended = !std::mem::take(&mut self.was_unreadable);
            return self.round.pop_front();
        }
        Some(read(slice))
    }

    /// The last look could not read its part: the next round reads it, and this round does not count.
    pub(super) fn unreadable(&mut self) {
        self.was_unreadable = true;
    }

    /// Whether everything was read back once more since the last call. (The first round reads only the virtual servers:
    /// everything was read at the start.)
    pub(super) fn take_round_ended(&mut self) -> bool {
        std::mem::take(&mut self.round_ended)
    }

    /// Takes in how much processor time the last look cost: the next one waits in proportion.
    ///
    /// Elapsed time would be the wrong measure: on a busy node most of it belongs to others, and damage would last for
    /// minutes there. A look that was asked for causes no wait. What a look found is read soon.
    pub(super) fn cost(&mut self, cost: Duration, now: Instant) {
        if !self.surprising.is_empty() {
            self.due = self.due.map(|due| due.min(now + self.period));
        } else if !self.was_asked {
            let rest = cost.saturating_mul(self.rest).min(self.period * LONGEST_REST);
            self.due = self.due.max(Some(now + rest));
        }
    }

    /// Has the foundations looked for now: a part of them is missing.
    pub(super) fn ask_for_foundations(&mut self, now: Instant) {
        self.foundations_due = Some(now);
    }

    /// Has these looks made now, once.
    pub(super) fn look(&mut self, looks: Vec<Look>) {
        self.asked.extend(looks);
    }

    /// Has these virtual servers read in the next ticks.
    pub(super) fn look_at(&mut self, servers: Vec<VirtualServerKey>) {
        self.surprising = servers;
    }

    /// The witnesses from the picture: the first virtual server, and for each family the first address that takes
    /// packets in.
    fn witnesses(&self, actual: &State) -> Witnesses {
        let first_of = |family: &Family| {
            let mut addresses = actual.addresses.range(family.unspecified_address()..);
            let (address, _) = addresses.find(|(_, address)| address.routed)?;
            (Family::of(*address) == *family).then_some(*address)
        };
        Witnesses {
            virtual_server: actual.virtual_servers.keys().next().copied(),
            addresses: self.families.iter().filter_map(first_of).collect(),
        }
    }

    fn begin_round(&mut self) {
        self.round.push_back(Look::Read(Selection::Settings));
        for &family in &self.families {
            self.round.push_back(Look::Read(Selection::Tables(family)));
            self.round.push_back(Look::Read(Selection::Addresses(family)));
        }
        self.round.push_back(Look::List);
    }
}

fn read(servers: Vec<VirtualServerKey>) -> Look {
    Look::Read(Selection::Keys(servers.into_iter().map(Key::VirtualServer).collect::<Scope>()))
}
