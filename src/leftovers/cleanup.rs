//! `--cleanup` and `--cleanup-own`: a node without service proxy, or one that somebody else takes back.
//!
//! Both are complete in one run and find nothing in a second one. No API server is asked.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::forward::Forward;
use super::iptables::{FILTER, Iptables, TRANSLATION};
use super::names::NFTABLES_TABLE;
use super::report::Report;
use super::sets::{delete_table, destroy_ipsets, is_absence, why};
use super::virtual_servers::{self, Which};
use crate::cluster::types::Family;
use crate::kernel::netlink::{Protocol, Socket};
use crate::kernel::nft::whole::{OUR_TABLE, WholeTables};
use crate::kernel::{Outcome, link};
use crate::state::DEVICE;

/// The way back (`--cleanup-own`): removes our nftables tables and the accept in FORWARD. `kube-ipvs0` and all virtual
/// servers stay, for the kube-proxy that has them now.
pub fn clean_own() -> Report {
    let mut report = Report::default();
    clean_filters(&BTreeSet::new(), &mut report);
    report
}

/// Removes everything of ours and of kube-proxy, whatever its mode was (`--cleanup`, contract 6.8). Virtual servers in
/// the networks of `exclude_cidrs` stay, and so do those that are neither's.
pub fn clean_all(exclude_cidrs: &[IpNet]) -> Report {
    let mut report = Report::default();
    // Service addresses without virtual servers are refused as long as they are the node's; the other way round,
    // what goes there would leave the node.
    let node_ports_are_gone = virtual_servers::remove(Which::All, exclude_cidrs, &mut report);
    remove_device(&mut report);
    let both = Family::ALL.into_iter().collect();
    clean_filters(&both, &mut report);
    destroy_ipsets(&both, node_ports_are_gone, &mut report);
    report
}

/// Removes our nftables tables and our accept, and kube-proxy's tables and chains of these families.
fn clean_filters(kube_proxys: &BTreeSet<Family>, report: &mut Report) {
    let mut nftables = match WholeTables::open() {
        Ok(nftables) => nftables,
        Err(error) => return report.failed("nftables", error),
    };
    let mut iptables = Iptables::look(&mut nftables, report);
    iptables.change(&mut nftables, FILTER, kube_proxys, Forward::Remove, report);
    iptables.change(&mut nftables, TRANSLATION, kube_proxys, Forward::Leave, report);
    for family in Family::ALL {
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
