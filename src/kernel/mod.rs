//! Steps → Linux, Linux → [`State`].
//!
//! [`Kernel`] has two implementations: [`linux`] writes and reads over netlink; [`memory`] is a [`State`] in memory
//! with faults on demand, for tests and benchmarks. Neither makes decisions.

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

/// Carries out plans and reads back what exists.
pub trait Kernel: Send {
    /// Carries out a plan, phase by phase, and returns the outcome of each step, in the plan's order.
    fn apply(&mut self, plan: &Plan) -> Vec<Outcome>;

    /// Reads back what the selection covers. The answer is complete: whatever is covered and missing from the answer
    /// does not exist. It includes foreign objects that the selection covers (other programs' virtual servers); telling
    /// ours from theirs is not this module's business.
    ///
    /// # Errors
    /// If any part could not be read completely. An error says nothing about what exists.
    fn read(&mut self, selection: &Selection) -> Result<State, ReadError>;

    /// Checks whether the foundations of everything else (the device and the tables) exist, and the witnesses, each of
    /// which stands for all objects of its kind. This takes a few questions, however large the cluster is.
    fn foundations(&mut self, witnesses: &Witnesses) -> Foundations;

    /// The keys of all virtual servers, ours or not, without their real servers.
    ///
    /// # Errors
    /// As for [`Kernel::read`].
    fn list_virtual_servers(&mut self) -> Result<BTreeSet<VirtualServerKey>, ReadError>;

    /// How many connections, active and inactive together, each real server of these virtual servers has. The answer
    /// omits virtual servers that do not exist.
    ///
    /// # Errors
    /// As for [`Kernel::read`].
    fn connections(
        &mut self,
        servers: &BTreeSet<VirtualServerKey>,
    ) -> Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError>;

    /// Finds the stale entries of connection tracking. Changes nothing. This walks the whole table of the kernel, which
    /// may hold millions of entries.
    fn find_stale(&mut self, purge: &Purge) -> Found;

    /// Deletes entries of connection tracking.
    fn delete_stale(&mut self, entries: &[StaleEntry]) -> Purged;
}

/// Single objects that are checked in place of all of their kind, since other programs remove all of a kind at once:
/// `ipvsadm --clear`, `ip address flush`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// One virtual server.
    pub virtual_server: Option<VirtualServerKey>,
    /// Addresses on the device, one per family.
    pub addresses: BTreeSet<IpAddr>,
}

/// Which foundations and witnesses exist, or, for each one, why that is unknown. Other programs remove them at once:
/// `ip link delete`, `nft flush ruleset`, or the commands that remove [`Witnesses`].
#[derive(Debug)]
pub struct Foundations {
    /// The device's number; `None`: there is no device. Another number means another device, without anything that was
    /// on the first.
    pub device: Result<Option<u32>, ReadError>,
    /// The handles of the tables of our name; `None`: there is no table. Another handle likewise means another table.
    pub tables: BTreeMap<Family, Result<Option<u64>, ReadError>>,
    /// Whether the virtual server that was asked for exists; `false` if none was asked for.
    pub virtual_server: Result<bool, ReadError>,
    /// Whether the device takes in packets to each address that was asked for; empty if the device does not exist or
    /// could not be looked up.
    pub addresses: BTreeMap<IpAddr, Result<bool, ReadError>>,
}

/// An entry of connection tracking that a search found to be stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleEntry {
    /// Its flow.
    pub flow: Flow,
    /// What identifies it for the kernel: the value of its attribute `CTA_TUPLE_ORIG`, as the kernel wrote it, and its
    /// number.
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
    /// Why stale entries may be left.
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
    /// Only these keys.
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

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel carried it out.
    Done,
    /// The kernel refused it.
    Refused(Refusal),
    /// The kernel's answer was lost: the step may have been carried out or not.
    Unknown,
    /// Not sent, because the step with this index in the plan was not carried out.
    Skipped(usize),
}

/// Why the kernel refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The positive error number: `EEXIST` (17), ...
    pub errno: i32,
    /// The error's text, with the kernel's own explanation if it gave one.
    pub text: String,
}

impl Refusal {
    /// The refusal that this error expresses. An error without a number (the system took only a part of a value, or
    /// nothing of it) becomes `EIO`.
    pub fn of(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        Self { errno, text: error.to_string() }
    }

    /// Whether the error number is this one.
    pub fn is(&self, error: Errno) -> bool {
        self.errno == error.raw_os_error()
    }

    /// Whether the error number is one of these.
    pub(crate) fn is_one_of(&self, errors: &[Errno]) -> bool {
        errors.iter().any(|error| self.is(*error))
    }

    /// Whether the kernel says that it does not have something, and not that something is wrong with it.
    pub(crate) fn is_of_a_lack(&self) -> bool {
        self.is_one_of(&[Errno::NOENT, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT])
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
    /// What was to be read, for the error text.
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
