//! Removes virtual servers that are ours or kube-proxy's.

use std::collections::BTreeSet;
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
use crate::kernel::nft::whole_tables::OUR_TABLE;
use crate::kernel::{Outcome, address, link};
use crate::state::{Address, Rules, State, VirtualServerKey, ownership};

/// Which virtual servers to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which<'a> {
    /// All that are ours or kube-proxy's.
    All,
    /// The node ports of kube-proxy that are not ours now: those of Services that are gone. The running program itself
    /// removes what is on `kube-ipvs0`, but takes these node ports for somebody else's once kube-proxy's sets are gone.
    /// The rules of these families tell which ones are ours, so they must be intact.
    StaleNodePorts(&'a BTreeSet<Family>),
}

/// Removes them, except for those in the networks of `exclude_cidrs`, which are named. `false`: some may be left that
/// only kube-proxy's sets show to be its node ports.
pub(super) fn remove(which: Which<'_>, exclude_cidrs: &[IpNet], report: &mut Report) -> bool {
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
    let chosen = without_excluded(chosen, exclude_cidrs, report);
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

/// Reports and returns which of kube-proxy's node ports would be removed as stale if the kernel held what `after` says
/// of ours, and the virtual servers `foreign` that are not ours.
pub(super) fn foresee(
    after: &State,
    foreign: &BTreeSet<VirtualServerKey>,
    exclude_cidrs: &[IpNet],
    report: &mut Report,
) -> BTreeSet<VirtualServerKey> {
    let node_ports = match NodePorts::read() {
        Ok(node_ports) => node_ports,
        Err(error) => {
            report.failed("virtual servers", error);
            return BTreeSet::new();
        }
    };
    let chosen = foreign.iter().filter(|key| is_stale_node_port(&node_ports, after, key)).copied().collect();
    let chosen = without_excluded(chosen, exclude_cidrs, report);
    report.removed("virtual servers", chosen.iter().map(ToString::to_string).collect());
    chosen.into_iter().collect()
}

/// Names those that are in excluded networks, and returns the others.
fn without_excluded(
    chosen: Vec<VirtualServerKey>,
    exclude_cidrs: &[IpNet],
    report: &mut Report,
) -> Vec<VirtualServerKey> {
    let (excluded, chosen): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|key| ownership::is_excluded(exclude_cidrs, key));
    for key in excluded {
        report.kept(format!("virtual server {key}"), "its address is in an excluded network");
    }
    chosen
}

/// Whether this is a node port of kube-proxy that is not ours now. `own` tells whose a virtual server is.
fn is_stale_node_port(node_ports: &NodePorts, own: &State, key: &VirtualServerKey) -> bool {
    node_ports.has(key) && !ownership::is_ours(own, key)
}

fn choose(which: Which<'_>, ipvs: &mut Ipvs) -> io::Result<Vec<VirtualServerKey>> {
    let node_ports = NodePorts::read()?;
    let nobodys = BTreeSet::new();
    let whole = match which {
        Which::StaleNodePorts(_) if node_ports.is_empty() => return Ok(Vec::new()),
        Which::StaleNodePorts(families) => families,
        Which::All => &nobodys,
    };
    // In this order: a virtual server that the running program makes meanwhile is in the list only if it was already
    // owned.
    let servers = ipvs.list()?;
    let own = owned(whole)?;
    let chosen = |key: &VirtualServerKey| match which {
        Which::All => ownership::is_ours(&own, key) || node_ports.has(key),
        Which::StaleNodePorts(_) => is_stale_node_port(&node_ports, &own, key),
    };
    Ok(servers.into_keys().filter(chosen).collect())
}

/// What tells whose a virtual server is: the rules are those of the running program. In the families `whole` they must
/// be intact.
fn owned(whole: &BTreeSet<Family>) -> io::Result<State> {
    let mut state = State::default();
    let mut route = Socket::open(Protocol::Route)?;
    let device = link::find(&mut route)?.filter(link::Link::is_dummy);
    let mut tables = Tables::open()?;
    for family in Family::ALL {
        if let Some(device) = &device {
            let addresses = address::dump(&mut route, device.index, family)?;
            state.addresses.extend(addresses.into_keys().map(|address| (address, Address::wanted(address))));
        }
        let (rules, elements) = tables.read(family)?;
        if whole.contains(&family) && !matches!(rules, Some(Rules::Intact(_))) {
            return Err(io::Error::other(format!("table {OUR_TABLE} of {family} is not whole any more")));
        }
        state.elements.extend(elements);
    }
    Ok(state)
}
