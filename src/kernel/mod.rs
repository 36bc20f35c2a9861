//! Steps → Linux, Linux → [`State`].
//!
//! [`Kernel`] has two real implementations: [`linux`] writes and reads over netlink, [`memory`] is a [`State`] in
//! memory with faults on demand, for tests and benchmarks. Neither decides anything.

pub(crate) mod address;
mod bytes;
mod conntrack;
pub mod ipset;
pub mod ipvs;
pub(crate) mod link;
pub mod linux;
pub mod memory;
pub mod netlink;
mod nfnetlink;
pub mod nft;
pub mod node_addresses;
pub mod probe;
mod route;
pub mod sysctl;
pub mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::cluster::types::Family;
use crate::diff::Plan;
use crate::diff::purge::{Flow, Purge};
use crate::state::{Key, RealServerKey, Scope, State, VirtualServerKey};

/// Where plans are carried out.
pub trait Kernel: Send {
    /// Carries out a plan, phase by phase, and says what became of each step, in the plan's order.
    fn apply(&mut self, plan: &Plan) -> Vec<Outcome>;

    /// Reads back what is selected. The answer holds exactly what the selection covers: what is covered and not
    /// in the answer does not exist. Foreign objects are included where the selection covers them (virtual
    /// servers of others); whose they are is not this module's business.
    ///
    /// # Errors
    /// Where any part could not be read completely. An error says nothing about what exists.
    fn read(&mut self, selection: &Selection) -> Result<State, ReadError>;

    /// Whether what everything else stands on is there, and what was chosen to stand for all that is like it: a few questions,
    /// however large the cluster is.
    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations;

    /// The keys of all virtual servers, ours or not, without their real servers.
    ///
    /// # Errors
    /// As for [`Kernel::read`].
    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError>;

    /// How many connections, active and inactive together, each real server of these virtual servers has. Virtual
    /// servers that do not exist are left out of the answer.
    ///
    /// # Errors
    /// As for [`Kernel::read`].
    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError>;

    /// Finds the stale entries of connection tracking. Changes nothing. This walks the whole table of the kernel, which may
    /// hold millions of entries.
    fn find_stale(&mut self, purge: &Purge) -> Found;

    /// Deletes entries of connection tracking.
    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged;
}

/// What is asked for in place of all that is like it, since others remove that at one stroke: `ipvsadm --clear`,
/// `ip address flush`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// A virtual server.
    pub virtual_server: Option<VirtualServerKey>,
    /// Addresses on the device, one of each family.
    pub addresses: BTreeSet<IpAddr>,
}

/// What is there of that on which everything else stands, or why that cannot be said, each for itself. Others remove it at
/// one stroke: `ip link delete`, `nft flush ruleset`, or what [`Witnesses`] speak of.
#[derive(Debug)]
pub struct Foundations {
    /// The device's number: another one is another device, with nothing of what was on the first. `None`: there is none.
    pub device: Result<Option<u32>, ReadError>,
    /// The handles of the tables of our name: likewise.
    pub tables: BTreeMap<Family, Result<Option<u64>, ReadError>>,
    /// Whether the virtual server that was asked for is there; `false` where none was.
    pub virtual_server: Result<bool, ReadError>,
    /// Whether packets to each address that was asked for are taken in by the device; empty where it is not there, or cannot
    /// be looked for.
    pub addresses: BTreeMap<IpAddr, Result<bool, ReadError>>,
}

/// An entry of connection tracking that a search found to be stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleEntry {
    /// Its flow.
    pub flow: Flow,
    /// What the kernel calls it by: the value of its attribute `CTA_TUPLE_ORIG`, as the kernel wrote it, and its number.
    id: (Box<[u8]>, u32),
}

/// What came of a search for stale entries of connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is stale.
    pub entries: Vec<StaleEntry>,
    /// How long it took.
    pub took: Duration,
    /// Why there may be more: then nothing was found.
    pub failure: Option<String>,
}

/// What came of a purge, or of a part of it, in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many entries were deleted.
    pub deleted: u64,
    /// How long it took.
    pub took: Duration,
    /// Why there may be stale entries left.
    pub failure: Option<String>,
}

/// What to read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything: at start only.
    Everything,
    /// The device, the sysctls and the timeouts.
    Settings,
    /// All addresses on the device, of one family, with their routes.
    Addresses(Family),
    /// Our nftables table of one family: the fixed rules and all elements.
    Tables(Family),
    /// Just these keys.
    Keys(Scope),
}

impl Selection {
    /// Whether a key is covered.
    pub fn covers(&self, key: &Key) -> bool {
        match self {
            Self::Everything => true,
            Self::Settings => matches!(key, Key::Device | Key::Sysctl(_) | Key::Timeouts),
            Self::Addresses(family) => matches!(key, Key::Address(_)) && key.family() == Some(*family),
            Self::Tables(family) => {
                matches!(key, Key::Rules(_) | Key::Element(_)) && key.family() == Some(*family)
            }
            Self::Keys(keys) => keys.contains(key),
        }
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel did it.
    Done,
    /// The kernel said no.
    Refused(Refusal),
    /// The kernel's verdict was lost: it may have been done or not.
    Unknown,
    /// Not sent, because the step with this index in the plan was not done.
    Skipped(usize),
}

/// Why the kernel said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The positive error number: `EEXIST` (17), ...
    pub errno: i32,
    /// The error's text, with the kernel's own explanation where it gave one.
    pub text: String,
}

impl Refusal {
    /// What this error says. One without a number (the system took a part of a value, or nothing of it) is `EIO`.
    pub fn of(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        Self { errno, text: error.to_string() }
    }

    /// Whether this is the error.
    pub fn is(&self, error: Errno) -> bool {
        self.errno == error.raw_os_error()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why something could not be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} from the kernel")]
pub struct ReadError {
    /// What was to be read, in words.
    pub what: &'static str,
    /// The reason.
    #[source]
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_always_has_a_number() {
        let refusal = Refusal::of(&io::Error::from(Errno::PERM));
        assert_eq!((refusal.errno, refusal.text.as_str()), (1, "Operation not permitted (os error 1)"));
        assert!(refusal.is(Errno::PERM));
        assert!(Refusal::of(&io::Error::from(io::ErrorKind::WriteZero)).is(Errno::IO));
    }
}
