//! Takes over from kube-proxy on a node that goes on serving.
//!
//! Nothing is removed before our own rules are in place, and each table of iptables changes in one transaction: at no
//! moment does a packet lack masquerading, filtering, or the accept in FORWARD. (In iptables-nft the transaction covers
//! the jumps and the accept. The chains, to which nothing leads any more, are removed after it, over netlink.)
//!
//! 1. filter, with our accept in the same transaction that removes kube-proxy's: `KUBE-IPVS-FILTER` and its frozen sets
//!    would reject new Services (contract 15.10);
//! 2. the tables of the nftables mode, which likewise reject by frozen maps;
//! 3. nat and mangle: until here both may mark and masquerade the same traffic, which has the same effect as doing it
//!    once. Connections that the iptables mode translated stay translated, by conntrack;
//! 4. virtual servers of node ports that no Service has any more: kube-proxy's sets distinguish them from other
//!    people's;
//! 5. the ipsets, to which nothing refers any more.
//!
//! Whatever fails (a family whose rules are not in place yet, a lock of iptables that somebody holds) is tried again
//! each minute, until one attempt had no failure. If only programs are missing, the next attempt is made when they
//! appear or something else is seen to change. The sets of node ports stay as long as they are needed for this. Each
//! attempt reports what fails, for health and metrics.
//!
//! After that nothing of kube-proxy's is removed any more, only reported: see `back.rs` for why.
//!
//! `KUBE-MARK-MASQ` stays if it sets our bit of the packet mark, which our own table obeys: others use that chain, or
//! will.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::back::{Traces, traces};
use super::forward::{BUILT_IN, CHAIN, Ours};
use super::iptables::{self, FILTER, Iptables, TRANSLATION};
use super::names::NFTABLES_TABLE;
use super::report::{Finding, Report};
use super::sets::{delete_table, destroy_ipsets};
use super::tools::{Place, Tool, Variant};
use super::virtual_servers::{self, Which};
use crate::cluster::types::Family;
use crate::kernel::nft::Tables;
use crate::kernel::nft::whole_tables::{OUR_TABLE, WholeTables};
use crate::state::Rules;

/// How often the takeover is attempted, and how often it is checked whether somebody has set up iptables or started
/// kube-proxy again. So a Docker that is started later, and drops forwarded packets, is soon noticed; the check costs
/// some microseconds.
const PERIOD: Duration = Duration::from_mins(1);

/// How often it is checked whether another family has been written, as long as one has not.
const LOOK: Duration = Duration::from_secs(1);

/// Takes over until that is complete, then maintains the accept in FORWARD and watches for a kube-proxy that comes
/// back.
pub struct Takeover {
    mark: u32,
    families: BTreeSet<Family>,
    /// The families in which everything has been written once.
    written: Box<dyn Fn() -> BTreeSet<Family> + Send>,
    exclude_cidrs: Vec<IpNet>,
    /// The families in which everything had been written at the last attempt.
    tried: BTreeSet<Family>,
    /// Whether everything that kube-proxy left has been dealt with. What comes after that is not ours to remove.
    complete: bool,
    /// What of kube-proxy's stays because others use it; `None`: it could not be seen yet.
    kept: Option<Traces>,
    /// What kube-proxy has made since the takeover, as of the last time that could be seen.
    came: Vec<String>,
    /// Set if only programs were missing: what could be seen before the attempt, and what that attempt left undone.
    waiting: Option<(Vec<Visible>, Report)>,
    forward: ForwardWatch,
}

impl Takeover {
    /// A takeover that has not begun. `mark` is the bit of the packet mark that stands for "masquerade this";
    /// `families` are those in which this program has rules; virtual servers in the networks of `exclude_cidrs` stay.
    /// `written` returns those of these families in which everything has been written once: only there the rules tell
    /// what is stale.
    pub fn new(
        mark: u32,
        families: BTreeSet<Family>,
        exclude_cidrs: Vec<IpNet>,
        written: impl Fn() -> BTreeSet<Family> + Send + 'static,
    ) -> Self {
        let (written, forward) = (Box::new(written), ForwardWatch::new(mark));
        Self {
            mark,
            families,
            written,
            exclude_cidrs,
            tried: BTreeSet::new(),
            complete: false,
            kept: None,
            came: Vec::new(),
            waiting: None,
            forward,
        }
    }

    /// Does each minute what is to be done, and passes each result to `tell`; never returns. Must be called on a thread
    /// of its own in the network namespace of the node, after the first complete set was written.
    pub fn run(mut self, tell: impl Fn(&Report)) {
        let mut before = Report::default();
        loop {
            let report = self.attempt();
            report.log_news(&before);
            report.log_turn(&before, PERIOD);
            tell(&report);
            before = report;
            self.wait();
        }
    }

    /// Waits until the next attempt is due, which is soon after another family has been written.
    fn wait(&self) {
        if self.complete || self.families.is_subset(&self.tried) {
            return std::thread::sleep(PERIOD);
        }
        let end = Instant::now() + PERIOD;
        while Instant::now() < end && (self.written)() == self.tried {
            std::thread::sleep(LOOK);
        }
    }

    /// Takes over; once that is complete, maintains the accept in FORWARD and checks whether kube-proxy is back.
    pub fn attempt(&mut self) -> Report {
        if self.complete {
            let mut report = self.forward.look();
            self.look_for_kube_proxy(&mut report);
            return report;
        }
        // Before the attempt, so that a change during the attempt is noticed the next time.
        let now = visible().ok();
        if let (Some((then, report)), Some(now)) = (&self.waiting, &now)
            && then == now
        {
            return unchanged(report);
        }
        self.tried = (self.written)();
        let report = take_over(self.mark, &self.families, &self.tried, &self.exclude_cidrs);
        self.complete = report.is_complete();
        // If nothing was kept, everything was removed: whatever is seen from now on is new, even if it came a moment
        // ago.
        self.kept = if report.has_kept() { traces().ok() } else { Some(Traces::new()) };
        let waits = !self.complete && !report.is_worth_another_try();
        self.waiting = now.filter(|_| waits).map(|now| (now, report.clone().out_of_reach_only()));
        report
    }

    /// Reports what kube-proxy made after the takeover.
    fn look_for_kube_proxy(&mut self, report: &mut Report) {
        match traces() {
            Ok(now) => {
                let kept = self.kept.get_or_insert_with(|| now.clone());
                // A trace that was gone in between was made anew.
                kept.retain(|trace| now.contains(trace));
                self.came = now.difference(kept).cloned().collect();
            }
            Err(error) => report.failed("what can be seen of kube-proxy", error),
        }
        report.back(&self.came);
    }
}

/// Removes what kube-proxy left, and makes the accept in FORWARD if it is needed. `families` are those in which this
/// program has rules, `written` those of them in which everything is written; virtual servers in the networks of
/// `exclude_cidrs` stay.
pub fn take_over(
    mark: u32,
    families: &BTreeSet<Family>,
    written: &BTreeSet<Family>,
    exclude_cidrs: &[IpNet],
) -> Report {
    let mut report = Report::default();
    let mut nftables = match WholeTables::open() {
        Ok(nftables) => nftables,
        Err(error) => {
            report.failed("nftables", error);
            return report;
        }
    };
    let ready = ready(families, written, &mut report);
    let ours = Ours::Stays { mark };
    let mut iptables = Iptables::look(&mut nftables, ours, &mut report);
    iptables.change(&mut nftables, FILTER, &ready, ours, &mut report);
    for family in &ready {
        delete_table(&mut nftables, *family, NFTABLES_TABLE, &mut report);
    }
    iptables.change(&mut nftables, TRANSLATION, &ready, ours, &mut report);
    // Only the rules of a complete sync tell which node ports are wanted now.
    let node_ports_are_gone = ready.len() == Family::ALL.len()
        && virtual_servers::remove(Which::StaleNodePorts(families), exclude_cidrs, &mut report);
    destroy_ipsets(&ready, node_ports_are_gone, &mut report);
    report
}

/// The families whose leftovers may be removed: those in which everything has been written and our own rules are
/// intact. A family that the kernel lacks is among them, as it cannot have connections either.
fn ready(families: &BTreeSet<Family>, written: &BTreeSet<Family>, report: &mut Report) -> BTreeSet<Family> {
    let mut ready: BTreeSet<Family> = Family::ALL.into_iter().collect();
    let mut tables = match Tables::open() {
        Ok(tables) => tables,
        Err(error) => {
            report.failed("what kube-proxy may have left: our own rules", error);
            return BTreeSet::new();
        }
    };
    for family in families {
        if !written.contains(family) {
            report.failed(
                format!("what kube-proxy may have left of {family}"),
                "the first complete sync of kube-ipvs has not finished",
            );
            ready.remove(family);
            continue;
        }
        let why = match tables.read(*family) {
            Ok((Some(Rules::Intact(_)), _)) => continue,
            Ok((Some(Rules::Other(why)), _)) => why,
            Ok((None, _)) => "they are not there".to_owned(),
            Err(error) => error.to_string(),
        };
        report.failed(
            format!(
                "what kube-proxy may have left of {family}: table {OUR_TABLE} comes first, and is not whole"
            ),
            why,
        );
        ready.remove(family);
    }
    ready
}

/// Maintains the accept in FORWARD. The programs of iptables are used only when something has changed that can be seen
/// without them.
#[derive(Debug)]
pub struct ForwardWatch {
    mark: u32,
    /// What could be seen at the last look that left nothing to do, except for lack of programs; and its report, which
    /// names what is missing. `None`: there was no such look yet.
    known: Option<(Vec<Visible>, Report)>,
}

impl ForwardWatch {
    /// A watch that knows nothing yet: its first look starts programs if iptables has tables.
    pub fn new(mark: u32) -> Self {
        Self { mark, known: None }
    }

    /// Looks, and makes the accept if it is needed now.
    pub fn look(&mut self) -> Report {
        let mut report = Report::default();
        // Before iptables is looked at, so that a change during the look is noticed the next time.
        let now = match visible() {
            Ok(now) => now,
            Err(error) => {
                report.failed("what can be seen of iptables", error);
                return report;
            }
        };
        if let Some((then, report)) = &self.known
            && *then == now
        {
            return unchanged(report);
        }
        match WholeTables::open() {
            Ok(mut nftables) => {
                let ours = Ours::Stays { mark: self.mark };
                let mut iptables = Iptables::look(&mut nftables, ours, &mut report);
                iptables.change(&mut nftables, FILTER, &BTreeSet::new(), ours, &mut report);
            }
            Err(error) => report.failed("nftables", error),
        }
        // After a failure, and once after something was made, the next look uses the programs again.
        let lasts = |finding: &Finding| matches!(finding, Finding::OutOfReach { .. });
        let is_known = report.findings.iter().all(lasts);
        self.known = is_known.then(|| (now, report.clone()));
        report
    }
}

/// The report of an earlier look, since when nothing has changed that [`Visible`] shows. Only dropped replies are
/// checked again: somebody's rule that accepts them may be in any chain.
fn unchanged(report: &Report) -> Report {
    let mut report = report.clone();
    if !report.drops_replies.is_empty() {
        match WholeTables::open() {
            Ok(mut nftables) => iptables::look_at_all_replies(&mut nftables, &mut report),
            Err(error) => report.failed("nftables", error),
        }
    }
    report
}

/// What can be seen of the iptables of one place without a program. The policy and the rules of iptables-legacy cannot
/// be seen; but whoever sets it up later first makes its table. (Docker drops forwarded packets only if forwarding was
/// off before Docker started, and this program switches it on.)
#[derive(Debug, PartialEq, Eq)]
struct Visible {
    /// Which tables exist.
    tables: Vec<String>,
    /// Whether there may be programs for them.
    has_programs: bool,
    /// For iptables-nft, whether the policy of FORWARD is DROP.
    drops: bool,
    /// For iptables-nft, the rules of FORWARD and of our chain, by their handles. These matter because a flush leaves
    /// the chains and the policy as they were, and a last rule can drop just as a policy does.
    rules: Vec<u64>,
}

/// What can be seen of all places.
fn visible() -> io::Result<Vec<Visible>> {
    let mut nftables = WholeTables::open()?;
    let look = |place: Place| {
        let tables = iptables::tables_in_use(place, &mut nftables)?;
        let (mut drops, mut rules) = (false, Vec::new());
        if place.variant == Variant::Nft {
            let forward = nftables.chain(place.family, "filter", BUILT_IN)?;
            drops = forward.is_some_and(|chain| chain.drops);
            for chain in [BUILT_IN, CHAIN] {
                rules.extend(nftables.handles(place.family, "filter", chain)?);
            }
        }
        let has_programs = !tables.is_empty() && Tool::may_be_there(place);
        Ok(Visible { tables, has_programs, drops, rules })
    };
    Place::all().map(look).collect()
}
