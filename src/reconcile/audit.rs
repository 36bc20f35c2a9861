//! The rotating audit: the kernel's state is read back in slices, one per tick, so that drift is found without ever
//! reading everything at once. Pure: the time is an argument.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::cluster::types::Family;
use crate::kernel::{Selection, Witnesses};
use crate::state::{Key, Scope, State, VirtualServerKey};

/// Virtual servers that are read back in one tick at most, and the real servers of all of them: the kernel lists those one by
/// one, and a change that comes meanwhile waits.
const SLICE: usize = 128;
const REAL_SERVERS: usize = 1024;

/// The audit takes at most one part in so many of a processor: `LONG_REST` in a large cluster, where there is always
/// something to read; `SHORT_REST` in others, where a round is a few looks and should find soon what is wrong.
const LONG_REST: u32 = 2500;
const SHORT_REST: u32 = 500;
/// A cluster with more virtual servers is large.
const LARGE: usize = 8 * SLICE;
/// No look waits for longer than this, in periods, whatever the last one cost: the kernel may spin for a lock that somebody
/// else holds.
const LONGEST_REST: u32 = 300;

/// After so many periods it is asked whether what everything stands on is there: a round through everything takes minutes
/// in a large cluster, and a node whose device or tables are gone serves nobody meanwhile.
const FOUNDATIONS: u32 = 10;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Read this back.
    Read(Selection),
    /// List the virtual servers.
    List,
    /// Ask whether what everything stands on is there, and these for all that are like them.
    Foundations(Witnesses),
}

/// Where the rotation stands.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    period: Duration,
    families: BTreeSet<Family>,
    due: Option<Instant>,
    /// When to ask for what everything stands on.
    foundations_due: Option<Instant>,
    /// What was asked for, beside the rotation: it goes on as if these had not been.
    asked: VecDeque<Look>,
    /// Whether the last look was one of those.
    was_asked: bool,
    /// What is still to come in this round before the virtual servers.
    round: VecDeque<Look>,
    /// Whether a round has ended that read everything, and that nobody was told of.
    round_ended: bool,
    /// Whether something could not be read since the last round ended.
    was_unreadable: bool,
    /// The last virtual server that was read in this round; `None` before the first.
    last: Option<VirtualServerKey>,
    /// Virtual servers that surprised the last list: read first.
    surprising: Vec<VirtualServerKey>,
    /// How many times as long as a look cost the next one waits.
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

    /// Begins, one period from now.
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
            // Nobody knows yet how many real servers they have.
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

    /// The last look found nothing out: what it was for is looked at again in the next round, and this one does not count.
    pub(super) fn unreadable(&mut self) {
        self.was_unreadable = true;
    }

    /// Whether everything was read back once more since this was asked last. (The first round, after all was read at the
    /// start, is of the virtual servers only.)
    pub(super) fn take_round_ended(&mut self) -> bool {
        std::mem::take(&mut self.round_ended)
    }

    /// The last look cost so much of the processor: the next one waits in proportion. Not for how long it took: on a busy node
    /// that is mostly the time of others, and what is damaged there would stay so for minutes. Not if it was asked for,
    /// either; and what it found is read soon.
    pub(super) fn cost(&mut self, cost: Duration, now: Instant) {
        if !self.surprising.is_empty() {
            self.due = self.due.map(|due| due.min(now + self.period));
        } else if !self.was_asked {
            let rest = cost.saturating_mul(self.rest).min(self.period * LONGEST_REST);
            self.due = self.due.max(Some(now + rest));
        }
    }

    /// Has what everything stands on looked for now: a part of it is missing.
    pub(super) fn ask_for_foundations(&mut self, now: Instant) {
        self.foundations_due = Some(now);
    }

    /// Has these looked at now, once.
    pub(super) fn look(&mut self, looks: Vec<Look>) {
        self.asked.extend(looks);
    }

    /// Has these virtual servers read in the next ticks.
    pub(super) fn look_at(&mut self, servers: Vec<VirtualServerKey>) {
        self.surprising = servers;
    }

    /// Of what the picture has, the first of each kind; an address that takes packets in.
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
