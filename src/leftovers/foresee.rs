//! Tells in advance what a takeover would do on this node. Nothing is changed. If iptables has tables, those of its
//! programs that print are started.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::forward::Ours;
use super::iptables::{FILTER, Iptables, TRANSLATION};
use super::names::NFTABLES_TABLE;
use super::report::Report;
use super::sets::{foresee_ipsets, foresee_table};
use super::virtual_servers;
use crate::cluster::types::Family;
use crate::kernel::nft::whole_tables::WholeTables;
use crate::state::{State, VirtualServerKey};

/// What [`super::takeover::take_over`] would report once everything is written in all families; "removed" here means
/// "would be removed". `mark` is the bit of the packet mark that stands for "masquerade this"; `after` is what the
/// kernel will have of ours by then; `foreign` are the virtual servers in the kernel that are not ours. Those in the
/// networks of `exclude_cidrs` stay. Also returns which of the foreign ones would be removed.
pub fn foresee(
    mark: u32,
    exclude_cidrs: &[IpNet],
    after: &State,
    foreign: &BTreeSet<VirtualServerKey>,
) -> (Report, BTreeSet<VirtualServerKey>) {
    let mut report = Report::default();
    let mut nftables = match WholeTables::open() {
        Ok(nftables) => nftables,
        Err(error) => {
            report.failed("nftables", error);
            return (report, BTreeSet::new());
        }
    };
    let families: BTreeSet<Family> = Family::ALL.into();
    let ours = Ours::Stays { mark };
    let iptables = Iptables::look(&mut nftables, ours, &mut report);
    iptables.foresee(&mut nftables, FILTER, &families, ours, &mut report);
    for family in &families {
        foresee_table(&mut nftables, *family, NFTABLES_TABLE, &mut report);
    }
    iptables.foresee(&mut nftables, TRANSLATION, &families, ours, &mut report);
    let gone = virtual_servers::foresee(after, foreign, exclude_cidrs, &mut report);
    foresee_ipsets(&families, &mut report);
    (report, gone)
}
