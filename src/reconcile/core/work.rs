//! Pieces of work for the kernel: why each is done, what it is, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::types::Family;
use crate::diff::Plan;
use crate::diff::purge::Purge;
use crate::kernel::{
    Found, Foundations, Kernel, Outcome, Purged, ReadError, Selection, StaleEntry, Witnesses,
};
use crate::state::{RealServerKey, Scope, State, VirtualServerKey};

/// A piece of work for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Carry out a plan.
    Apply(Arc<Plan>),
    /// Read this back.
    Read(Selection),
    /// List the keys of all virtual servers.
    List,
    /// Ask whether the foundations are there, and these witnesses.
    Foundations(Witnesses),
    /// Count the connections of the real servers of these virtual servers.
    Count(BTreeSet<VirtualServerKey>),
    /// Find stale entries of connection tracking. This may take seconds, so it may be done beside everything else:
    /// [`super::Reconciler::next`] may be called, and other work done, before this work is complete.
    FindStale(Arc<Purge>),
    /// Delete these.
    DeleteStale(Arc<[StaleEntry]>),
}

impl Work {
    /// Has the kernel do this work.
    pub fn carry_out(&self, kernel: &mut dyn Kernel) -> Answer {
        match self {
            Self::Apply(plan) => Answer::Outcomes(kernel.apply(plan)),
            Self::Read(selection) => Answer::State(kernel.read(selection)),
            Self::List => Answer::Keys(kernel.list_virtual_servers()),
            Self::Foundations(witnesses) => Answer::Foundations(kernel.foundations(witnesses)),
            Self::Count(servers) => Answer::Counts(kernel.connections(servers)),
            Self::FindStale(purge) => Answer::Found(kernel.find_stale(purge)),
            Self::DeleteStale(entries) => Answer::Purged(kernel.delete_stale(entries)),
        }
    }
}

/// What became of a piece of work, in the form that belongs to it.
#[derive(Debug)]
pub enum Answer {
    /// To [`Work::Apply`]: one outcome per step.
    Outcomes(Vec<Outcome>),
    /// To [`Work::Read`].
    State(Result<State, ReadError>),
    /// To [`Work::List`].
    Keys(Result<BTreeSet<VirtualServerKey>, ReadError>),
    /// To [`Work::Foundations`].
    Foundations(Foundations),
    /// To [`Work::Count`].
    Counts(Result<BTreeMap<(VirtualServerKey, RealServerKey), u64>, ReadError>),
    /// To [`Work::FindStale`].
    Found(Found),
    /// To [`Work::DeleteStale`].
    Purged(Purged),
}

/// Why a piece of work is done.
#[derive(Debug)]
pub(super) enum Task {
    Adopt,
    Reread(Scope),
    Audit(Selection),
    List,
    Foundations(Witnesses),
    Count(BTreeSet<VirtualServerKey>),
    DeleteStale(Family, Arc<[StaleEntry]>),
    Apply(Arc<Plan>, Scope),
}

impl Task {
    /// The work to be done for it.
    pub(super) fn work(&self) -> Work {
        match self {
            Self::Adopt => Work::Read(Selection::Everything),
            Self::Reread(scope) => Work::Read(Selection::Keys(scope.clone())),
            Self::Audit(selection) => Work::Read(selection.clone()),
            Self::List => Work::List,
            Self::Foundations(witnesses) => Work::Foundations(witnesses.clone()),
            Self::Count(servers) => Work::Count(servers.clone()),
            Self::DeleteStale(_, entries) => Work::DeleteStale(Arc::clone(entries)),
            Self::Apply(plan, _) => Work::Apply(Arc::clone(plan)),
        }
    }
}

/// The piece of work that was handed out and has no answer yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) task: Task,
    /// When it was handed out.
    pub(super) since: Instant,
    /// What it has cost, if known: see [`super::Reconciler::spent`].
    pub(super) spent: Option<Duration>,
}
