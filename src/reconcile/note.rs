//! What the reconciler has to tell: for the log, for metrics, for health.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Touched;
use crate::cluster::types::Family;
use crate::desired::Shared;
use crate::desired::claims::Conflict;
use crate::kernel::{Outcome, Purged, ReadError};
use crate::state::{Key, RealServerKey, Sysctl, VirtualServerKey};

/// One piece of news.
#[derive(Debug)]
pub enum Note {
    /// The kernel was read, and what is ours in it was taken over.
    Adopted {
        /// How many virtual servers are ours.
        virtual_servers: usize,
        /// How many addresses are on the device.
        addresses: usize,
    },
    /// Something of this family waits to be written, and nothing did before.
    Queued(Family),
    /// More of this family waits to be written, where something did before.
    QueuedMore(Family),
    /// Everything of this family is as wanted.
    Synced {
        /// The family.
        family: Family,
        /// When the slice changes happened that are written now, in nanoseconds since 1970.
        triggered_nanoseconds: Vec<i64>,
    },
    /// The first complete set was written as far as the kernel takes it.
    FirstSync,
    /// These Services were looked at: what hangs on their facts may have changed.
    Looked(Touched),
    /// Facts about this node may have changed.
    NodeChanged,
    /// A plan with changes in it was handed to the kernel.
    HandedOver {
        /// How long ago the oldest of them was looked at.
        waited: Duration,
    },
    /// A plan was carried out.
    Wrote {
        /// How many steps of which kind had which verdict.
        counts: BTreeMap<(&'static str, Verdict), u64>,
        /// The families that it was about; what they share is about all.
        families: BTreeSet<Family>,
        /// The families of which it refused something in the packet filter.
        filter_refused: BTreeSet<Family>,
        /// How long that took, from what was to be done to the last verdict.
        took: Duration,
    },
    /// A kernel parameter was set.
    SysctlChanged {
        /// Which.
        sysctl: Sysctl,
        /// What it was before; `None`: that could not be read.
        before: Option<String>,
        /// What it is now.
        after: String,
    },
    /// The kernel refused a step; only when that is new, and once for each key.
    Refused {
        /// What is not as wanted.
        key: Key,
        /// What kind of step it was.
        kind: &'static str,
        /// Which real server of the key it was about, if about one; there may be others.
        real_server: Option<RealServerKey>,
        /// Why.
        text: String,
    },
    /// What was refused before is as wanted now.
    Recovered(Key),
    /// Something was changed behind our back; it is being repaired.
    Drift(Key),
    /// The virtual servers that are not ours; at start and when they change.
    Foreign(BTreeSet<VirtualServerKey>),
    /// Two Services claim one virtual server.
    Conflict(Conflict),
    /// A service address is not put on the device; only when that is new.
    Shared {
        /// Which, and whose.
        shared: Shared,
        /// Who else has the address.
        owner: Owner,
    },
    /// The kernel could not be read; it is tried again.
    Unreadable(ReadError),
    /// It was looked whether what everything stands on is there; these parts of it could not be read.
    LookedFor(Vec<ReadError>),
    /// Connection tracking of a family was purged of stale entries.
    Purged(Family, Purged),
}

/// Who has a service address besides the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node, on a device and by its Node object: likely a mistake.
    Node,
    /// This node by its Node object only.
    NodeObject,
    /// The Node object of this name does: likely a mistake.
    OtherNode(Arc<str>),
    /// Another device of this node.
    Device,
    /// Another device of this node, which has a cluster IP: likely somebody's who wants to be asked there, and is not.
    DeviceOfClusterIp,
}

/// [`Outcome`] without its reasons: the label `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Done.
    Done,
    /// Refused.
    Refused,
    /// Unknown.
    Unknown,
    /// Skipped.
    Skipped,
}

impl Verdict {
    /// The verdict of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Refused(_) => Self::Refused,
            Outcome::Unknown => Self::Unknown,
            Outcome::Skipped(_) => Self::Skipped,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}
