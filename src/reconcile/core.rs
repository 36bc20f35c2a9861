//! The loop's decisions, without its waiting: which piece of work is next, and what an answer means.
//!
//! [`Reconciler`] owns the facts, the wanted state that follows from them, and the picture of the kernel. It takes in
//! events and answers, and hands out [`Work`]. One piece of work is in flight at a time; events that come meanwhile
//! only mark what to look at. Pure: the time is an argument, so that whole lives of a reconciler can be replayed
//! against a kernel in memory.

mod adoption;
mod audited;
mod explain;
mod looking;
mod outcomes;
mod plan;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::audit::{Audit, Look};
use super::drain::{Drains, Ended};
use super::foreign::Foreign;
use super::note::{Note, Owner, Reading};
use super::picture::Picture;
use super::progress::{Changes, Progress};
use super::purge::Purges;
use super::refusals;
use super::rest::Rest;
use super::schedule::{Failure, Schedule, Urgency};
use crate::api::{Change, Event};
use crate::cluster::Cluster;
use crate::cluster::types::{Family, ServiceKey};
use crate::desired::claims::Conflict;
use crate::desired::settings::Supported;
use crate::desired::{Desired, Shared};
use crate::options::ProxyOptions;
use crate::state::{Key, State};
use adoption::Phase;
use audited::SeenFoundations;
pub use work::{Answer, Work};
use work::{InFlight, Task};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Do this, then call [`Reconciler::complete`]; for [`Work::FindStale`] at any later time.
    Work(Work),
    /// Do nothing until an event comes, or until this moment.
    Wait(Option<Instant>),
}

/// The loop's state and decisions.
pub struct Reconciler {
    cluster: Cluster,
    desired: Desired,
    actual: Picture,
    phase: Phase,
    /// Services whose facts changed since the last look, as they came; some may come several times. They are sorted
    /// together when they are looked at, which costs less than one by one.
    touched: Vec<ServiceKey>,
    /// What was looked at, but is too much to write at once.
    rest: Rest,
    /// Whether facts about this node changed since the last look.
    node_touched: bool,
    /// Since when the oldest change that was looked at has been waiting to be handed to the kernel.
    waiting: Option<Instant>,
    /// Decides with which real server the turns of each virtual server begin: a different one on other nodes.
    seed: u64,
    schedule: Schedule,
    drains: Drains,
    purges: Purges,
    audit: Audit,
    /// Which device and tables existed when the kernel was last asked, unless we have made others since.
    foundations: SeenFoundations,
    /// Virtual servers that belong to others.
    foreign: Foreign,
    /// Unwanted addresses that an audit found on the device: virtual servers at them are ours to remove, although the
    /// address is gone when the next list is made.
    intruders: BTreeSet<IpAddr>,
    exclude_cidrs: Vec<IpNet>,
    families: BTreeSet<Family>,
    min_sync_period: Duration,
    last_plan_ended: Option<Instant>,
    in_flight: Option<InFlight>,
    progress: Progress,
    notes: Vec<Note>,
}

impl Reconciler {
    /// A reconciler that knows nothing yet. `audit_period`: how often a slice of the kernel's state is read back.
    pub fn new(
        options: ProxyOptions,
        node_name: Arc<str>,
        supported: Supported,
        min_sync_period: Duration,
        audit_period: Duration,
    ) -> Self {
        let families = supported.families.clone();
        let exclude_cidrs = options.exclude_cidrs.clone();
        let drains = Drains::new(options.drain_deadline);
        let mut hasher = DefaultHasher::new();
        node_name.hash(&mut hasher);
        Self {
            cluster: if options.watch_all_nodes { Cluster::with_other_nodes() } else { Cluster::default() },
            desired: Desired::new(options, node_name, supported),
            actual: Picture::default(),
            phase: Phase::Reading(None),
            touched: Vec::new(),
            rest: Rest::default(),
            node_touched: false,
            waiting: None,
            seed: hasher.finish(),
            schedule: Schedule::default(),
            purges: Purges::default(),
            drains,
            audit: Audit::new(audit_period, families.clone()),
            foundations: SeenFoundations::default(),
            foreign: Foreign::default(),
            intruders: BTreeSet::new(),
            exclude_cidrs,
            families,
            min_sync_period,
            last_plan_ended: None,
            in_flight: None,
            progress: Progress::default(),
            notes: Vec::new(),
        }
    }

    /// Sets the size of the first piece, in keys.
    ///
    /// Changes that come together are handed to the kernel in pieces, each with the keys of at least one Service. Later
    /// pieces have as many keys as fit into a few milliseconds. By default most changes fit into the first piece.
    pub fn set_piece(&mut self, keys: usize) {
        self.rest.set_piece(keys);
    }

    /// Takes in an event. It only marks what to look at again.
    pub fn observe(&mut self, event: Event) {
        let triggered = match &event {
            Event::Slice(Change::Upsert(slice)) if self.families.contains(&slice.family) => {
                slice.triggered_nanoseconds.map(|triggered| (slice.family, triggered))
            }
            _ => None,
        };
        let about = match &event {
            Event::Service(_) => Progress::services_changed,
            Event::Slice(_) => Progress::slices_changed,
            // Node objects change all the time, but rarely in anything that is used here.
            Event::Node(Change::Upsert(node)) if self.cluster.node() == Some(node) => return,
            Event::OtherNode(Change::Upsert(node))
                if self.cluster.other_node(&node.name) == Some(&node.addresses) =>
            {
                return;
            }
            Event::Node(_) | Event::NodeAddresses(_) | Event::OtherNode(_) => {
                self.notes.push(Note::NodeChanged);
                self.node_touched = true;
                self.cluster.apply(event);
                return;
            }
        };
        let touched = self.cluster.apply(event);
        about(&mut self.progress, touched.len() as u64);
        // Before adoption nothing is looked at; afterwards everything will be.
        if self.phase.is_adopted() {
            if !touched.is_empty() {
                if let Some((family, triggered)) = triggered {
                    self.progress.triggered(family, triggered);
                }
                self.queued();
            }
            self.touched.extend(touched);
        }
    }

    /// What is known of the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is wanted.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The picture of the kernel.
    pub fn actual(&self) -> &State {
        &self.actual
    }

    /// The keys that are not as wanted because the kernel refused something, and why.
    pub fn failures(&self) -> &BTreeMap<Key, Failure> {
        self.schedule.failures()
    }

    /// Whether everything of a family, and of what the families share, is as wanted, except for single objects that the
    /// kernel refuses.
    pub fn is_settled(&self, family: Family) -> bool {
        self.touched.is_empty() && self.rest.is_empty() && self.schedule.is_settled(family)
    }

    /// How many real servers the virtual servers in the picture have.
    pub fn real_servers(&self) -> usize {
        self.actual.real_servers()
    }

    /// How many real servers drain.
    pub fn draining(&self) -> usize {
        self.drains.len()
    }

    /// How many have drained since the start.
    pub fn drained(&self) -> Ended {
        self.drains.ended()
    }

    /// How many changes there were.
    pub fn changes(&self) -> Changes {
        self.progress.changes()
    }

    /// What happened since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.progress.told();
        self.notes.extend(self.foreign.take_news().map(Note::Foreign));
        std::mem::take(&mut self.notes)
    }

    /// What to do next. After [`Next::Work`] the answer must be given to [`Reconciler::complete`] first, except for
    /// [`Work::FindStale`].
    pub fn next(&mut self, now: Instant) -> Next {
        assert!(self.in_flight.is_none(), "one piece of work at a time");
        if !self.phase.is_adopted() {
            return self.next_adoption(now);
        }
        self.look_at_touched(now);
        if let Some(suspects) = self.schedule.suspects(now) {
            return self.start(Task::Reread(suspects.clone()), now);
        }
        if let Some(next) = self.purge(false, now) {
            return next;
        }
        let hold = self.held_back(now);
        if hold.is_none() {
            self.take_of_rest(now);
        }
        while hold.is_none() && self.schedule.has_work(now) {
            let is_change = self.schedule.most_urgent() == Some(Urgency::Change);
            let waiting = self.waiting.filter(|_| is_change);
            // As long as a rest is left, the oldest change still waits.
            if is_change && self.rest.is_empty() {
                self.waiting = None;
            }
            let scope = self.schedule.take(now);
            if let Some(next) = self.plan(scope, now) {
                let waited = waiting.map(|since| now.saturating_duration_since(since));
                self.notes.extend(waited.map(|waited| Note::HandedOver { waited }));
                return next;
            }
        }
        if let Phase::First(first) = &mut self.phase {
            let first = std::mem::take(first);
            self.phase = Phase::Filling;
            self.adopt_rest(&first, now);
            return self.next(now);
        }
        if !self.rest.is_empty() {
            // That piece needed no writes. The next one comes after the events that arrived meanwhile.
            return Next::Wait(Some(now));
        }
        if hold.is_none() {
            // Changes that need no writes do not wait.
            self.waiting = None;
            self.settle(now);
        }
        if let Some(next) = self.purge(true, now) {
            return next;
        }
        if let Some(servers) = self.drains.due(now, &self.actual) {
            return self.start(Task::Count(servers), now);
        }
        let look = self.audit.due(now, &self.actual);
        if self.audit.take_round_ended() {
            self.notes.push(Note::AuditRound);
        }
        if let Some(look) = look {
            let task = match look {
                Look::Read(selection) => Task::Audit(selection),
                Look::List => Task::List,
                Look::Foundations(witnesses) => Task::Foundations(witnesses),
            };
            return self.start(task, now);
        }
        let due = [
            hold,
            self.schedule.next_due(hold),
            self.purges.next_due(),
            self.drains.next_due(),
            self.audit.next_due(),
        ];
        Next::Wait(due.into_iter().flatten().min())
    }

    /// Says how much processor time the piece of work in flight has cost.
    ///
    /// That is less than the work took, where it waited for the kernel or the processor. To be called before
    /// [`Reconciler::complete`]; otherwise the cost is the time that the work took.
    pub fn spent(&mut self, processor: Duration) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.spent = Some(processor);
        }
    }

    /// Takes in what became of the piece of work in flight, or of the search for stale entries.
    ///
    /// # Panics
    /// If the answer is not of the form that belongs to the work.
    pub fn complete(&mut self, answer: Answer, now: Instant) {
        let answer = match answer {
            Answer::Found(found) => return self.purges.found(found),
            answer => answer,
        };
        let InFlight { task, since, spent } =
            self.in_flight.take().expect("an answer follows a piece of work");
        let took = now.saturating_duration_since(since);
        let is_part_of_audit = matches!(task, Task::Audit(_) | Task::List);
        match (task, answer) {
            (Task::Adopt, Answer::State(read)) => self.adopt(read, now),
            (Task::Reread(scope), Answer::State(Ok(state))) => {
                for key in &scope {
                    self.take_in(key, &state);
                }
                self.schedule.certain(scope);
                if !self.schedule.has_unreadable() {
                    self.notes.push(Note::Read(Reading::Reread));
                }
            }
            (Task::Reread(scope), Answer::State(Err(error))) => {
                self.schedule.still_uncertain(&scope, now);
                self.notes.push(Note::Unreadable(Reading::Reread, error));
            }
            (Task::Audit(selection), Answer::State(Ok(state))) => self.compare(&selection, &state),
            (Task::List, Answer::Keys(Ok(keys))) => self.listed(&keys),
            (Task::Foundations(witnesses), Answer::Foundations(found)) => {
                self.look_for(&witnesses, found);
            }
            (Task::Count(servers), Answer::Counts(Ok(counts))) => {
                for server in self.drains.counted(&servers, &counts, now) {
                    self.schedule.add(Urgency::Change, Key::VirtualServer(server));
                }
                if self.drains.are_all_counted() {
                    self.notes.push(Note::Read(Reading::Count));
                }
            }
            (Task::Audit(_), Answer::State(Err(error))) | (Task::List, Answer::Keys(Err(error))) => {
                self.audit.unreadable();
                self.notes.push(Note::Unreadable(Reading::Audit, error));
            }
            (Task::Count(_), Answer::Counts(Err(error))) => {
                self.drains.uncounted();
                self.notes.push(Note::Unreadable(Reading::Count, error));
            }
            (Task::DeleteStale(family, _), Answer::Purged(purged)) => {
                self.purges.deleted(family, purged);
                self.purge_ends(now);
            }
            (Task::Apply(plan, scope), Answer::Outcomes(outcomes)) => {
                self.last_plan_ended = Some(now);
                self.purges.changes_had_their_turn();
                self.rest.written(now);
                self.take_outcomes(&plan, &scope, outcomes, took, now);
                // Here too, and not only when nothing is left to do, which may never happen.
                self.settle(now);
                if !self.touched.is_empty() {
                    self.queued();
                }
            }
            (task, answer) => unreachable!("{answer:?} is no answer to {task:?}"),
        }
        if is_part_of_audit {
            // After the answer was taken in: what it found is read soon.
            self.audit.cost(spent.unwrap_or(took), now);
        }
    }

    fn start(&mut self, task: Task, now: Instant) -> Next {
        let work = task.work();
        self.in_flight = Some(InFlight { task, since: now, spent: None });
        Next::Work(work)
    }

    fn tell(&mut self, conflicts: Vec<Conflict>, shared: Vec<Shared>) {
        self.notes.extend(conflicts.into_iter().map(Note::Conflict));
        for shared in shared {
            let owner = Owner::of(&self.cluster, &shared.service, shared.address);
            self.notes.push(Note::Shared { shared, owner });
        }
    }

    /// Until when changes are held back, where the user asked for that.
    ///
    /// Not while much is written piece by piece: the next piece would wait for the changes, and the changes for the
    /// period after the last piece.
    fn held_back(&self, now: Instant) -> Option<Instant> {
        let until = self.last_plan_ended? + self.min_sync_period;
        let changes = self.schedule.most_urgent() == Some(Urgency::Change);
        let in_pieces = self.schedule.has_pieces() || !self.rest.is_empty();
        (changes && self.phase.is_synced() && !in_pieces && now < until).then_some(until)
    }

    /// Purges connection tracking, if that is due. Not before the first complete set is written: everything would be
    /// purged.
    fn purge(&mut self, idle: bool, now: Instant) -> Option<Next> {
        if !self.phase.is_synced() {
            return None;
        }
        if let Some(purge) = self.purges.due(idle, &self.actual, now) {
            // Nothing is in flight: the search goes on beside the next work.
            return Some(Next::Work(Work::FindStale(purge)));
        }
        if let Some((family, entries)) = self.purges.piece(idle, &self.actual) {
            return Some(self.start(Task::DeleteStale(family, entries.into()), now));
        }
        self.purge_ends(now);
        None
    }

    fn purge_ends(&mut self, now: Instant) {
        let purged = self.purges.take_ended(now).into_iter().flatten();
        self.notes.extend(purged.map(|(family, purged)| Note::Purged(family, purged)));
    }

    /// Something of all families is to be written.
    fn queued(&mut self) {
        self.notes.extend(self.progress.queued(self.families.iter().copied()));
    }

    /// Notes which families are completely written now.
    fn settle(&mut self, now: Instant) {
        if matches!(self.phase, Phase::First(_)) || !self.rest.is_empty() {
            return;
        }
        let is_empty = self.schedule.most_urgent().is_none();
        let (schedule, desired) = (&self.schedule, &self.desired);
        let is_settled = |family| {
            schedule.is_settled(family)
                && refusals::are_few(schedule.failures(), &self.actual, |key| desired.wants(key), family)
        };
        self.notes.extend(self.progress.settled(is_settled, is_empty));
        if !self.phase.is_synced() && is_empty {
            self.phase = Phase::Synced;
            self.purges.everything(&self.actual, now);
            self.notes.push(Note::FirstSync);
        }
    }
}
