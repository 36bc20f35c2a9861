//! Carries out plans on the tables of iptables: both variants, both families.

use std::collections::BTreeSet;
use std::io;

use super::forward::{self, Ours};
use super::iptables_save::Table;
use super::names;
use super::plan::{self, Plan, plan};
use super::report::Report;
use super::seen;
use super::sets::why;
use super::tools::{Place, Tool, Variant};
use crate::cluster::types::Family;
use crate::kernel::Outcome;
use crate::kernel::nft::whole_tables::WholeTables;

/// Of the tables that kube-proxy uses, the one that is changed first: `KUBE-IPVS-FILTER` knows the Services of the day
/// on which kube-proxy ended, and by itself rejects newer ones; what is left in nat only repeats what our own rules do.
pub(super) const FILTER: &[&str] = &["filter"];
/// The other tables that kube-proxy uses.
pub(super) const TRANSLATION: &[&str] = &["nat", "mangle"];

/// How often changing a table is attempted: it may have changed between the look and the write.
const ATTEMPTS: usize = 3;
/// Likewise for a table that is not printed, where one more attempt first makes the accept, if it is needed.
const UNPRINTED_ATTEMPTS: usize = ATTEMPTS + 1;

/// The iptables that have tables, and their programs.
#[derive(Debug)]
pub(super) struct Iptables {
    found: Vec<(Place, Tool, Vec<Table>)>,
    /// Tables that exist but that the program does not print.
    unprinted: Vec<(Place, Tool, String)>,
}

impl Iptables {
    /// Looks at all of them. Programs are started only for those that have tables. What cannot be looked at, because
    /// its programs are missing or fail, is reported.
    pub(super) fn look(nftables: &mut WholeTables, ours: Ours, report: &mut Report) -> Self {
        let (mut found, mut unprinted) = (Vec::new(), Vec::new());
        for place in Place::all() {
            match tables_in_use(place, nftables) {
                Ok(tables) if tables.is_empty() => {}
                Ok(tables) => match Tool::find(place) {
                    Some(tool) => match tool.save() {
                        Ok(saved) => {
                            let missing = |table: &String| !saved.iter().any(|saved| saved.name == *table);
                            for table in tables.into_iter().filter(missing) {
                                unprinted.push((place, tool.clone(), table));
                            }
                            found.push((place, tool, saved));
                        }
                        Err(error) => {
                            report.failed(format!("{place}"), error);
                            look_at_replies(place, nftables, report);
                        }
                    },
                    None => without_programs(place, &tables, nftables, ours, report),
                },
                Err(error) => report.failed(format!("{place}"), error),
            }
        }
        Self { found, unprinted }
    }

    /// Whether each of these chains of this family has rules, all in the same one of the two iptables. For iptables-nft
    /// this is seen without its programs, which do not print every table.
    pub(super) fn have_rules(
        &self,
        nftables: &mut WholeTables,
        family: Family,
        table: &str,
        chains: &[&str],
    ) -> io::Result<bool> {
        let is_legacy = |place: &Place| *place == Place { variant: Variant::Legacy, family };
        let legacy = self.found.iter().filter(|(place, ..)| is_legacy(place)).flat_map(|(_, _, saved)| saved);
        let mut legacy = legacy.filter(|saved| saved.name == table);
        if legacy.any(|table| chains.iter().all(|chain| table.rules_of(chain).next().is_some())) {
            return Ok(true);
        }
        if !nftables.exists(family, table)? {
            return Ok(false);
        }
        let rules = nftables.contents(family, table)?.rules;
        Ok(chains.iter().all(|chain| rules.iter().any(|rule| rule.chain == *chain)))
    }

    /// Changes these tables wherever they exist; kube-proxy's chains are removed in the families `kube_proxys`.
    pub(super) fn change(
        &mut self,
        nftables: &mut WholeTables,
        tables: &[&str],
        kube_proxys: &BTreeSet<Family>,
        ours: Ours,
        report: &mut Report,
    ) {
        for (place, tool, saved) in &mut self.found {
            let kube_proxys = kube_proxys.contains(&place.family);
            for table in tables {
                match change_table(nftables, *place, (tool, saved), table, kube_proxys, ours) {
                    Ok(Some(plan)) => tell(*place, plan, report),
                    Ok(None) => {}
                    Err(error) => {
                        report.failed(format!("{place} {table}"), error);
                        if saved.iter().any(|saved| saved.name == *table && forward::drops_replies(saved)) {
                            report.drops_replies.push(place.to_string());
                        }
                    }
                }
            }
        }
        for (place, tool, table) in self.unprinted.iter().filter(|(_, _, table)| tables.contains(&&**table)) {
            let kube_proxys = kube_proxys.contains(&place.family);
            let changed = match place.variant {
                // The tables of this variant are those that its program prints. This one may have come or gone just
                // now.
                Variant::Legacy => Err(format!("{place}-save does not print it")),
                Variant::Nft => change_unprinted(nftables, place.family, tool, table, kube_proxys, ours),
            };
            match changed {
                Ok(plan) => tell(*place, plan, report),
                Err(why) => {
                    report.failed(format!("{place} {table}"), why);
                    if tables.contains(&"filter") {
                        look_at_replies(*place, nftables, report);
                    }
                }
            }
        }
    }

    /// Reports what [`Iptables::change`] would change, and changes nothing.
    pub(super) fn foresee(
        &self,
        nftables: &mut WholeTables,
        tables: &[&str],
        kube_proxys: &BTreeSet<Family>,
        ours: Ours,
        report: &mut Report,
    ) {
        for (place, _, saved) in &self.found {
            let kube_proxys = kube_proxys.contains(&place.family);
            for table in saved.iter().filter(|table| tables.contains(&&*table.name)) {
                tell(*place, plan(table, kube_proxys, ours), report);
            }
        }
        for (place, _, table) in self.unprinted.iter().filter(|(_, _, table)| tables.contains(&&**table)) {
            let kube_proxys = kube_proxys.contains(&place.family);
            match place.variant {
                Variant::Legacy => {
                    report.failed(format!("{place} {table}"), format!("{place}-save does not print it"));
                }
                Variant::Nft => match nftables.contents(place.family, table) {
                    Ok(contents) => {
                        tell(*place, plan(&seen::table(table, &contents), kube_proxys, ours), report);
                    }
                    Err(error) => report.failed(format!("{place} {table}"), error),
                },
            }
        }
    }
}

/// Changes a table, and returns what was changed; `None`: the table does not exist.
fn change_table(
    nftables: &mut WholeTables,
    place: Place,
    (tool, saved): (&Tool, &mut Vec<Table>),
    name: &str,
    kube_proxys: bool,
    ours: Ours,
) -> Result<Option<Plan>, String> {
    let mut attempt = 1;
    loop {
        let Some(table) = saved.iter().find(|table| table.name == name) else { return Ok(None) };
        let plan = plan(table, kube_proxys, ours);
        if plan.is_empty() {
            return Ok(Some(plan));
        }
        let changed = match place.variant {
            Variant::Legacy => tool.restore(&plan.input()).map_err(|error| error.to_string()),
            Variant::Nft => change_nft(nftables, place.family, tool, &plan),
        };
        match changed {
            Ok(()) => return Ok(Some(plan)),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            // Somebody may have changed the table since it was looked at.
            Err(error) => {
                *saved = tool.save().map_err(|error| error.to_string())?;
                if !saved.iter().any(|table| table.name == name) {
                    // The table is gone, or no longer printed: the next look will tell.
                    return Err(error);
                }
            }
        }
        attempt += 1;
    }
}

/// Carries out a plan on a table of iptables-nft: first the accept and the jumps in one transaction, by the program;
/// then the chains, to which nothing leads any more, without it. For some 25,000 chains the program takes minutes, and
/// if kube-proxy served some 5,000 Services in its mode iptables, longer than it is waited for; the kernel takes a
/// second.
fn change_nft(nftables: &mut WholeTables, family: Family, tool: &Tool, plan: &Plan) -> Result<(), String> {
    let rules = Plan { chains: Vec::new(), ..plan.clone() };
    if !rules.is_empty() {
        tool.restore(&rules.input()).map_err(|error| error.to_string())?;
    }
    match nftables.remove_chains(family, &plan.table, &plan.chains) {
        Outcome::Done => Ok(()),
        outcome => Err(format!("{} chains: {}", plan.chains.len(), why(&outcome))),
    }
}

/// Changes a table that the program does not print, and returns what was changed.
///
/// The program can still add the accept, and that comes first. It may be unable to delete a rule, since for that it
/// reads all rules of the chain; so the kernel is told to delete the rule by its handle.
fn change_unprinted(
    nftables: &mut WholeTables,
    family: Family,
    tool: &Tool,
    name: &str,
    kube_proxys: bool,
    ours: Ours,
) -> Result<Plan, String> {
    let mut accept = Vec::new();
    let mut attempt = 1;
    loop {
        let contents = nftables.contents(family, name).map_err(|error| error.to_string())?;
        let mut plan = plan(&seen::table(name, &contents), kube_proxys, ours);
        let failed = if !plan.accept.is_empty() {
            accept.clone_from(&plan.accept);
            let only = Plan { table: name.to_owned(), accept: plan.accept, ..Plan::default() };
            tool.restore(&only.input()).map_err(|error| error.to_string())?;
            "the accept in FORWARD was added, but is missing when the table is read back".to_owned()
        } else if plan.is_empty() {
            plan.accept = accept;
            return Ok(plan);
        } else {
            let jumps: Vec<_> = contents
                .rules
                .iter()
                .filter(|rule| plan.jumps.contains(&plan::text(&seen::rule(rule))))
                .collect();
            match nftables.remove(family, name, &contents, &jumps, &plan.chains) {
                Outcome::Done => {
                    plan.accept = accept;
                    return Ok(plan);
                }
                // EBUSY: something that is not seen here refers to a chain, such as an element of a map.
                outcome => format!("chains {}: {}", plan.chains.join(", "), why(&outcome)),
            }
        };
        // Nothing was removed. Somebody may have changed the table since it was looked at.
        if attempt == UNPRINTED_ATTEMPTS {
            return Err(failed);
        }
        attempt += 1;
    }
}

fn tell(place: Place, plan: Plan, report: &mut Report) {
    let table = plan.table;
    if !plan.accept.is_empty() {
        report.added(format!("{place} {table}: accept rule for Service traffic in FORWARD"));
    }
    report.removed(format!("{place} {table} jumps"), plan.jumps);
    report.removed(format!("{place} {table} chains"), plan.chains);
    report.lost(format!("{place} {table} INPUT"), plan.lost);
    for (chain, user) in plan.kept {
        report.kept(format!("{place} {table} chain {chain}"), format!("it is used by {user}"));
    }
}

/// The tables that exist at a place and that kube-proxy may have used, found out without a program.
pub(super) fn tables_in_use(place: Place, nftables: &mut WholeTables) -> io::Result<Vec<String>> {
    let known = |table: &str| FILTER.contains(&table) || TRANSLATION.contains(&table);
    match place.variant {
        Variant::Legacy => {
            // Of the thread, as the sockets are; /proc/net is that of the process.
            let names = match place.family {
                Family::V4 => "/proc/thread-self/net/ip_tables_names",
                Family::V6 => "/proc/thread-self/net/ip6_tables_names",
            };
            let names = match std::fs::read_to_string(names) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                names => names?,
            };
            Ok(names.lines().filter(|name| known(name)).map(str::to_owned).collect())
        }
        Variant::Nft => {
            let mut tables = Vec::new();
            for name in FILTER.iter().chain(TRANSLATION) {
                if nftables.exists(place.family, name)? {
                    tables.push((*name).to_owned());
                }
            }
            Ok(tables)
        }
    }
}

/// Names what is left because no program can remove it. The chains of iptables-nft can be seen over netlink; whether
/// iptables-legacy has any cannot.
fn without_programs(
    place: Place,
    tables: &[String],
    nftables: &mut WholeTables,
    ours: Ours,
    report: &mut Report,
) {
    let why = format!("there are no programs {place}-save and {place}-restore");
    match place.variant {
        Variant::Legacy => {
            report.out_of_reach(format!("{place}: what may be in its tables {}", tables.join(", ")), why);
        }
        Variant::Nft => match nftables.chains(place.family) {
            Ok(chains) => {
                let left: Vec<String> = chains
                    .iter()
                    .filter(|chain| match ours {
                        Ours::Goes => {
                            names::is_chain(&chain.table, &chain.name)
                                || forward::is_ours(&chain.table, &chain.name)
                        }
                        // The chain for marking stays: whether it sets another bit than ours cannot be seen here.
                        Ours::Stays { .. } => {
                            names::is_chain(&chain.table, &chain.name) && chain.name != names::MARK
                        }
                    })
                    .map(|chain| format!("{} {}", chain.table, chain.name))
                    .collect();
                if !left.is_empty() {
                    report.out_of_reach(format!("{place} chains {}", left.join(", ")), &why);
                }
                match filter(place, nftables) {
                    Ok(Some(table)) => {
                        if let Ours::Stays { mark } = ours
                            && !forward::missing(&table, mark).is_empty()
                        {
                            let accept = format!("{place}: an accept in FORWARD, which drops the rest");
                            report.out_of_reach(accept, why);
                        }
                        tell_dropped_replies(place, &table, report);
                    }
                    Ok(None) => {}
                    Err(error) => report.failed(format!("{place} {}", FILTER[0]), error),
                }
            }
            Err(error) => report.failed(format!("{place}"), error),
        },
    }
}

/// Checks again in which iptables-nft FORWARD drops the replies of endpoints.
pub(super) fn look_at_all_replies(nftables: &mut WholeTables, report: &mut Report) {
    report.drops_replies.clear();
    for place in Place::all() {
        look_at_replies(place, nftables, report);
    }
}

/// Reports it if FORWARD drops the replies of endpoints, as far as that can be seen without a program: for
/// iptables-nft.
fn look_at_replies(place: Place, nftables: &mut WholeTables, report: &mut Report) {
    if place.variant != Variant::Nft {
        return;
    }
    // A failure to read has been reported, or will be: the next look is a minute away.
    if let Ok(Some(table)) = filter(place, nftables) {
        tell_dropped_replies(place, &table, report);
    }
}

fn tell_dropped_replies(place: Place, table: &Table, report: &mut Report) {
    if forward::drops_replies(table) {
        report.drops_replies.push(place.to_string());
    }
}

/// Table filter of iptables-nft, as far as it can be seen without a program; `None`: it does not exist.
fn filter(place: Place, nftables: &mut WholeTables) -> io::Result<Option<Table>> {
    const NAME: &str = FILTER[0];
    if !nftables.exists(place.family, NAME)? {
        return Ok(None);
    }
    Ok(Some(seen::table(NAME, &nftables.contents(place.family, NAME)?)))
}
