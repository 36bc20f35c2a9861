//! Tells whether a kube-proxy is, or was, on the node again after the takeover: `kubeadm upgrade` brings it back, or a
//! rollout that is undone, or somebody by hand. What it leaves behind stays as it was on that day, and refuses Services
//! that are made later.
//!
//! The traces are looked for over netlink, without programs: kube-proxy's ipsets, its nftables tables, and, in
//! iptables-nft, the chain that all of its modes with iptables begin with. Chains in iptables-legacy cannot be seen
//! like this; there the ipsets reveal the ipvs mode.
//!
//! Traces are only reported. Whether a kube-proxy runs cannot be known from here: all it has in the network namespace
//! are two ports, which are ours, and pods do not see each other's processes. Removing what a running kube-proxy writes
//! again each time would be a fight. Whoever has ended kube-proxy restarts kube-ipvs, which takes over again.

use std::collections::BTreeSet;
use std::io;

use super::names::{self, NFTABLES_TABLE, SERVICES};
use super::sets::name_of;
use super::tools::{Place, Variant};
use crate::cluster::types::Family;
use crate::kernel::ipset::IpSets;
use crate::kernel::nft::whole_tables::WholeTables;

/// What only kube-proxy makes, by place and name: `ipset KUBE-CLUSTER-IP`.
pub(super) type Traces = BTreeSet<String>;

/// The traces that exist now.
///
/// # Errors
/// Those of the kernel or of the sockets.
pub(super) fn traces() -> io::Result<Traces> {
    let mut traces = Traces::new();
    if let Some(mut sets) = IpSets::open()? {
        let theirs = sets.names()?.into_iter().filter(|name| names::is_set(name));
        traces.extend(theirs.map(|name| format!("ipset {name}")));
    }
    let mut nftables = WholeTables::open()?;
    for family in Family::ALL {
        if nftables.exists(family, NFTABLES_TABLE)? {
            traces.insert(format!("nftables table {}", name_of(family, NFTABLES_TABLE)));
        }
        if nftables.chain(family, "nat", SERVICES)?.is_some() {
            traces.insert(format!("{} nat chain {SERVICES}", Place { variant: Variant::Nft, family }));
        }
    }
    Ok(traces)
}
