//! The parts of the kernel's state, each of which is read back as a whole.

use super::Key;
use crate::cluster::types::Family;

/// A part of what the kernel holds for us.
///
/// Each part is read separately: a failure to read one says nothing about the others. The order is the one in which
/// they are read: the parts that others depend on come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The device.
    Device,
    /// The kernel parameters.
    Sysctls,
    /// The timeouts of IPVS.
    Timeouts,
    /// Our nftables table of one family, with all its elements.
    Table(Family),
    /// The virtual servers of one family.
    VirtualServers(Family),
    /// The addresses of one family, with their routes.
    Addresses(Family),
}

impl Part {
    /// The part that a key belongs to.
    pub fn of(key: &Key) -> Self {
        match key {
            Key::Device => Self::Device,
            Key::Sysctl(_) => Self::Sysctls,
            Key::Timeouts => Self::Timeouts,
            Key::Rules(family) => Self::Table(*family),
            Key::Element(element) => Self::Table(element.family()),
            Key::VirtualServer(server) => Self::VirtualServers(Family::of(server.address)),
            Key::Address(address) => Self::Addresses(Family::of(*address)),
        }
    }
}
