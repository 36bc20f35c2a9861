//! A plan: what is to be written to the kernel, as data.

use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::StepKind;
use crate::cluster::types::Family;
use crate::state::{
    Element, Key, RealServer, RealServerKey, RuleSettings, Sysctl, Timeouts, VirtualServer, VirtualServerKey,
    Weight,
};

/// One write. Every value is complete: the code that carries a step out decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Set a kernel parameter.
    SetSysctl(Sysctl, String),
    /// Make the device.
    AddDevice,
    /// Set the IPVS timeouts; 0 keeps the kernel's value.
    SetTimeouts(Timeouts),
    /// Make the nftables table of a family, with its fixed rules and these elements, replacing any existing table, in
    /// one transaction.
    InstallRules(Family, RuleSettings, Vec<Element>),
    /// Take an element out of its set.
    DeleteElement(Element),
    /// Put an element into its set.
    AddElement(Element),
    /// Make a virtual server; the real servers in the value are ignored, since they have their own steps.
    AddVirtualServer(VirtualServerKey, VirtualServer),
    /// Change a virtual server in place (connections continue); the real servers in the value are ignored too.
    EditVirtualServer(VirtualServerKey, VirtualServer),
    /// Add a real server. Its weight is `Exactly`.
    AddRealServer(VirtualServerKey, RealServerKey, RealServer),
    /// Change a real server in place (connections continue): its weight, its forwarding method, its threshold. Its
    /// weight is `Exactly`.
    EditRealServer(VirtualServerKey, RealServerKey, RealServer),
    /// Remove a real server; its connections end.
    DeleteRealServer(VirtualServerKey, RealServerKey),
    /// Put an address on the device (the kernel makes its route).
    AddAddress(IpAddr),
    /// Set the attributes of an address that is on the device: see [`crate::state::Address`].
    EditAddress(IpAddr),
    /// Make the route of an address that is on the device.
    AddRoute(IpAddr),
    /// Take an address from the device (its route goes with it).
    DeleteAddress(IpAddr),
    /// Remove a virtual server with its real servers.
    DeleteVirtualServer(VirtualServerKey),
}

impl Step {
    /// The key whose value the step changes.
    pub fn key(&self) -> Key {
        match self {
            Self::SetSysctl(sysctl, _) => Key::Sysctl(*sysctl),
            Self::AddDevice => Key::Device,
            Self::SetTimeouts(_) => Key::Timeouts,
            Self::InstallRules(family, ..) => Key::Rules(*family),
            Self::DeleteElement(element) | Self::AddElement(element) => Key::Element(*element),
            Self::AddVirtualServer(key, _)
            | Self::EditVirtualServer(key, _)
            | Self::DeleteVirtualServer(key)
            | Self::AddRealServer(key, ..)
            | Self::EditRealServer(key, ..)
            | Self::DeleteRealServer(key, _) => Key::VirtualServer(*key),
            Self::AddAddress(address)
            | Self::EditAddress(address)
            | Self::AddRoute(address)
            | Self::DeleteAddress(address) => Key::Address(*address),
        }
    }

    /// The real server that the step is about, if any.
    pub fn real_server(&self) -> Option<RealServerKey> {
        match self {
            Self::AddRealServer(_, real, _)
            | Self::EditRealServer(_, real, _)
            | Self::DeleteRealServer(_, real) => Some(*real),
            _ => None,
        }
    }

    /// What kind of write it is.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::SetSysctl(..) => StepKind::SetSysctl,
            Self::AddDevice => StepKind::AddDevice,
            Self::SetTimeouts(_) => StepKind::SetTimeouts,
            Self::InstallRules(..) => StepKind::InstallRules,
            Self::DeleteElement(_) => StepKind::DeleteElement,
            Self::AddElement(_) => StepKind::AddElement,
            Self::AddVirtualServer(..) => StepKind::AddVirtualServer,
            Self::EditVirtualServer(..) => StepKind::EditVirtualServer,
            Self::AddRealServer(..) => StepKind::AddRealServer,
            Self::EditRealServer(..) => StepKind::EditRealServer,
            Self::DeleteRealServer(..) => StepKind::DeleteRealServer,
            Self::AddAddress(_) => StepKind::AddAddress,
            Self::EditAddress(_) => StepKind::EditAddress,
            Self::AddRoute(_) => StepKind::AddRoute,
            Self::DeleteAddress(_) => StepKind::DeleteAddress,
            Self::DeleteVirtualServer(_) => StepKind::DeleteVirtualServer,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = |server: &RealServer| match server.weight {
            Weight::Exactly(weight) => weight.to_string(),
            Weight::DrainIfPresent => "drain".to_owned(),
        };
        match self {
            Self::SetSysctl(sysctl, value) => write!(f, "set sysctl {sysctl} = {value}"),
            Self::AddDevice => write!(f, "add device {}", crate::state::DEVICE),
            Self::SetTimeouts(timeouts) => write!(f, "set timeouts {timeouts}"),
            Self::InstallRules(family, _, elements) => {
                write!(f, "install {family} rules with {} elements", elements.len())
            }
            Self::DeleteElement(element) => write!(f, "delete element {element}"),
            Self::AddElement(element) => write!(f, "add element {element}"),
            Self::AddVirtualServer(key, server) => write!(f, "add virtual server {key} {server}"),
            Self::EditVirtualServer(key, server) => write!(f, "edit virtual server {key} {server}"),
            Self::AddRealServer(key, real, server) => {
                write!(f, "add real server {key} -> {real} weight {}", weight(server))
            }
            Self::EditRealServer(key, real, server) => {
                write!(f, "edit real server {key} -> {real} weight {}", weight(server))
            }
            Self::DeleteRealServer(key, real) => write!(f, "delete real server {key} -> {real}"),
            Self::AddAddress(address) => write!(f, "add address {address}"),
            Self::EditAddress(address) => write!(f, "edit address {address}"),
            Self::AddRoute(address) => write!(f, "add route {address}"),
            Self::DeleteAddress(address) => write!(f, "delete address {address}"),
            Self::DeleteVirtualServer(key) => write!(f, "delete virtual server {key}"),
        }
    }
}

/// Indices of steps: nearly always none or one, which need no allocation.
pub type Needs = SmallVec<[usize; 1]>;

/// A step with its place in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// What to write.
    pub step: Step,
    /// Steps of one phase do not depend on each other and may be sent together; a phase begins once all verdicts of the
    /// earlier phases are known. Phases never decrease along a plan.
    pub phase: Phase,
    /// The indices, in the plan, of steps that must all have been `Done` for this one to make sense. They belong to
    /// earlier phases. If any of them was not done, this step is not sent.
    pub needs: Needs,
}

/// When a step is carried out: see [`crate::diff::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase(pub u8);

/// What to write, in a safe order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
