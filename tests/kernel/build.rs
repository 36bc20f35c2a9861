//! Short ways to write keys, steps and plans, to carry them out, and to look at the results.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::plan::Needs;
use kube_ipvs::diff::{Phase, Plan, PlannedStep, Step};
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Kernel, Outcome};
use kube_ipvs::state::{RealServer, RealServerKey, RealServers, VirtualServer, VirtualServerKey, Weight};

use crate::lab::shell;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn tcp(text: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: address(text), protocol: Protocol::Tcp, port }
}

pub(crate) fn real(text: &str, port: u16) -> RealServerKey {
    RealServerKey { address: address(text), port }
}

pub(crate) fn server(
    key: &VirtualServerKey,
    scheduler: &str,
    flags: u32,
    timeout_seconds: u32,
) -> VirtualServer {
    VirtualServer {
        scheduler: scheduler.into(),
        flags,
        timeout_seconds,
        netmask_bits: Family::of(key.address).host_prefix(),
        real_servers: RealServers::default(),
    }
}

pub(crate) fn weight(weight: u32) -> RealServer {
    RealServer::with(Weight::Exactly(weight))
}

/// Independent steps of a single phase.
pub(crate) fn steps(steps: impl IntoIterator<Item = Step>) -> Plan {
    let planned = |step| PlannedStep { step, phase: Phase(0), needs: Needs::new() };
    Plan { steps: steps.into_iter().map(planned).collect() }
}

pub(crate) fn kernel() -> LinuxKernel {
    LinuxKernel::open().expect("the lab's kernel")
}

/// Carries out steps one by one; all of them must succeed.
pub(crate) fn must(kernel: &mut LinuxKernel, all: impl IntoIterator<Item = Step>) {
    for step in all {
        let outcomes = kernel.apply(&steps([step.clone()]));
        assert_eq!(outcomes, [Outcome::Done], "{step:?}");
    }
}

pub(crate) fn errno(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Refused(refusal) => refusal.errno,
        other => panic!("not refused: {other:?}"),
    }
}

/// All virtual servers, as this program reads them.
pub(crate) fn read_virtual_servers(ipvs: &mut Ipvs) -> BTreeMap<VirtualServerKey, VirtualServer> {
    ipvs.read_all().expect("all virtual servers")
}

/// The output of `ipvsadm -S -n`, sorted: one command for each server that would create it again.
pub(crate) fn saved() -> Vec<String> {
    let mut lines: Vec<String> =
        shell("ipvsadm -S -n").lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}
