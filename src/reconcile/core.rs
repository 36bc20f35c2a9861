//! The loop's decisions, without its waiting: which piece of work is next, and what an answer means.
//!
//! [`Reconciler`] owns the facts, what they ask for, and the picture of the kernel. It is told of events and answers,
//! and asked for [`Work`]; one piece of work is in flight at a time, and what happens meanwhile only marks keys. Pure:
//! the time is an argument, so that whole lives of it can be replayed against a kernel in memory.

mod adoption;
mod explain;
mod outcomes;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::audit::{Audit, Look};
use super::drain::{Drains, Ended};
use super::note::{Note, Owner, Reading};
use super::picture::Picture;
use super::progress::{Changes, Progress};
use super::purge::Purges;
use super::refusals;
use super::schedule::{Failure, Schedule, Urgency};
use crate::api::{Change, Event};
use crate::cluster::types::{Family, ServiceKey};
use crate::cluster::{Cluster, Touched};
use crate::desired::claims::Conflict;
use crate::desired::settings::Supported;
use crate::desired::{Desired, Shared};
use crate::diff::Plan;
use crate::diff::purge::Purge;
use crate::kernel::{Foundations, Kernel, Outcome, Purged, ReadError, Selection, Witnesses};
use crate::options::ProxyOptions;
use crate::state::{Key, RealServerKey, Scope, State, VirtualServerKey};

/// A piece of work for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Carry out a plan.
    Apply(Arc<Plan>),
    /// Read this back.
    Read(Selection),
    /// List the keys of all virtual servers.
    List,
    /// Ask whether what everything stands on is there, and these.
    Foundations(Witnesses),
    /// Count the connections of the real servers of these virtual servers.
    Count(BTreeSet<VirtualServerKey>),
    /// Delete stale entries of connection tracking.
    Purge(Arc<Purge>),
}

impl Work {
    /// Does it.
    pub fn carry_out(&self, kernel: &mut dyn Kernel) -> Answer {
        match self {
            Self::Apply(plan) => Answer::Outcomes(kernel.apply(plan)),
            Self::Read(selection) => Answer::State(kernel.read(selection)),
            Self::List => Answer::Keys(kernel.list_virtual_servers()),
            Self::Foundations(witnesses) => Answer::Foundations(kernel.foundations(witnesses)),
            Self::Count(servers) => Answer::Counts(kernel.connections(servers)),
            Self::Purge(purge) => Answer::Purged(kernel.purge(purge)),
        }
    }
}

/// What became of a piece of work, in the form that belongs to it.
#[derive(Debug)]
pub enum Answer {
    /// To [`Work::Apply`]: one outcome per step.
    Outcomes(Vec<Outcome>),
    /// To [`Work::Read`].
    State(Result<State, ReadError>),
    /// To [`Work::List`].
    Keys(Result<BTreeSet<VirtualServerKey>, ReadError>),
    /// To [`Work::Foundations`].
    Foundations(Foundations),
    /// To [`Work::Count`].
    Counts(Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError>),
    /// To [`Work::Purge`]: for each family of the purge.
    Purged(BTreeMap<Family, Purged>),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This, and then [`Reconciler::complete`].
    Work(Work),
    /// Nothing, until an event comes or this moment.
    Wait(Option<Instant>),
}

/// Why a piece of work is in flight.
#[derive(Debug)]
enum Task {
    Adopt,
    Reread(Scope),
    Audit(Selection),
    List,
    Foundations(Witnesses),
    Count(BTreeSet<VirtualServerKey>),
    Purge(Arc<Purge>),
    Apply(Arc<Plan>, Scope),
}

/// What everything stands on, as it was last seen: see [`Foundations`].
#[derive(Debug, Default)]
struct Stands {
    device: Option<u32>,
    tables: BTreeMap<Family, u64>,
}

/// Virtual servers that are others'.
#[derive(Debug, Default)]
struct Foreign {
    servers: BTreeSet<VirtualServerKey>,
    /// Whether they are others than those that were told of: that is done once for all that happens together, since there may be
    /// thousands.
    is_news: bool,
}

/// The loop's state and decisions.
pub struct Reconciler {
    cluster: Cluster,
    desired: Desired,
    actual: Picture,
    adopted: bool,
    /// The only Services that were looked at since what is there was adopted: see [`adoption`].
    looked_first: Option<Touched>,
    /// Services whose facts changed since the last look, as they came; some may come several times. They are put in order
    /// when they are looked at: at once, which costs less than one by one.
    touched: Vec<ServiceKey>,
    /// Whether facts about this node changed since the last look.
    node_touched: bool,
    /// Since when the oldest change that was looked at waits to be handed to the kernel.
    waiting: Option<Instant>,
    /// By what the turns of real servers differ from those on other nodes.
    seed: u64,
    schedule: Schedule,
    drains: Drains,
    purges: Purges,
    audit: Audit,
    /// Which device and which tables were there when that was last asked, and we have not made others since.
    foundations: Stands,
    foreign: Foreign,
    /// Unwanted addresses that an audit found on the device: virtual servers there are ours to remove, although the
    /// address is gone when the next list is made.
    intruders: BTreeSet<IpAddr>,
    exclude_cidrs: Vec<IpNet>,
    families: BTreeSet<Family>,
    min_sync_period: Duration,
    /// The end of the last plan.
    applied: Option<Instant>,
    adopt_again: Option<Instant>,
    in_flight: Option<Task>,
    /// When it was handed out.
    handed_out: Option<Instant>,
    /// What the piece of work in flight has cost, if that is known: see [`Reconciler::spent`].
    spent: Option<Duration>,
    progress: Progress,
    notes: Vec<Note>,
    synced_once: bool,
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
            adopted: false,
            looked_first: None,
            touched: Vec::new(),
            node_touched: false,
            waiting: None,
            seed: hasher.finish(),
            schedule: Schedule::default(),
            purges: Purges::default(),
            drains,
            audit: Audit::new(audit_period, families.clone()),
            foundations: Stands::default(),
            foreign: Foreign::default(),
            intruders: BTreeSet::new(),
            exclude_cidrs,
            families,
            min_sync_period,
            applied: None,
            adopt_again: None,
            in_flight: None,
            handed_out: None,
            spent: None,
            progress: Progress::default(),
            notes: Vec::new(),
            synced_once: false,
        }
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
            // Nodes tell of themselves all the time, and rarely anything that is used of them.
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
        // Before, nothing is looked at: then everything will be.
        if self.adopted {
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

    /// Whether everything of a family, and of what the families share, that was looked at is as wanted, or is single
    /// objects that the kernel refuses.
    pub fn is_settled(&self, family: Family) -> bool {
        self.schedule.is_settled(family)
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
        if std::mem::take(&mut self.foreign.is_news) {
            self.notes.push(Note::Foreign(self.foreign.servers.clone()));
        }
        std::mem::take(&mut self.notes)
    }

    /// What to do next. After [`Next::Work`] the answer must be given to [`Reconciler::complete`] first.
    pub fn next(&mut self, now: Instant) -> Next {
        assert!(self.in_flight.is_none(), "one piece of work at a time");
        self.handed_out = Some(now);
        if !self.adopted {
            return self.next_adoption(now);
        }
        self.look_at_touched(now);
        if let Some(suspects) = self.schedule.suspects(now) {
            let scope = suspects.clone();
            let work = Work::Read(Selection::Keys(scope.clone()));
            return self.start(Task::Reread(scope), work);
        }
        if let Some(next) = self.purge(false, now) {
            return next;
        }
        let hold = self.held_back(now);
        while hold.is_none() && self.schedule.has_work(now) {
            let is_change = self.schedule.most_urgent() == Some(Urgency::Change);
            let waiting = if is_change { self.waiting.take() } else { None };
            let scope = self.schedule.take(now);
            if let Some(next) = self.plan(scope, now) {
                let waited = waiting.map(|since| now.saturating_duration_since(since));
                self.notes.extend(waited.map(|waited| Note::HandedOver { waited }));
                return next;
            }
        }
        if let Some(first) = self.looked_first.take() {
            self.adopt_rest(&first, now);
            return self.next(now);
        }
        if hold.is_none() {
            // Changes that ask for nothing do not wait.
            self.waiting = None;
            self.settle(now);
        }
        if let Some(next) = self.purge(true, now) {
            return next;
        }
        if let Some(servers) = self.drains.due(now, &self.actual) {
            return self.start(Task::Count(servers.clone()), Work::Count(servers));
        }
        let look = self.audit.due(now, &self.actual);
        if self.audit.take_round_ended() {
            self.notes.push(Note::AuditRound);
        }
        match look {
            Some(Look::Read(selection)) => {
                return self.start(Task::Audit(selection.clone()), Work::Read(selection));
            }
            Some(Look::List) => return self.start(Task::List, Work::List),
            Some(Look::Foundations(witnesses)) => {
                return self.start(Task::Foundations(witnesses.clone()), Work::Foundations(witnesses));
            }
            None => {}
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

    /// The piece of work in flight has cost so much processor time, which is less than it took where the kernel or the
    /// processor was waited for. Said before [`Reconciler::complete`]; what nobody says this of has cost what it took.
    pub fn spent(&mut self, processor: Duration) {
        self.spent = Some(processor);
    }

    /// Takes in what became of the piece of work in flight.
    ///
    /// # Panics
    /// If the answer is not of the form that belongs to the work.
    pub fn complete(&mut self, answer: Answer, now: Instant) {
        let is_part_of_audit = matches!(self.in_flight, Some(Task::Audit(_) | Task::List));
        let cost = self.spent.take().unwrap_or_else(|| self.took(now));
        match (self.in_flight.take().expect("an answer follows a piece of work"), answer) {
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
            (Task::Purge(purge), Answer::Purged(purged)) => self.purged(&purge, purged, now),
            (Task::Apply(plan, scope), Answer::Outcomes(outcomes)) => {
                self.applied = Some(now);
                self.take_outcomes(&plan, &scope, outcomes, now);
                // Here and not only when nothing is left to do, which may be never.
                self.settle(now);
                if !self.touched.is_empty() {
                    self.queued();
                }
            }
            (task, answer) => unreachable!("{answer:?} is no answer to {task:?}"),
        }
        if is_part_of_audit {
            // Behind what was found: that is looked at soon.
            self.audit.cost(cost, now);
        }
    }

    /// How long the piece of work took that is answered now.
    fn took(&self, now: Instant) -> Duration {
        self.handed_out.map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
    }

    fn start(&mut self, task: Task, work: Work) -> Next {
        self.in_flight = Some(task);
        Next::Work(work)
    }

    fn look_at_touched(&mut self, now: Instant) {
        // A table that is made anew is made with what all Services ask for, and a Service may need a table that is.
        if self.looked_first.is_some() {
            return;
        }
        if std::mem::take(&mut self.node_touched) {
            let (settings, touched) = self.desired.look_at_node(&self.cluster);
            if !settings.is_empty() || !touched.is_empty() {
                self.waiting.get_or_insert(now);
                self.queued();
            }
            self.touched.extend(touched);
            self.schedule.add_all(Urgency::Change, settings);
        }
        if self.touched.is_empty() {
            return;
        }
        self.waiting.get_or_insert(now);
        self.progress.looked();
        let touched: Touched = std::mem::take(&mut self.touched).into_iter().collect();
        let update = self.desired.update(&self.cluster, &touched);
        self.tell(update.conflicts, update.shared);
        self.schedule.add_all(Urgency::Change, update.scope);
        // What is wanted may be the same, and an endpoint that drains may be in no slice any more, or in one again.
        let servers = touched.iter().flat_map(|service| self.desired.virtual_servers_of(service));
        for server in servers.filter(|server| self.drains.concerns(server)) {
            self.schedule.add(Urgency::Change, Key::VirtualServer(server));
        }
        self.notes.push(Note::Looked(touched));
    }

    fn tell(&mut self, conflicts: Vec<Conflict>, shared: Vec<Shared>) {
        self.notes.extend(conflicts.into_iter().map(Note::Conflict));
        for shared in shared {
            let owner = self.other_owner(&shared.service, shared.address);
            self.notes.push(Note::Shared { shared, owner });
        }
    }

    /// Who has a service address that is not put on our device.
    fn other_owner(&self, service: &ServiceKey, address: IpAddr) -> Owner {
        let has = |addresses: &[IpAddr]| addresses.contains(&address);
        let on_device = self.cluster.node_addresses().iter().any(|known| known.address == address);
        let mut others = self.cluster.other_nodes().filter(|_| !on_device);
        if self.cluster.node().is_some_and(|node| has(&node.addresses)) {
            if on_device { Owner::Node } else { Owner::NodeObject }
        } else if let Some((name, _)) = others.find(|(_, addresses)| has(addresses)) {
            Owner::OtherNode(name.clone())
        } else if self.cluster.service(service).is_some_and(|service| has(&service.cluster_ips)) {
            Owner::DeviceOfClusterIp
        } else {
            Owner::Device
        }
    }

    /// Until when changes are held back, where the user asked for that. Not while much is written piece by piece: the next
    /// piece would wait for them, and they for the time of the last one.
    fn held_back(&self, now: Instant) -> Option<Instant> {
        let until = self.applied? + self.min_sync_period;
        let changes = self.schedule.most_urgent() == Some(Urgency::Change);
        (changes && self.synced_once && !self.schedule.has_pieces() && now < until).then_some(until)
    }

    /// Purges connection tracking, if that is due. Before the first complete set is written everything would be.
    fn purge(&mut self, idle: bool, now: Instant) -> Option<Next> {
        if !self.synced_once {
            return None;
        }
        let purge = Arc::new(self.purges.due(idle, &self.actual, now)?);
        Some(self.start(Task::Purge(purge.clone()), Work::Purge(purge)))
    }

    fn purged(&mut self, purge: &Purge, purged: BTreeMap<Family, Purged>, now: Instant) {
        let failed = |key: &&VirtualServerKey| {
            purged.get(&Family::of(key.address)).is_none_or(|purged| purged.failure.is_some())
        };
        let again: Vec<_> = purge.live.keys().filter(failed).copied().collect();
        self.purges.ended(again, purged.values().map(|purged| purged.took).sum(), now);
        self.notes.extend(purged.into_iter().map(|(family, purged)| Note::Purged(family, purged)));
    }

    /// Something of all families is to be written.
    fn queued(&mut self) {
        self.notes.extend(self.progress.queued(self.families.iter().copied()));
    }

    /// Says which families are completely written now.
    fn settle(&mut self, now: Instant) {
        if self.looked_first.is_some() {
            return;
        }
        let is_empty = self.schedule.most_urgent().is_none();
        let (schedule, desired) = (&self.schedule, &self.desired);
        let is_settled = |family| {
            schedule.is_settled(family)
                && refusals::are_few(schedule.failures(), &self.actual, |key| desired.wants(key), family)
        };
        self.notes.extend(self.progress.settled(is_settled, is_empty));
        if !self.synced_once && is_empty {
            self.synced_once = true;
            self.purges.everything(&self.actual, now);
            self.notes.push(Note::FirstSync);
        }
    }
}
