//! Whether a kube-proxy is, or was, on the node again after it was taken over: `kubeadm upgrade` brings it back, a rollout that is
//! undone, somebody by hand. What it leaves then stays as it was on that day, and refuses what becomes a Service later.
//!
//! Looked at over netlink, without programs: its ipsets, its nftables tables, and the chain that all of its modes with
//! iptables begin with, in iptables-nft. In iptables-legacy chains cannot be seen so; there the ipsets give the ipvs mode away.
//!
//! It is only told. Whether a kube-proxy runs cannot be known from here: it has no name in the network namespace but two ports,
//! which are ours, and pods do not see each other's processes. To remove what one that runs writes anew each time would be a
//! fight; who has ended it restarts kube-ipvs, which takes over again.

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

/// What there is of it.
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
