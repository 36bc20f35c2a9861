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

/// Removes them, but for those in the networks of `exclude_cidrs`, which are named. `false`: there may be some left, of
/// which only kube-proxy's sets tell that they are its node ports.
pub(super) fn remove(which: Which, exclude_cidrs: &[IpNet], report: &mut Report) -> bool {
    let chosen = match Ipvs::open() {
        Ok(mut ipvs) => choose(which, &mut ipvs).map(|chosen| (chosen, ipvs)),
        // A kernel without IPVS has no virtual servers.
        Err(error) if error.raw_os_error().is_some_and(is_absence) => return true,
        Err(error) => Err(error),
    };
    let (chosen, mut ipvs) = match chosen {
        Ok(chosen) => chosen,
        Err(error) => {
            report.failed("virtual servers", error);
            return false;
        }
    };
    let (excluded, chosen): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|key| ownership::is_excluded(exclude_cidrs, key));
    for key in excluded {
        report.kept(format!("virtual server {key}"), "its address is in an excluded network");
    }
    let steps: Vec<Step> = chosen.iter().map(|key| Step::DeleteVirtualServer(*key)).collect();
    let mut removed = Vec::new();
    let mut all = true;
    for (outcome, key) in ipvs.apply(&steps.iter().collect::<Vec<_>>()).into_iter().zip(chosen) {
        match outcome {
            Outcome::Done => removed.push(key.to_string()),
            Outcome::Refused(refusal) if is_absence(refusal.errno) => {}
            outcome => {
                report.failed(format!("virtual server {key}"), why(&outcome));
                all = false;
            }
        }
    }
    report.removed("virtual servers", removed);
    all
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
