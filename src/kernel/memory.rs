//! A kernel in memory: a [`State`] that carries out plans as Linux would, with faults on demand.
//!
//! For tests and benchmarks. It imitates these rules of Linux: an object must exist before it is changed and must not
//! exist before it is made, an address needs its device, a real server needs its virtual server, and some elements of a
//! set exclude each other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{
    Found, Foundations, Kernel, Outcome, Purged, ReadError, Refusal, Selection, StaleEntry, Witnesses,
};
use crate::cluster::types::Family;
use crate::diff::purge::{Flow, Purge};
use crate::diff::{Plan, Step};
use crate::state::part::Part;
use crate::state::{Key, RealServerKey, State, VirtualServerKey};

/// A kernel in memory. Clones share one state: a test keeps a clone to observe and to interfere.
#[derive(Clone, Default)]
pub struct MemoryKernel {
    inner: Arc<Mutex<Inner>>,
}

/// What a fault does to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step is refused with this error number.
    Refuse(i32),
    /// The step is done, but its outcome is unknown.
    LoseAnswer,
    /// The step is not done, and its outcome is unknown.
    LoseRequest,
}

/// Decides what goes wrong with a step.
pub type Faults = Box<dyn FnMut(&Step) -> Option<Fault> + Send>;

#[derive(Default)]
struct Inner {
    state: State,
    connections: BTreeMap<(VirtualServerKey, RealServerKey), u64>,
    flows: BTreeSet<Flow>,
    faults: Option<Faults>,
    unreadable: u32,
    unreadable_parts: BTreeSet<Part>,
    /// How often a device, and a table, has been made.
    device_number: u32,
    table_handle: u64,
    written: Vec<Step>,
}

impl MemoryKernel {
    /// A kernel that holds this state.
    pub fn holding(state: State) -> Self {
        let inner = Inner { state, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The state that this kernel holds.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Changes the state as somebody else would, without telling anyone.
    pub fn meddle(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock().state);
    }

    /// Removes the device and makes it again, as somebody else may: its addresses are gone.
    pub fn remake_device(&self) {
        let mut inner = self.lock();
        inner.device_number += 1;
        inner.state.addresses.clear();
    }

    /// Replaces the tables by new ones with the same rules and no elements, as somebody does who loads an old copy of
    /// them.
    pub fn remake_tables(&self) {
        let mut inner = self.lock();
        inner.table_handle += 1;
        inner.state.elements.clear();
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.lock().faults = faults;
    }

    /// Makes this many of the next reads fail.
    pub fn fail_reads(&self, count: u32) {
        self.lock().unreadable = count;
    }

    /// From now on makes exactly these parts unreadable.
    pub fn set_unreadable(&self, parts: impl IntoIterator<Item = Part>) {
        self.lock().unreadable_parts = parts.into_iter().collect();
    }

    /// Sets how many connections a real server has.
    pub fn set_connections(&self, server: VirtualServerKey, real_server: RealServerKey, count: u64) {
        self.lock().connections.insert((server, real_server), count);
    }

    /// Adds an entry to connection tracking.
    pub fn track(&self, flow: Flow) {
        self.lock().flows.insert(flow);
    }

    /// The entries of connection tracking.
    pub fn flows(&self) -> BTreeSet<Flow> {
        self.lock().flows.clone()
    }

    /// The steps that were done since the last call, whether their outcomes were reported or not.
    pub fn take_written(&self) -> Vec<Step> {
        std::mem::take(&mut self.lock().written)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn carry_out(&mut self, step: &Step) -> Outcome {
        let fault = self.faults.as_mut().and_then(|faults| faults(step));
        match fault {
            Some(Fault::Refuse(errno)) => return refused(Errno::from_raw_os_error(errno)),
            Some(Fault::LoseRequest) => return Outcome::Unknown,
            Some(Fault::LoseAnswer) | None => {}
        }
        let outcome = if let Some(errno) = objection(&self.state, step) {
            refused(errno)
        } else {
            step.apply_to(&mut self.state);
            match step {
                Step::AddDevice => self.device_number += 1,
                Step::InstallRules(..) => self.table_handle += 1,
                _ => {}
            }
            self.written.push(step.clone());
            Outcome::Done
        };
        if fault.is_some() { Outcome::Unknown } else { outcome }
    }

    fn read_failure(&mut self) -> Result<(), ReadError> {
        if self.unreadable == 0 {
            return Ok(());
        }
        self.unreadable -= 1;
        Err(unreadable("anything"))
    }

    /// Fails if one of these parts cannot be read.
    fn readable(&mut self, parts: impl IntoIterator<Item = Part>) -> Result<(), ReadError> {
        self.read_failure()?;
        let is_readable = parts.into_iter().all(|part| !self.unreadable_parts.contains(&part));
        is_readable.then_some(()).ok_or_else(|| unreadable("a part"))
    }
}

fn unreadable(what: &'static str) -> ReadError {
    ReadError { what, source: io::Error::from(Errno::INTR) }
}

fn refused(errno: Errno) -> Outcome {
    Outcome::Refused(Refusal { errno: errno.raw_os_error(), text: io::Error::from(errno).to_string() })
}

/// Why Linux would refuse a step.
fn objection(state: &State, step: &Step) -> Option<Errno> {
    let server = |key: &VirtualServerKey| state.virtual_servers.get(key);
    let real = |key: &VirtualServerKey, real: &RealServerKey| {
        server(key).is_some_and(|server| server.real_servers.contains_key(real))
    };
    match step {
        Step::SetSysctl(..) | Step::SetTimeouts(_) | Step::InstallRules(..) => None,
        Step::AddDevice => state.device.then_some(Errno::EXIST),
        // A search for each element of a kind that never excludes another would take most of a cold start.
        Step::AddElement(element)
            if element.is_exclusive() && state.elements.iter().any(|other| element.excludes(other)) =>
        {
            Some(Errno::EXIST)
        }
        Step::AddElement(element) => {
            if state.rules.contains_key(&element.family()) {
                state.elements.contains(element).then_some(Errno::EXIST)
            } else {
                Some(Errno::NOENT)
            }
        }
        Step::DeleteElement(element) => (!state.elements.contains(element)).then_some(Errno::NOENT),
        Step::AddVirtualServer(key, _) => server(key).is_some().then_some(Errno::EXIST),
        Step::EditVirtualServer(key, _) | Step::DeleteVirtualServer(key) => {
            server(key).is_none().then_some(Errno::SRCH)
        }
        Step::AddRealServer(key, real_key, _) => match server(key) {
            None => Some(Errno::SRCH),
            Some(_) => real(key, real_key).then_some(Errno::EXIST),
        },
        Step::EditRealServer(key, real_key, _) | Step::DeleteRealServer(key, real_key) => match server(key) {
            None => Some(Errno::SRCH),
            Some(_) => (!real(key, real_key)).then_some(Errno::NOENT),
        },
        Step::AddAddress(address) => {
            if state.device {
                state.addresses.contains_key(address).then_some(Errno::EXIST)
            } else {
                Some(Errno::NODEV)
            }
        }
        Step::EditAddress(address) | Step::DeleteAddress(address) => {
            (!state.addresses.contains_key(address)).then_some(Errno::ADDRNOTAVAIL)
        }
        Step::AddRoute(address) => match state.addresses.get(address) {
            Some(known) => known.routed.then_some(Errno::EXIST),
            None => Some(Errno::INVAL),
        },
    }
}

impl Kernel for MemoryKernel {
    fn apply(&mut self, plan: &Plan) -> Vec<Outcome> {
        let mut inner = self.lock();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(plan.steps.len());
        for planned in &plan.steps {
            let missing = planned.needs.iter().find(|index| outcomes[**index] != Outcome::Done);
            let outcome = match missing {
                Some(index) => Outcome::Skipped(*index),
                None => inner.carry_out(&planned.step),
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    fn read(&mut self, selection: &Selection) -> Result<State, ReadError> {
        let mut inner = self.lock();
        match selection {
            Selection::Everything => {
                let all = inner.unreadable_parts.clone();
                inner.readable(all)?;
            }
            Selection::Settings => inner.readable([Part::Device, Part::Sysctls, Part::Timeouts])?,
            Selection::Addresses(family) => inner.readable([Part::Addresses(*family)])?,
            Selection::Tables(family) => inner.readable([Part::Table(*family)])?,
            Selection::Keys(keys) => inner.readable(keys.iter().map(Part::of))?,
        }
        let mut state = State::default();
        let mut take = |key: &Key| state.copy(key, &inner.state);
        match selection {
            Selection::Keys(keys) => keys.iter().for_each(take),
            _ => inner.state.keys().filter(|key| selection.covers(key)).for_each(|key| take(&key)),
        }
        Ok(state)
    }

    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations {
        let mut inner = self.lock();
        let device = inner.readable([Part::Device]);
        let device = device.map(|()| inner.state.device.then_some(inner.device_number));
        let mut table = |family| {
            let handle = inner.readable([Part::Table(family)]);
            (family, handle.map(|()| inner.state.rules.get(&family).map(|_| inner.table_handle)))
        };
        let tables = Family::ALL.map(&mut table).into();
        let virtual_server = witnesses.virtual_server.as_ref().map_or(Ok(false), |key| {
            inner.readable([Part::VirtualServers(Family::of(key.address))])?;
            Ok(inner.state.virtual_servers.contains_key(key))
        });
        let mut addresses = BTreeMap::new();
        if matches!(device, Ok(Some(_))) {
            for &address in &witnesses.addresses {
                let is_there = inner
                    .readable([Part::Addresses(Family::of(address))])
                    .map(|()| inner.state.addresses.get(&address).is_some_and(|address| address.routed));
                addresses.insert(address, is_there);
            }
        }
        Foundations { device, tables, virtual_server, addresses }
    }

    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError> {
        let mut inner = self.lock();
        inner.readable(Family::ALL.map(Part::VirtualServers))?;
        Ok(inner.state.virtual_servers.keys().copied().collect())
    }

    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError> {
        let mut inner = self.lock();
        inner.readable(servers.iter().map(|key| Part::VirtualServers(Family::of(key.address))))?;
        let mut counts = BTreeMap::new();
        for key in servers {
            let Some(server) = inner.state.virtual_servers.get(key) else { continue };
            for real_key in server.real_servers.keys() {
                let id = (*key, *real_key);
                counts.insert(id, inner.connections.get(&id).copied().unwrap_or(0));
            }
        }
        Ok(counts)
    }

    fn find_stale(&mut self, purge: &Purge) -> Found {
        let mut inner = self.lock();
        if let Err(error) = inner.read_failure() {
            return Found { failure: Some(error.to_string()), ..Found::default() };
        }
        let stale = inner.flows.iter().filter(|flow| purge.is_stale(flow));
        let entries = stale.map(|flow| StaleEntry { flow: *flow, id: Default::default() }).collect();
        Found { entries, ..Found::default() }
    }

    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged {
        let mut inner = self.lock();
        let deleted = entries.iter().filter(|entry| inner.flows.remove(&entry.flow)).count();
        Purged { deleted: deleted as u64, ..Purged::default() }
    }
}
