//! Graceful termination: when a real server whose endpoint is gone may go.
//!
//! An endpoint that is not used any more keeps its real server, with weight 0. While a slice still has it (it is not
//! ready, or terminates, or serves other nodes) it may come back, and its connections are its own affair: it stays;
//! where no other endpoint serves, as long as it has connections, since whoever asks a virtual server with real
//! servers of weight 0 only leaves a line in the kernel's log, and without any he is refused as well. Once it is in
//! no slice, it stays until its connections have ended or a deadline has passed: what hangs on a server that is gone
//! for good is noticed then, since the next packet of such a connection is answered with a reset. Only UDP, which has
//! no end of a connection, loses its real server at once. And where the scheduler chooses by a hash, a real server of
//! weight 0 keeps its share of the clients and refuses them: it stays no longer than its connections, slice or not.
//!
//! What drains is found by comparing, never remembered from an event, so a restart only starts the deadline anew. Pure:
//! the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::cluster::types::Protocol;
use crate::diff::Step;
use crate::state::{RealServer, RealServerKey, State, VirtualServerKey, Weight};

/// How often the connections of draining servers are counted.
pub(super) const POLL: Duration = Duration::from_secs(5);
/// For how many virtual servers at once, and for how many real servers of theirs: each is a question to the kernel, which lists
/// those that do not drain, too, and a change that comes meanwhile waits.
const AT_ONCE: usize = 32;
const REAL_SERVERS: usize = 256;

/// The real servers that drain.
#[derive(Clone, Debug)]
pub(super) struct Drains {
    /// How long a real server may drain whose endpoint is gone.
    deadline: Duration,
    servers: BTreeMap<(VirtualServerKey, RealServerKey), Drain>,
    ended: Ended,
    /// When connections are to be counted next.
    poll: Option<Instant>,
    /// Whose connections are still to be counted in this round.
    round: BTreeSet<VirtualServerKey>,
    /// Whether those of a part of this round could not be.
    was_uncounted: bool,
}

/// How many drains have ended, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The connections had ended.
    pub idle: u64,
    /// The deadline had passed.
    pub deadline: u64,
    /// The endpoint came back, or the virtual server went.
    pub overtaken: u64,
    /// The last of the idle ones and of those whose deadline had passed, the latest first.
    pub last: [Option<(VirtualServerKey, RealServerKey)>; 5],
}

impl Ended {
    /// This one is idle, or its deadline had passed.
    fn name(&mut self, id: (VirtualServerKey, RealServerKey)) {
        self.last.rotate_right(1);
        self.last[0] = Some(id);
    }
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    stay: Stay,
    /// Its connections have ended.
    idle: bool,
    /// It was said that it may go: from then on it is tried as often as everything that the kernel refuses.
    may_go: bool,
}

/// How long a real server stays whose endpoint is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// A slice still has its endpoint, and others serve: as long as that is so.
    WithSlice,
    /// A slice still has its endpoint, and nobody serves: as long as its connections.
    WithConnections,
    /// As long as its connections, and no longer than this.
    Until(Instant),
}

impl Stay {
    fn has_passed(self, now: Instant) -> bool {
        matches!(self, Self::Until(until) if until <= now)
    }
}

/// All real servers of this virtual server.
fn of_server(server: VirtualServerKey) -> RangeInclusive<(VirtualServerKey, RealServerKey)> {
    (server, RealServerKey::FIRST)..=(server, RealServerKey::LAST)
}

impl Drain {
    fn begin(stay: Stay) -> Self {
        Self { stay, idle: false, may_go: false }
    }
}

impl Drains {
    /// None yet. `deadline`: how long a real server may drain whose endpoint is gone.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            servers: BTreeMap::new(),
            ended: Ended::default(),
            poll: None,
            round: BTreeSet::new(),
            was_uncounted: false,
        }
    }

    /// Completes what is wanted of virtual servers: adds the real servers that are in the kernel, not wanted, and may
    /// drain; leaves out virtual servers without any real server (a port without endpoints is refused by a rule; an
    /// empty virtual server would flood the kernel's log). `in_slices` says which endpoints, of some in order, a slice still
    /// has.
    pub(super) fn complete(
        &mut self,
        wanted: &mut State,
        actual: &State,
        now: Instant,
        mut in_slices: impl FnMut(&VirtualServerKey, &[RealServerKey]) -> BTreeSet<RealServerKey>,
    ) {
        wanted.virtual_servers.retain(|key, server| {
            let known = actual.virtual_servers.get(key);
            let forgotten: Vec<_> = self
                .servers
                .range(of_server(*key))
                .map(|(id, _)| *id)
                .filter(|(_, real)| {
                    server.real_servers.contains_key(real)
                        || !known.is_some_and(|known| known.real_servers.contains_key(real))
                })
                .collect();
            for id in forgotten {
                if server.real_servers.contains_key(&id.1) {
                    // It did not go, whatever was found of its connections meanwhile.
                    self.servers.remove(&id);
                    self.ended.overtaken += 1;
                } else {
                    self.end(&id, Some(now));
                }
            }
            let others_serve = !server.real_servers.is_empty();
            if let Some(known) = known
                && key.protocol != Protocol::Udp
            {
                let unwanted: Vec<RealServerKey> =
                    known.real_servers.without(&server.real_servers).map(|(real, _)| *real).collect();
                let in_slices = if server.hashes() { BTreeSet::new() } else { in_slices(key, &unwanted) };
                for real in unwanted {
                    if self.may_stay((*key, real), in_slices.contains(&real), others_serve, now) {
                        server.real_servers.insert(real, RealServer::with(Weight::DrainIfPresent));
                    }
                }
            }
            !server.real_servers.is_empty()
        });
    }

    /// Whether an unwanted real server may stay for its connections.
    fn may_stay(
        &mut self,
        id: (VirtualServerKey, RealServerKey),
        in_slice: bool,
        others_serve: bool,
        now: Instant,
    ) -> bool {
        let drain = self.servers.entry(id).or_insert(Drain::begin(Stay::WithSlice));
        match (in_slice, drain.stay) {
            (true, _) if others_serve => *drain = Drain::begin(Stay::WithSlice),
            (true, Stay::WithConnections) | (false, Stay::Until(_)) => {}
            (true, _) => *drain = Drain::begin(Stay::WithConnections),
            (false, _) => drain.stay = Stay::Until(now + self.deadline),
        }
        if drain.stay != Stay::WithSlice {
            self.poll.get_or_insert(now + POLL);
        }
        !drain.idle && !drain.stay.has_passed(now)
    }

    /// Whether any real server of this virtual server drains.
    pub(super) fn concerns(&self, key: &VirtualServerKey) -> bool {
        self.servers.range(of_server(*key)).next().is_some()
    }

    /// The real servers of this virtual server that drain, and when each goes at the latest; `None`: a slice still has its
    /// endpoint.
    pub(super) fn of(
        &self,
        key: &VirtualServerKey,
    ) -> impl Iterator<Item = (RealServerKey, Option<Instant>)> {
        self.servers.range(of_server(*key)).map(|((_, real), drain)| {
            let until = match drain.stay {
                Stay::Until(until) => Some(until),
                Stay::WithSlice | Stay::WithConnections => None,
            };
            (*real, until)
        })
    }

    /// Forgets the drains of a virtual server that is not wanted any more.
    pub(super) fn forget(&mut self, key: &VirtualServerKey) {
        self.end_all(key, None);
    }

    /// A step was done: real servers that went do not drain any more.
    pub(super) fn stepped(&mut self, step: &Step, now: Instant) {
        match step {
            Step::DeleteRealServer(key, real) => self.end(&(*key, *real), Some(now)),
            Step::DeleteVirtualServer(key) => self.end_all(key, Some(now)),
            _ => {}
        }
    }

    /// Forgets a drain, and counts it. Without a time its deadline had not passed.
    fn end(&mut self, id: &(VirtualServerKey, RealServerKey), now: Option<Instant>) {
        match self.servers.remove(id) {
            None => {}
            Some(drain) if drain.idle => {
                self.ended.idle += 1;
                self.ended.name(*id);
            }
            Some(drain) if now.is_some_and(|now| drain.stay.has_passed(now)) => {
                self.ended.deadline += 1;
                self.ended.name(*id);
            }
            Some(_) => self.ended.overtaken += 1,
        }
    }

    /// The same for all of a virtual server.
    fn end_all(&mut self, key: &VirtualServerKey, now: Option<Instant>) {
        let gone: Vec<_> = self.servers.range(of_server(*key)).map(|(id, _)| *id).collect();
        for id in gone {
            self.end(&id, now);
        }
    }

    /// How many have ended since the start.
    pub(super) fn ended(&self) -> Ended {
        self.ended
    }

    /// How many real servers drain.
    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    /// When [`Drains::due`] will have something again after it had nothing.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.poll
    }

    /// The virtual servers whose connections are to be counted now: a part of them, and the next call has the next.
    pub(super) fn due(&mut self, now: Instant, actual: &State) -> Option<BTreeSet<VirtualServerKey>> {
        if self.round.is_empty() && self.poll.is_some_and(|due| due <= now) {
            let counted = |drain: &Drain| drain.stay != Stay::WithSlice && !drain.may_go;
            let counted = self.servers.iter().filter(|(_, drain)| counted(drain));
            self.round = counted.map(|((key, _), _)| *key).collect();
            self.was_uncounted = false;
            self.poll = (!self.round.is_empty()).then(|| now + POLL);
        }
        let part = actual.up_to(REAL_SERVERS, self.round.iter().copied().take(AT_ONCE));
        let part: BTreeSet<_> = part.into_iter().collect();
        for server in &part {
            self.round.remove(server);
        }
        (!part.is_empty()).then_some(part)
    }

    /// The connections of the last part could not be counted: they are in the next round.
    pub(super) fn uncounted(&mut self) {
        self.was_uncounted = true;
    }

    /// Whether this round has ended, and all were counted.
    pub(super) fn are_all_counted(&self) -> bool {
        self.round.is_empty() && !self.was_uncounted
    }

    /// Takes in how many connections the real servers of these virtual servers have, and says which of them must be compared
    /// again: those of which a real server may go now. That is said once. A real server that is not counted is unknown, not
    /// idle. The others are not looked at: there may be a hundred thousand, each in a part of its own of the round.
    pub(super) fn counted(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
        counts: &BTreeMap<(VirtualServerKey, RealServerKey), u64>,
        now: Instant,
    ) -> BTreeSet<VirtualServerKey> {
        let mut ended = BTreeSet::new();
        for server in servers {
            for (id, drain) in self.servers.range_mut(of_server(*server)) {
                if drain.stay == Stay::WithSlice || drain.may_go {
                    continue;
                }
                drain.idle |= counts.get(id) == Some(&0);
                drain.may_go = drain.idle || drain.stay.has_passed(now);
                if drain.may_go {
                    ended.insert(id.0);
                }
            }
        }
        ended
    }
}
