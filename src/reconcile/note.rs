//! What the reconciler has to report: for the log, metrics and health.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::types::{Family, ServiceKey};
use crate::cluster::{Cluster, Touched};
use crate::desired::Shared;
use crate::desired::claims::Conflict;
use crate::diff::StepKind;
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
    /// More of this family waits to be written; something did before.
    QueuedMore(Family),
    /// Everything of this family is as wanted.
    Synced {
        /// The family.
        family: Family,
        /// When the slice changes that are written now happened, in nanoseconds since 1970.
        triggered_nanoseconds: Vec<i64>,
    },
    /// The first complete set was written, as far as the kernel accepts it.
    FirstSync,
    /// These Services were looked at: what depends on their facts may have changed.
    Looked(Touched),
    /// Facts about this node may have changed.
    NodeChanged,
    /// A plan with changes in it was handed to the kernel.
    HandedOver {
        /// How long ago the oldest of these changes was looked at.
        waited: Duration,
    },
    /// A plan was carried out.
    Wrote {
        /// How many steps of each kind had each verdict.
        counts: WriteCounts,
        /// The families that the plan was about; what they share is about all.
        families: BTreeSet<Family>,
        /// The families for which the kernel refused something in the packet filter.
        filter_refused: BTreeSet<Family>,
        /// How long that took, from taking the keys to the last verdict.
        took: Duration,
    },
    /// A kernel parameter was set.
    SysctlChanged {
        /// Which.
        sysctl: Sysctl,
        /// Its value before; `None`: it could not be read.
        before: Option<String>,
        /// Its value now.
        after: String,
    },
    /// The kernel refused a step. Noted only when that is new, and once for each key.
    Refused {
        /// What is not as wanted.
        key: Key,
        /// What kind of step it was.
        kind: StepKind,
        /// Which real server of the key the step was about, if any; others may have been refused too.
        real_server: Option<RealServerKey>,
        /// Why.
        text: String,
    },
    /// What was refused before is as wanted now.
    Recovered(Key),
    /// Something was changed behind our back; it is being repaired.
    Drift(Key),
    /// The virtual servers that are not ours; noted at the start and when they change.
    Foreign(BTreeSet<VirtualServerKey>),
    /// Two Services claim one virtual server.
    Conflict(Conflict),
    /// A service address is not put on the device. Noted only when that is new.
    Shared {
        /// Which, and whose.
        shared: Shared,
        /// Who else has the address.
        owner: Owner,
    },
    /// The kernel could not be read for this purpose; it is tried again.
    Unreadable(Reading, ReadError),
    /// The kernel was read for this purpose.
    Read(Reading),
    /// The foundations were looked for; these parts of them could not be read.
    LookedFor(Vec<ReadError>),
    /// The audit has read everything back once more.
    AuditRound,
    /// Connection tracking of a family was purged of stale entries.
    Purged(Family, Purged),
}

/// What the kernel is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// To take over what the kernel has. Success is noted as [`Note::Adopted`].
    Adoption,
    /// To find out what became of steps without an answer.
    Reread,
    /// To find what was changed behind our back. That everything was read is noted as [`Note::AuditRound`].
    Audit,
    /// To count connections of real servers that drain.
    Count,
}

/// Who has a service address besides the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node, on a device and in its Node object: likely a mistake.
    Node,
    /// This node, in its Node object only.
    NodeObject,
    /// The node of this name, in its Node object: likely a mistake.
    OtherNode(Arc<str>),
    /// Another device of this node.
    Device,
    /// Another device of this node, which has a cluster IP: likely that of a program that expects to be asked there,
    /// and is not.
    DeviceOfClusterIp,
}

impl Owner {
    /// Who else has an address of this Service that is not put on our device.
    pub(super) fn of(cluster: &Cluster, service: &ServiceKey, address: IpAddr) -> Self {
        let has = |addresses: &[IpAddr]| addresses.contains(&address);
        let on_device = cluster.node_addresses().iter().any(|known| known.address == address);
        let mut others = cluster.other_nodes().filter(|_| !on_device);
        if cluster.node().is_some_and(|node| has(&node.addresses)) {
            if on_device { Self::Node } else { Self::NodeObject }
        } else if let Some((name, _)) = others.find(|(_, addresses)| has(addresses)) {
            Self::OtherNode(name.clone())
        } else if cluster.service(service).is_some_and(|service| has(&service.cluster_ips)) {
            Self::DeviceOfClusterIp
        } else {
            Self::Device
        }
    }
}

/// An [`Outcome`] without its reasons: the label `verdict`.
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
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Done, Self::Refused, Self::Unknown, Self::Skipped];

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
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}

/// How many steps of each kind had which verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts(Box<[[u64; Verdict::ALL.len()]; StepKind::ALL.len()]>);

impl WriteCounts {
    /// Counts one more.
    pub fn add(&mut self, kind: StepKind, verdict: Verdict) {
        self.0[kind as usize][verdict as usize] += 1;
    }

    /// How many steps of this kind had this verdict.
    pub fn of(&self, kind: StepKind, verdict: Verdict) -> u64 {
        self.0[kind as usize][verdict as usize]
    }

    /// The counts that are not zero, in order.
    pub fn iter(&self) -> impl Iterator<Item = (StepKind, Verdict, u64)> {
        let all = StepKind::ALL.into_iter().flat_map(|kind| Verdict::ALL.map(|verdict| (kind, verdict)));
        all.map(|(kind, verdict)| (kind, verdict, self.of(kind, verdict))).filter(|(.., count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_verdict_has_a_count_of_its_own() {
        let mut counts = WriteCounts::default();
        for (times, kind) in StepKind::ALL.into_iter().enumerate() {
            for verdict in Verdict::ALL {
                (0..=times).for_each(|_| counts.add(kind, verdict));
            }
        }
        let expected = StepKind::ALL.into_iter().zip(1..);
        let expected: Vec<_> =
            expected.flat_map(|(kind, count)| Verdict::ALL.map(|verdict| (kind, verdict, count))).collect();
        assert_eq!(counts.iter().collect::<Vec<_>>(), expected);
        let words: BTreeSet<_> = StepKind::ALL.into_iter().map(StepKind::as_str).collect();
        assert_eq!(words.len(), StepKind::ALL.len());
    }
}
