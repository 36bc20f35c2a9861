//! Graceful termination: how long a real server stays after its endpoint is no longer used.
//!
//! The real server of such an endpoint is kept, with weight 0.
//!
//! * While a slice still has the endpoint (it is not ready, or terminates, or serves other nodes), it may come back,
//!   and its connections are its own affair: the real server stays.
//! * Where no other endpoint serves, it stays only as long as it has connections. Clients of a virtual server whose
//!   real servers all have weight 0 only leave a line in the kernel's log; without any real server they are refused as
//!   well.
//! * Once the endpoint is in no slice, the real server stays until its connections have ended or a deadline has passed.
//!   Connections to a server that is gone for good notice it then, since their next packet is answered with a reset.
//! * UDP has no end of a connection: its real servers go at once.
//! * Where the scheduler chooses by a hash, a real server of weight 0 keeps its share of the clients and refuses them.
//!   It stays no longer than its connections, slice or not.
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
/// At most this many virtual servers, with at most this many real servers, are counted at once: each virtual server is
/// a request to the kernel, which also lists real servers that do not drain, and a change that comes meanwhile waits.
const AT_ONCE: usize = 32;
const REAL_SERVERS: usize = 256;

/// The real servers that drain.
#[derive(Clone, Debug)]
pub(super) struct Drains {
    /// How long a real server may drain after its endpoint is gone.
    deadline: Duration,
    servers: BTreeMap<(VirtualServerKey, RealServerKey), Drain>,
    ended: Ended,
    /// When connections are to be counted next.
    poll: Option<Instant>,
    /// The virtual servers whose connections are still to be counted in this round.
    round: BTreeSet<VirtualServerKey>,
    /// Whether a part of this round could not be counted.
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
    /// The last real servers that became idle or reached their deadline, the latest first.
    pub last: [Option<(VirtualServerKey, RealServerKey)>; 5],
}

impl Ended {
    /// Records a real server that became idle or reached its deadline.
    fn name(&mut self, id: (VirtualServerKey, RealServerKey)) {
        self.last.rotate_right(1);
        self.last[0] = Some(id);
    }
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    stay: Stay,
    /// Whether its connections have ended.
    idle: bool,
    /// Whether it was reported that it may go: from then on it is tried as often as everything that the kernel refuses.
    may_go: bool,
}

/// How long a real server stays after its endpoint is no longer used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// As long as a slice has its endpoint, while other endpoints serve.
    WithSlice,
    /// As long as it has connections, while a slice has its endpoint and no other endpoint serves.
    WithConnections,
    /// As long as it has connections, but no longer than until this moment.
    Until(Instant),
}

impl Stay {
    fn has_passed(self, now: Instant) -> bool {
        matches!(self, Self::Until(until) if until <= now)
    }
}

/// The range of all real servers of a virtual server.
fn of_server(server: VirtualServerKey) -> RangeInclusive<(VirtualServerKey, RealServerKey)> {
    (server, RealServerKey::FIRST)..=(server, RealServerKey::LAST)
}

impl Drain {
    fn begin(stay: Stay) -> Self {
        Self { stay, idle: false, may_go: false }
    }
}

impl Drains {
    /// None yet. `deadline`: how long a real server may drain after its endpoint is gone.
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

    /// Completes the wanted virtual servers with real servers that drain.
    ///
    /// Adds the real servers that are in the kernel, not wanted, and may drain. Leaves out virtual servers without any
    /// real server: a rule refuses a port without endpoints, and an empty virtual server would flood the kernel's log.
    /// `in_slices` says which of some endpoints, given in order, a slice still has.
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
                    // It is wanted again and did not go, whatever was found of its connections meanwhile.
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

    /// The real servers of this virtual server that drain, and when each goes at the latest; `None`: a slice still has
    /// its endpoint.
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

    /// Takes in a step that was done: real servers that it removed no longer drain.
    pub(super) fn stepped(&mut self, step: &Step, now: Instant) {
        match step {
            Step::DeleteRealServer(key, real) => self.end(&(*key, *real), Some(now)),
            Step::DeleteVirtualServer(key) => self.end_all(key, Some(now)),
            _ => {}
        }
    }

    /// Forgets a drain, and counts it. Without `now`, its deadline counts as not passed.
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

    /// Forgets and counts all drains of a virtual server.
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

    /// The virtual servers whose connections are to be counted now: one part of the round for each call.
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

    /// The connections of the last part could not be counted: the next round counts them.
    pub(super) fn uncounted(&mut self) {
        self.was_uncounted = true;
    }

    /// Whether this round has ended with everything counted.
    pub(super) fn are_all_counted(&self) -> bool {
        self.round.is_empty() && !self.was_uncounted
    }

    /// Takes in the connection counts of the real servers of these virtual servers.
    ///
    /// Returns the virtual servers to compare again, since a real server of theirs may go now; each real server is
    /// reported once. A real server without a count is unknown, not idle. Drains of other virtual servers are not
    /// looked at: there may be a hundred thousand, in many parts of the round.
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
