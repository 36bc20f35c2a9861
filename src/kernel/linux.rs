//! The real kernel: owns the sockets, carries out plans and reads back, on the thread that opened it.
//!
//! A plan is carried out phase by phase; within a phase, the steps for one socket go together. Steps that depend on a
//! step that was not done are skipped. Nothing here decides what is wanted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use super::ipvs::Ipvs;
use super::netlink::{Frames, Protocol, Socket};
use super::nft::Tables;
use super::probe::{self, SchedulerError, Unusable};
use super::{
    Found, Foundations, Kernel, Outcome, Purged, ReadError, Refusal, Selection, StaleEntry, Witnesses,
    address, conntrack, link, route, sysctl,
};
use crate::cluster::types::{self, Family};
use crate::diff::purge::Purge;
use crate::diff::{Plan, PlannedStep, Step};
use crate::state::{Address, DEVICE, Key, RealServerKey, Scope, State, Sysctl, VirtualServerKey};

/// How often, and after which pause, the route of an IPv6 address is looked for without any progress before it counts
/// as missing.
const ROUTE_LOOKS: u32 = 10;
const ROUTE_PAUSE: Duration = Duration::from_millis(5);
/// How many messages are encoded before they are sent.
const PART: usize = 1024;

/// The kernel of the network namespace of the thread that opened it.
pub struct LinuxKernel {
    route: Socket,
    conntrack: Socket,
    ipvs: Ipvs,
    tables: Tables,
}

/// The socket that a step is for; [`Via::Sysctl`] needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Sysctl,
    Tables,
    Ipvs,
    Route,
}

impl Via {
    const ALL: [Self; 4] = [Self::Sysctl, Self::Tables, Self::Ipvs, Self::Route];

    fn of(step: &Step) -> Self {
        match step {
            Step::SetSysctl(..) => Self::Sysctl,
            Step::InstallRules(..) | Step::DeleteElement(_) | Step::AddElement(_) => Self::Tables,
            Step::SetTimeouts(_)
            | Step::AddVirtualServer(..)
            | Step::EditVirtualServer(..)
            | Step::DeleteVirtualServer(_)
            | Step::AddRealServer(..)
            | Step::EditRealServer(..)
            | Step::DeleteRealServer(..) => Self::Ipvs,
            Step::AddDevice
            | Step::AddAddress(_)
            | Step::EditAddress(_)
            | Step::AddRoute(_)
            | Step::DeleteAddress(_) => Self::Route,
        }
    }
}

impl LinuxKernel {
    /// Checks that the kernel has what this program needs ([`probe`]), and opens it. Changes nothing.
    ///
    /// # Errors
    /// What is missing and how to get it, in one line.
    pub fn open() -> Result<Self, Unusable> {
        Self::of(probe::open()?)
    }

    /// Opens it for callers that only read: no module is loaded, except for `nf_tables`, and for `nf_conntrack_netlink`
    /// when connection tracking is asked.
    ///
    /// # Errors
    /// As for [`LinuxKernel::open`].
    pub fn open_to_read() -> Result<Self, Unusable> {
        Self::of(probe::open_to_read()?)
    }

    fn of(probe::Opened { ipvs, route, tables }: probe::Opened) -> Result<Self, Unusable> {
        match Socket::open(Protocol::Netfilter) {
            Ok(conntrack) => Ok(Self { route, conntrack, ipvs, tables }),
            Err(error) => Err(Unusable::new("netlink sockets", error)),
        }
    }

    /// Whether virtual servers can have this scheduler: see [`probe::check_scheduler`].
    ///
    /// # Errors
    /// The reason, with the schedulers that can be used.
    pub fn check_scheduler(&mut self, name: &str) -> Result<(), SchedulerError> {
        probe::check_scheduler(&mut self.ipvs, name)
    }

    /// Whether a virtual server has this scheduler, which proves that the kernel has it too. Changes nothing.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn uses_scheduler(&mut self, name: &str) -> io::Result<bool> {
        probe::is_in_use(&mut self.ipvs, name)
    }

    /// A function that does what [`Kernel::find_stale`] does, with a socket of its own, for another thread.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn stale_finder() -> io::Result<impl FnMut(&Purge) -> Found + Send + use<>> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        Ok(move |purge: &Purge| conntrack::find(&mut socket, purge))
    }

    /// Why this kernel lacks what our rules of a family need; `None`: it has everything, as far as can be told.
    /// Failures for another reason, such as memory, show up when the rules are needed.
    pub fn lacks_rules(&mut self, family: Family) -> Option<Refusal> {
        // A kernel that has the rules accepts them. Most starts are on a node that is served already, and a trial has
        // its price: other transactions wait for it, those that others began before it are refused, and hooks are
        // registered and removed. A table of another version proves nothing, nor does one that cannot be read.
        if self.tables.has_rules(family).unwrap_or(false) {
            return None;
        }
        probe::lack(self.tables.try_rules(family))
    }

    /// Checks that this kernel has what our rules of a family need, as [`LinuxKernel::lacks_rules`] does.
    ///
    /// # Errors
    /// What it refused, and how to come by what it lacks, in one line.
    pub fn check_rules(&mut self, family: Family) -> Result<(), Unusable> {
        self.lacks_rules(family).map_or(Ok(()), |refusal| Err(Unusable::of_rules(family, refusal)))
    }

    /// Why the kernel's IPVS does not know a family; `None`: it does, as far as can be told. It may have been built
    /// without IPv6 (`CONFIG_IP_VS_IPV6`), and then says so in answer to each question. Nothing is written.
    pub fn lacks_virtual_servers(&mut self, family: Family) -> Option<Refusal> {
        // A question about a virtual server that cannot exist: its address is nobody's.
        let key = VirtualServerKey {
            address: family.unspecified_address(),
            protocol: types::Protocol::Tcp,
            port: 1,
        };
        let error = self.ipvs.exists(&key).err()?;
        let refusal = Refusal::of(&error);
        refusal.is(Errno::AFNOSUPPORT).then_some(refusal)
    }

    /// Why this kernel cannot be asked for entries of connection tracking; `None`: it can, as far as can be told.
    /// Nothing is written, and the module for it is loaded, where the kernel can do that for us.
    pub fn lacks_conntrack_netlink(&mut self) -> Option<Refusal> {
        conntrack::lack(&mut self.conntrack)
    }

    /// Carries out steps for rtnetlink.
    fn apply_route(&mut self, steps: &[&Step]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Unknown; steps.len()];
        for (outcome, step) in outcomes.iter_mut().zip(steps) {
            if matches!(step, Step::AddDevice) {
                *outcome = link::add(&mut self.route);
            }
        }
        let on_device: Vec<usize> =
            (0..steps.len()).filter(|index| *steps[*index] != Step::AddDevice).collect();
        if on_device.is_empty() {
            return outcomes;
        }
        // Looked up each time: if somebody has removed and remade the device, it has another number.
        let device = match link::find(&mut self.route) {
            Ok(Some(link)) if link.is_dummy() => link.index,
            Ok(_) => {
                let text = format!("there is no dummy device {DEVICE}");
                return refuse(outcomes, &on_device, &Refusal { errno: Errno::NODEV.raw_os_error(), text });
            }
            Err(error) => {
                let text = format!("device {DEVICE}: {error}");
                return refuse(outcomes, &on_device, &Refusal { text, ..Refusal::of(&error) });
            }
        };
        let mut frames = Frames::new();
        let mut anew = Vec::new();
        for part in on_device.chunks(PART) {
            frames.clear();
            let mut sent = Vec::with_capacity(part.len());
            for &index in part {
                match steps[index] {
                    Step::AddAddress(address) => address::push_add(&mut frames, device, *address),
                    Step::EditAddress(address) => address::push_edit(&mut frames, device, *address),
                    Step::DeleteAddress(address) => address::push_delete(&mut frames, device, *address),
                    Step::AddRoute(IpAddr::V4(address)) => route::push_add(&mut frames, device, *address),
                    Step::AddRoute(address @ IpAddr::V6(_)) => {
                        anew.push((index, *address));
                        continue;
                    }
                    step => unreachable!("{} is not a step for rtnetlink", step.kind()),
                }
                sent.push(index);
            }
            for (index, verdict) in sent.into_iter().zip(self.route.batch(&mut frames)) {
                outcomes[index] = verdict.into();
            }
        }
        self.put_anew(device, &anew, &mut outcomes);
        outcomes
    }

    /// Takes IPv6 addresses off the device and puts them back, to restore their routes: see [`route`].
    fn put_anew(&mut self, device: u32, addresses: &[(usize, IpAddr)], outcomes: &mut [Outcome]) {
        let mut frames = Frames::new();
        for (_, address) in addresses {
            address::push_delete(&mut frames, device, *address);
        }
        let deleted = self.route.batch(&mut frames);
        frames.clear();
        let mut back = Vec::new();
        for ((index, address), verdict) in addresses.iter().zip(deleted) {
            outcomes[*index] = verdict.into();
            // An address whose removal is in doubt is put back too: at worst it already exists.
            if matches!(outcomes[*index], Outcome::Done | Outcome::Unknown) {
                address::push_add(&mut frames, device, *address);
                back.push(*index);
            }
        }
        for (index, verdict) in back.into_iter().zip(self.route.batch(&mut frames)) {
            // Removed and not put back: as with a lost verdict, the address has to be read again.
            outcomes[index] =
                if verdict == super::netlink::Verdict::Done { Outcome::Done } else { Outcome::Unknown };
        }
    }

    /// The number of the device; `None`: there is none that this program may use.
    fn device(&mut self) -> Result<Option<u32>, ReadError> {
        let link = link::find(&mut self.route).map_err(reading("the device kube-ipvs0"))?;
        Ok(link.filter(link::Link::is_dummy).map(|link| link.index))
    }

    fn read_addresses(&mut self, family: Family) -> Result<BTreeMap<IpAddr, Address>, ReadError> {
        let Some(device) = self.device()? else { return Ok(BTreeMap::new()) };
        let addresses = address::dump(&mut self.route, device, family).map_err(reading("the addresses"))?;
        let routes =
            route::dump(&mut self.route, device, family).map_err(reading("the routes of table local"))?;
        let mut unrouted: BTreeSet<IpAddr> =
            addresses.keys().filter(|address| !routes.contains(address)).copied().collect();
        let mut looks_in_vain = 0;
        loop {
            let before = unrouted.len();
            for address in unrouted.clone() {
                let exists = route::exists(&mut self.route, device, address);
                if exists.map_err(reading("the route of an address"))? {
                    unrouted.remove(&address);
                }
            }
            looks_in_vain = if unrouted.len() < before { 0 } else { looks_in_vain + 1 };
            if unrouted.is_empty() || family == Family::V4 || looks_in_vain > ROUTE_LOOKS {
                break;
            }
            // The kernel makes the route of a new IPv6 address a little later than the address.
            std::thread::sleep(ROUTE_PAUSE);
        }
        let whole = |(address, deprecated)| {
            let routed = !unrouted.contains(&address);
            (address, Address { deprecated, routed })
        };
        Ok(addresses.into_iter().map(whole).collect())
    }

    fn read_tables(&mut self, family: Family, state: &mut State) -> Result<(), ReadError> {
        let (rules, elements) = self.tables.read(family).map_err(reading("the nftables table"))?;
        state.rules.extend(rules.map(|rules| (family, rules)));
        state.elements.extend(elements);
        Ok(())
    }

    fn read_settings(&mut self, state: &mut State) -> Result<(), ReadError> {
        state.device = self.device()?.is_some();
        for sysctl in Sysctl::ALL {
            read_sysctl(sysctl, state)?;
        }
        state.timeouts = self.ipvs.timeouts().map_err(reading("the IPVS timeouts"))?;
        Ok(())
    }

    /// Reads single keys. No question about a single address or element is answered reliably, so all of its family are
    /// read, once, and the keys are picked from the result.
    fn read_keys(&mut self, keys: &Scope) -> Result<State, ReadError> {
        let mut state = State::default();
        let mut addresses: BTreeMap<Family, BTreeMap<IpAddr, Address>> = BTreeMap::new();
        let mut tables: BTreeMap<Family, State> = BTreeMap::new();
        for key in keys {
            match key {
                Key::Device => state.device = self.device()?.is_some(),
                Key::Sysctl(sysctl) => read_sysctl(*sysctl, &mut state)?,
                Key::Timeouts => {
                    state.timeouts = self.ipvs.timeouts().map_err(reading("the IPVS timeouts"))?;
                }
                Key::VirtualServer(key) => {
                    let server = self.ipvs.read(key).map_err(reading("a virtual server"))?;
                    state.virtual_servers.extend(server.map(|server| (*key, server)));
                }
                Key::Address(address) => {
                    let family = Family::of(*address);
                    if let Entry::Vacant(entry) = addresses.entry(family) {
                        entry.insert(self.read_addresses(family)?);
                    }
                    state.addresses.extend(addresses[&family].get(address).map(|value| (*address, *value)));
                }
                Key::Rules(_) | Key::Element(_) => {
                    let family = key.family().expect("rules and elements belong to a family");
                    if let Entry::Vacant(entry) = tables.entry(family) {
                        let mut whole = State::default();
                        self.read_tables(family, &mut whole)?;
                        entry.insert(whole);
                    }
                    let whole = &tables[&family];
                    match key {
                        Key::Element(element) => state.elements.extend(whole.elements.get(element)),
                        _ => state.rules.extend(whole.rules.clone()),
                    }
                }
            }
        }
        Ok(state)
    }
}

impl Kernel for LinuxKernel {
    fn apply(&mut self, plan: &Plan) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(plan.steps.len());
        while outcomes.len() < plan.steps.len() {
            let first = outcomes.len();
            let run = &plan.steps[first..end_of_run(plan, first)];
            let ready: Vec<Option<usize>> = run
                .iter()
                .map(|planned| {
                    planned.needs.iter().copied().find(|needed| outcomes[*needed] != Outcome::Done)
                })
                .collect();
            outcomes.extend(ready.iter().map(|missing| missing.map_or(Outcome::Unknown, Outcome::Skipped)));
            for via in Via::ALL {
                let indices: Vec<usize> = (0..run.len())
                    .filter(|index| ready[*index].is_none() && Via::of(&run[*index].step) == via)
                    .collect();
                if indices.is_empty() {
                    continue;
                }
                let steps: Vec<&Step> = indices.iter().map(|index| &run[*index].step).collect();
                let verdicts = match via {
                    Via::Sysctl => steps.iter().map(|step| set_sysctl(step)).collect(),
                    Via::Tables => self.tables.apply(&steps),
                    Via::Ipvs => self.ipvs.apply(&steps),
                    Via::Route => self.apply_route(&steps),
                };
                for (index, outcome) in indices.into_iter().zip(verdicts) {
                    outcomes[first + index] = outcome;
                }
            }
        }
        outcomes
    }

    fn read(&mut self, selection: &Selection) -> Result<State, ReadError> {
        let mut state = State::default();
        match selection {
            Selection::Keys(keys) => return self.read_keys(keys),
            Selection::Settings => self.read_settings(&mut state)?,
            Selection::Addresses(family) => state.addresses = self.read_addresses(*family)?,
            Selection::Tables(family) => self.read_tables(*family, &mut state)?,
            Selection::Everything => {
                self.read_settings(&mut state)?;
                for family in Family::ALL {
                    self.read_tables(family, &mut state)?;
                    state.addresses.extend(self.read_addresses(family)?);
                }
                state.virtual_servers = self.ipvs.read_all().map_err(reading("the virtual servers"))?;
            }
        }
        Ok(state)
    }

    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations {
        let mut table = |family| (family, self.tables.handle(family).map_err(reading("the nftables table")));
        let tables = Family::ALL.map(&mut table).into();
        let device = self.device();
        let mut addresses = BTreeMap::new();
        if let Ok(Some(device)) = device {
            for &address in &witnesses.addresses {
                let exists = route::exists(&mut self.route, device, address);
                addresses.insert(address, exists.map_err(reading("the route of an address")));
            }
        }
        let virtual_server = witnesses
            .virtual_server
            .as_ref()
            .map_or(Ok(false), |key| self.ipvs.exists(key).map_err(reading("a virtual server")));
        Foundations { device, tables, virtual_server, addresses }
    }

    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError> {
        Ok(self.ipvs.list().map_err(reading("the virtual servers"))?.into_keys().collect())
    }

    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError> {
        self.ipvs.connections(servers).map_err(reading("the connections of real servers"))
    }

    fn find_stale(&mut self, purge: &Purge) -> Found {
        conntrack::find(&mut self.conntrack, purge)
    }

    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged {
        conntrack::delete(&mut self.conntrack, entries)
    }
}

/// The end of the run of steps from `first` on that are carried out together: one phase, and the phases behind it as
/// long as all steps are for IPVS and none depends on the outcome of another one in the run. One system call carries
/// them out in order; the usual change, one endpoint for another, is two phases.
fn end_of_run(plan: &Plan, first: usize) -> usize {
    let phase_end = |start: usize| {
        let phase = plan.steps[start].phase;
        plan.steps[start..]
            .iter()
            .position(|step| step.phase != phase)
            .map_or(plan.steps.len(), |n| start + n)
    };
    let for_ipvs = |steps: &[PlannedStep]| steps.iter().all(|planned| Via::of(&planned.step) == Via::Ipvs);
    let mut end = phase_end(first);
    while end < plan.steps.len() && for_ipvs(&plan.steps[first..end]) {
        let next = &plan.steps[end..phase_end(end)];
        if !for_ipvs(next) || next.iter().flat_map(|planned| &planned.needs).any(|needed| *needed >= first) {
            break;
        }
        end += next.len();
    }
    end
}

fn set_sysctl(step: &Step) -> Outcome {
    match step {
        Step::SetSysctl(sysctl, value) => sysctl::write(*sysctl, value),
        step => unreachable!("{} is not a step for a kernel parameter", step.kind()),
    }
}

fn read_sysctl(sysctl: Sysctl, state: &mut State) -> Result<(), ReadError> {
    let value = sysctl::read(sysctl).map_err(reading("a kernel parameter"))?;
    state.sysctls.extend(value.map(|value| (sysctl, value)));
    Ok(())
}

fn refuse(mut outcomes: Vec<Outcome>, indices: &[usize], refusal: &Refusal) -> Vec<Outcome> {
    for index in indices {
        outcomes[*index] = Outcome::Refused(refusal.clone());
    }
    outcomes
}

fn reading(what: &'static str) -> impl FnOnce(io::Error) -> ReadError {
    move |source| ReadError { what, source }
}

#[cfg(test)]
mod tests;
