//! Removes kube-proxy's ipsets and nftables tables.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::report::Report;
use super::{names, node_ports};
use crate::cluster::types::Family;
use crate::kernel::Outcome;
use crate::kernel::ipset::IpSets;
use crate::kernel::nft::whole_tables::WholeTables;

/// How many attempts are made to destroy a set that rules refer to, and the pause between them. The kernel releases
/// what a rule of iptables-nft referred to only a little after the rule is gone, and no call waits for that.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Destroys kube-proxy's ipsets of these families. The sets that tell which virtual servers are its node ports are
/// destroyed only if those virtual servers are gone. Sets that rules still refer to stay and are named.
pub(super) fn destroy_ipsets(families: &BTreeSet<Family>, node_ports_are_gone: bool, report: &mut Report) {
    let (mut sets, mut left) = match chosen(families, node_ports_are_gone) {
        Ok(Some(chosen)) => chosen,
        Ok(None) => return,
        Err(error) => return report.failed("ipsets", error),
    };
    let mut removed = Vec::new();
    let mut attempt = 1;
    while !left.is_empty() {
        let mut in_use = Vec::new();
        for (outcome, name) in sets.destroy(&left).into_iter().zip(left) {
            match outcome {
                Outcome::Done => removed.push(name),
                Outcome::Refused(refusal) if is_absence(refusal.errno) => {}
                Outcome::Refused(refusal) if refusal.errno == IpSets::IN_USE => {
                    if attempt < ATTEMPTS {
                        in_use.push(name);
                    } else {
                        report.kept(format!("ipset {name}"), refusal.text);
                    }
                }
                outcome => report.failed(format!("ipset {name}"), why(&outcome)),
            }
        }
        left = in_use;
        if !left.is_empty() {
            attempt += 1;
            thread::sleep(PAUSE);
        }
    }
    report.removed("ipsets", removed);
}

/// Reports which ipsets of these families [`destroy_ipsets`] would destroy, unless other programs' rules refer to them.
pub(super) fn foresee_ipsets(families: &BTreeSet<Family>, report: &mut Report) {
    match chosen(families, true) {
        Ok(found) => {
            let names = found.map(|(_, names)| names).unwrap_or_default();
            report.removed("ipsets", names);
        }
        Err(error) => report.failed("ipsets", error),
    }
}

/// kube-proxy's ipsets of these families. `None`: the kernel has no ipsets.
fn chosen(
    families: &BTreeSet<Family>,
    node_ports_are_gone: bool,
) -> io::Result<Option<(IpSets, Vec<String>)>> {
    let Some(mut sets) = IpSets::open()? else { return Ok(None) };
    let of_family = |name: &str| if name.starts_with("KUBE-6-") { Family::V6 } else { Family::V4 };
    let goes = |name: &String| {
        names::is_set(name)
            && families.contains(&of_family(name))
            && (node_ports_are_gone || !node_ports::is_set(name))
    };
    let names = sets.names()?.into_iter().filter(goes).collect();
    Ok(Some((sets, names)))
}

/// Reports the table that [`delete_table`] would delete, if it exists.
pub(super) fn foresee_table(tables: &mut WholeTables, family: Family, table: &str, report: &mut Report) {
    match tables.exists(family, table) {
        Ok(false) => {}
        Ok(true) => report.removed("nftables tables", vec![name_of(family, table)]),
        Err(error) => report.failed(format!("nftables table {}", name_of(family, table)), error),
    }
}

/// The name of an nftables table with its family, as nft writes both.
pub(super) fn name_of(family: Family, table: &str) -> String {
    match family {
        Family::V4 => format!("ip {table}"),
        Family::V6 => format!("ip6 {table}"),
    }
}

/// Deletes an nftables table, if it exists.
pub(super) fn delete_table(tables: &mut WholeTables, family: Family, table: &str, report: &mut Report) {
    let name = name_of(family, table);
    match tables.exists(family, table) {
        Ok(false) => return,
        Ok(true) => {}
        Err(error) => return report.failed(format!("nftables table {name}"), error),
    }
    match tables.delete(family, table) {
        Outcome::Done => report.removed("nftables tables", vec![name]),
        Outcome::Refused(refusal) if is_absence(refusal.errno) => {}
        outcome => report.failed(format!("nftables table {name}"), why(&outcome)),
    }
}

/// Whether a refusal means that the object to be removed does not exist.
pub(super) fn is_absence(errno: i32) -> bool {
    // ipset has error numbers of its own, which are larger than `Errno` can hold.
    [Errno::NOENT, Errno::SRCH, Errno::NODEV].map(Errno::raw_os_error).contains(&errno)
}

/// Why a step was not done.
pub(super) fn why(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "it was done".to_owned(),
        Outcome::Refused(refusal) => refusal.text.clone(),
        Outcome::Unknown | Outcome::Skipped(_) => "the kernel's answer was lost".to_owned(),
    }
}
