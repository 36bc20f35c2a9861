//! Rehearses the first sync: which writes it would make, without making them.
//!
//! The [`Reconciler`] itself decides, as at every start, and is told that each write was done. So a start adopts,
//! leaves alone and drains what the rehearsal does. What the kernel would refuse is not known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::core::{Answer, Next, Reconciler, Work};
use super::note::Note;
use crate::cluster::types::ServiceKey;
use crate::diff::Step;
use crate::diff::purge::Purge;
use crate::kernel::{Kernel, Outcome, ReadError};
use crate::state::{RealServer, Rules, State, VirtualServerKey, Weight};

/// What a first sync would do.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// The writes, in the order in which they would be made.
    pub writes: Vec<Write>,
    /// The virtual servers whose stale entries of connection tracking would be deleted afterwards.
    pub purge: Option<Arc<Purge>>,
    /// The virtual servers that are not ours, and would stay.
    pub foreign: BTreeSet<VirtualServerKey>,
    /// All other notes.
    pub notes: Vec<Note>,
}

/// Something that would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The step.
    pub step: Step,
    /// The Services that it belongs to; none for a setting, or for a Service that no longer exists.
    pub services: Vec<ServiceKey>,
    /// What is there now, in words, where the step changes a value.
    pub before: Option<String>,
}

/// Rehearses the first sync from what the reconciler knows by now; `None`: the facts are not complete yet.
///
/// The kernel is only read. Afterwards the reconciler believes that everything was written.
///
/// # Errors
/// The kernel could not be read.
pub fn rehearse(
    reconciler: &mut Reconciler,
    kernel: &mut dyn Kernel,
    now: Instant,
) -> Result<Option<Rehearsal>, ReadError> {
    let (mut rehearsal, mut synced) = (Rehearsal::default(), false);
    loop {
        let next = reconciler.next(now);
        for note in reconciler.take_notes() {
            match note {
                Note::FirstSync => synced = true,
                Note::Foreign(servers) => rehearsal.foreign = servers,
                Note::Unreadable(_, error) => return Err(error),
                other => rehearsal.notes.push(other),
            }
        }
        let answer = match next {
            Next::Work(Work::Apply(plan)) => {
                let steps = plan.steps.iter().map(|planned| &planned.step);
                rehearsal.writes.extend(steps.map(|step| write(step, reconciler)));
                Answer::Outcomes(vec![Outcome::Done; plan.steps.len()])
            }
            Next::Work(Work::FindStale(purge)) => {
                rehearsal.purge = Some(purge);
                return Ok(Some(rehearsal));
            }
            Next::Work(work) if !synced => work.carry_out(kernel),
            Next::Work(_) | Next::Wait(_) => return Ok(synced.then_some(rehearsal)),
        };
        reconciler.complete(answer, now);
    }
}

fn write(step: &Step, reconciler: &Reconciler) -> Write {
    let services = reconciler.services_of(&step.key()).cloned().collect();
    Write { step: step.clone(), services, before: before(step, reconciler.actual()) }
}

/// What a step would change, as it is now, in words.
fn before(step: &Step, actual: &State) -> Option<String> {
    let real_server = |key, real| actual.virtual_servers.get(key)?.real_servers.get(real);
    match step {
        Step::SetSysctl(sysctl, _) => actual.sysctls.get(sysctl).cloned(),
        Step::SetTimeouts(_) => Some(actual.timeouts.to_string()),
        Step::EditVirtualServer(key, _) => actual.virtual_servers.get(key).map(ToString::to_string),
        Step::EditRealServer(key, real, _) => real_server(key, real).map(in_words),
        Step::InstallRules(family, ..) => actual.rules.get(family).map(|rules| match rules {
            Rules::Intact(_) => "other settings".to_owned(),
            Rules::Other(why) => why.clone(),
        }),
        _ => None,
    }
}

/// The properties of a real server that may differ from the wanted ones, in words.
fn in_words(server: &RealServer) -> String {
    let mut words = match server.weight {
        Weight::Exactly(weight) => format!("weight {weight}"),
        Weight::DrainIfPresent => "weight 0".to_owned(),
    };
    if server.forwarding != RealServer::MASQUERADE {
        words += ", not by address translation";
    }
    if server.is_limited {
        words += ", with a threshold";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_of_a_real_server_is_named() {
        let wanted = RealServer::with(Weight::Exactly(1));
        for (server, words) in [
            (wanted, "weight 1"),
            (RealServer { is_limited: true, ..wanted }, "weight 1, with a threshold"),
            (RealServer { forwarding: 3, ..wanted }, "weight 1, not by address translation"),
            (RealServer::with(Weight::DrainIfPresent), "weight 0"),
        ] {
            assert_eq!(in_words(&server), words);
        }
    }
}
