//! `--cleanup` and `--cleanup-own`: for a node that is to have no service proxy, or one that somebody else takes back.
//!
//! Both are complete in one run, and find nothing in a second one; `--cleanup-own-stay` is the run of `--cleanup-own`,
//! again and again. The API server is not asked.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;

use super::forward::Ours;
use super::iptables::{FILTER, Iptables, TRANSLATION};
use super::names::{self, NFTABLES_TABLE, POSTROUTING, SERVICES};
use super::report::Report;
use super::running;
use super::sets::{delete_table, destroy_ipsets, is_absence, why};
use super::virtual_servers::{self, Which};
use crate::cluster::types::Family;
use crate::kernel::ipset::IpSets;
use crate::kernel::netlink::{Protocol, Socket};
use crate::kernel::nft::whole_tables::{OUR_TABLE, WholeTables};
use crate::kernel::{Outcome, link};
use crate::state::DEVICE;

/// What a cleanup that may not begin yet reports as not done.
const CLEANUP: &str = "cleanup";

/// The way back (`--cleanup-own`): removes our nftables tables and the accept in FORWARD. `kube-ipvs0` and all virtual
/// servers stay, for the kube-proxy that has them now.
///
/// Nothing is removed, and the report says why, as long as this program runs, or kube-proxy has no rules in a family in
/// which we have some: without the rules of either, traffic from outside the pods' network would reach pods without
/// masquerading, and FORWARD might drop the replies.
pub fn clean_own() -> Report {
    let mut report = Report::default();
    // This comes first, so that a missing permission is reported while this program still serves, and not after it has
    // ended.
    let asked = WholeTables::open()
        .and_then(|mut nftables| nftables.exists(Family::V4, OUR_TABLE).map(|_is_there| nftables));
    let mut nftables = match asked {
        Ok(nftables) => nftables,
        Err(error) => {
            report.failed("nftables", error);
            return report;
        }
    };
    if runs(&mut report) {
        return report;
    }
    let iptables = Iptables::look(&mut nftables, Ours::Goes, &mut report);
    let missing = match missing_rules(&iptables, &mut nftables) {
        Ok(missing) => missing,
        Err(error) => {
            report.failed("nftables", error);
            return report;
        }
    };
    if !missing.is_empty() {
        let families = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        report.failed(
            CLEANUP,
            format!(
                "kube-proxy has no rules of its own for {families} on this node, which it writes in its first sync \
                 (for a node without service proxy there is --cleanup)"
            ),
        );
    }
    // Checked again: the look has taken its time, and with `--cleanup-own-stay` this program may start at any moment.
    if !report.is_worth_another_try() && !runs(&mut report) {
        // The virtual servers stay for kube-proxy, which recognizes them by the device.
        clean_filters(iptables, nftables, &BTreeSet::new(), Proofs::Go, &mut report);
    }
    report
}

/// Whether at least one of our nftables tables exists; `true` if that is unknown. Of everything that [`clean_own`]
/// removes, the tables are made first and removed last.
pub fn has_own_tables() -> bool {
    let exists = || -> io::Result<bool> {
        let mut nftables = WholeTables::open()?;
        for family in Family::ALL {
            if nftables.exists(family, OUR_TABLE)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    exists().unwrap_or(true)
}

/// Whether kube-proxy, in whatever mode it is, maintains the device and the virtual servers, which it shares with us:
/// only its ipvs mode does, and only that mode has ipsets.
pub fn kube_proxy_has_sets() -> bool {
    let names = IpSets::open().and_then(|sets| sets.map_or(Ok(Vec::new()), |mut sets| sets.names()));
    names.is_ok_and(|names| names.iter().any(|name| names::is_set(name)))
}

/// Whether the device exists, which [`clean_own`] leaves in place.
pub fn has_device() -> bool {
    Socket::open(Protocol::Route)
        .and_then(|mut route| link::find(&mut route))
        .is_ok_and(|device| device.is_some())
}

/// Whether this program runs on the node; `false` if that is unknown.
pub fn is_running() -> bool {
    running::is_running().unwrap_or(false)
}

/// Whether this program runs, or may run because that is unknown; either is reported as a failure.
fn runs(report: &mut Report) -> bool {
    match running::is_running() {
        Ok(false) => return false,
        Ok(true) => {
            report.failed(CLEANUP, "kube-ipvs runs on this node and would write it again: stop it first");
        }
        Err(error) => report.failed("the list of Unix sockets", error),
    }
    true
}

/// The families in which our rules exist and kube-proxy's do not. If neither has rules in any family, IPv4 counts as
/// missing: a kube-proxy that has not begun must not be taken for one that has nothing to do. If only kube-proxy has
/// rules, as on a node that has not switched yet, nothing is missing, and there is nothing to remove.
fn missing_rules(iptables: &Iptables, nftables: &mut WholeTables) -> io::Result<Vec<Family>> {
    let (mut missing, mut standing) = (Vec::new(), false);
    for family in Family::ALL {
        // In the modes iptables and ipvs, both chains are empty until the first sync has written everything, and have
        // rules from then on, whatever Services there are. The chain that masquerades is not enough by itself: kubelet
        // before 1.27 makes it, too. In mode nftables, one transaction makes the table with everything in it.
        if iptables.have_rules(nftables, family, "nat", &[POSTROUTING, SERVICES])?
            || nftables.exists(family, NFTABLES_TABLE)?
        {
            standing = true;
        } else if nftables.exists(family, OUR_TABLE)? {
            missing.push(family);
        }
    }
    if missing.is_empty() && !standing {
        missing.push(Family::V4);
    }
    Ok(missing)
}

/// Removes everything of ours and of kube-proxy, whatever its mode was (`--cleanup`, contract 6.8). Virtual servers in
/// the networks of `exclude_cidrs` stay, and so do those of others. Nothing is removed while this program runs.
pub fn clean_all(exclude_cidrs: &[IpNet]) -> Report {
    let mut report = Report::default();
    if runs(&mut report) {
        return report;
    }
    // The virtual servers go before the device: while the node has a service address without a virtual server, packets
    // to it are refused; in the opposite order they would leave the node.
    let servers = virtual_servers::remove(Which::All, exclude_cidrs, &mut report);
    let proofs = if servers { Proofs::Go } else { Proofs::Stay };
    match proofs {
        Proofs::Go => remove_device(&mut report),
        Proofs::Stay if has_device() || has_own_tables() => report.kept(
            format!("device {DEVICE} and nftables tables {OUR_TABLE}"),
            "they tell which of the remaining virtual servers are ours: run --cleanup again",
        ),
        Proofs::Stay => {}
    }
    let both = Family::ALL.into_iter().collect();
    match WholeTables::open() {
        Ok(mut nftables) => {
            let iptables = Iptables::look(&mut nftables, Ours::Goes, &mut report);
            clean_filters(iptables, nftables, &both, proofs, &mut report);
        }
        Err(error) => report.failed("nftables", error),
    }
    destroy_ipsets(&both, servers, &mut report);
    report
}

/// What happens to the proofs of whose a virtual server is: its address on the device, or its key in our tables. If
/// virtual servers could not be removed in this run, the next run needs these proofs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proofs {
    Go,
    Stay,
}

/// Removes our nftables tables and our accept, and kube-proxy's tables and chains in these families.
fn clean_filters(
    mut iptables: Iptables,
    mut nftables: WholeTables,
    kube_proxys: &BTreeSet<Family>,
    proofs: Proofs,
    report: &mut Report,
) {
    iptables.change(&mut nftables, FILTER, kube_proxys, Ours::Goes, report);
    iptables.change(&mut nftables, TRANSLATION, kube_proxys, Ours::Goes, report);
    for family in Family::ALL.into_iter().filter(|_| proofs == Proofs::Go) {
        delete_table(&mut nftables, family, OUR_TABLE, report);
    }
    for family in kube_proxys {
        delete_table(&mut nftables, *family, NFTABLES_TABLE, report);
    }
}

fn remove_device(report: &mut Report) {
    let found = Socket::open(Protocol::Route).and_then(|mut route| Ok((link::find(&mut route)?, route)));
    let (device, mut route) = match found {
        Ok((None, _)) => return,
        Ok((Some(device), route)) => (device, route),
        Err(error) => return report.failed(format!("device {DEVICE}"), error),
    };
    if !device.is_dummy() {
        return report
            .kept(format!("device {DEVICE}"), "it is not a dummy, so it is neither ours nor kube-proxy's");
    }
    match link::delete(&mut route, device.index) {
        Outcome::Done => report.removed("devices", vec![DEVICE.to_owned()]),
        Outcome::Refused(refusal) if is_absence(refusal.errno) => {}
        outcome => report.failed(format!("device {DEVICE}"), why(&outcome)),
    }
}
