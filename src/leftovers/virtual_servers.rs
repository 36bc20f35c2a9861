//! Virtual servers that are ours or kube-proxy's: away with them.

use std::io;

use ipnet::IpNet;

use super::node_ports::NodePorts;
use super::report::Report;
use super::sets::{is_absence, why};
use crate::cluster::types::Family;
use crate::diff::Step;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::netlink::{Protocol, Socket};
use crate::kernel::nft::Tables;
use crate::kernel::{Outcome, address, link};
use crate::reconcile::ownership;
use crate::state::{Address, State, VirtualServerKey};

/// Which virtual servers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All that are ours or kube-proxy's.
    All,
    /// The node ports of kube-proxy that are not ours now: of Services that are gone. The running program removes what
    /// is on `kube-ipvs0` itself, and takes these for somebody else's once kube-proxy's sets are gone.
    StaleNodePorts,
}

/// Removes them, but for those in the networks of `exclude_cidrs`, which are named.
pub(super) fn remove(which: Which, exclude_cidrs: &[IpNet], report: &mut Report) {
    let mut ipvs = match Ipvs::open() {
        Ok(ipvs) => ipvs,
        // A kernel without IPVS has no virtual servers.
        Err(error) if error.raw_os_error().is_some_and(is_absence) => return,
        Err(error) => return report.failed("virtual servers", error),
    };
    let chosen = match choose(which, &mut ipvs) {
        Ok(chosen) => chosen,
        Err(error) => return report.failed("virtual servers", error),
    };
    let (excluded, chosen): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|key| ownership::is_excluded(exclude_cidrs, key));
    for key in excluded {
        report.kept(format!("virtual server {key}"), "its address is in an excluded network");
    }
    let steps: Vec<Step> = chosen.iter().map(|key| Step::DeleteVirtualServer(*key)).collect();
    let mut removed = Vec::new();
    for (outcome, key) in ipvs.apply(&steps.iter().collect::<Vec<_>>()).into_iter().zip(chosen) {
        match outcome {
            Outcome::Done => removed.push(key.to_string()),
            Outcome::Refused(refusal) if is_absence(refusal.errno) => {}
            outcome => report.failed(format!("virtual server {key}"), why(&outcome)),
        }
    }
    report.removed("virtual servers", removed);
}

fn choose(which: Which, ipvs: &mut Ipvs) -> io::Result<Vec<VirtualServerKey>> {
    let node_ports = NodePorts::read()?;
    if which == Which::StaleNodePorts && node_ports.is_empty() {
        return Ok(Vec::new());
    }
    // In this order: one that the running program makes meanwhile is in the list only if it was owned before.
    let servers = ipvs.list()?;
    let own = owned()?;
    let chosen = |key: &VirtualServerKey| match which {
        Which::All => ownership::is_ours(&own, key) || node_ports.has(key),
        Which::StaleNodePorts => node_ports.has(key) && !ownership::is_ours(&own, key),
    };
    Ok(servers.into_keys().filter(chosen).collect())
}

/// What tells whose a virtual server is: the rules are those of the running program.
fn owned() -> io::Result<State> {
    let mut state = State::default();
    let mut route = Socket::open(Protocol::Route)?;
    let device = link::find(&mut route)?.filter(link::Link::is_dummy);
    let mut tables = Tables::open()?;
    for family in Family::ALL {
        if let Some(device) = &device {
            let addresses = address::dump(&mut route, device.index, family)?;
            state.addresses.extend(addresses.into_keys().map(|address| (address, Address::wanted(address))));
        }
        state.elements.extend(tables.read(family)?.1);
    }
    Ok(state)
}
