//! Logs what was written, step by step: for `-v 3`.

use super::named;
use crate::diff::{Plan, Step};
use crate::kernel::Outcome;
use crate::reconcile::core::Reconciler;
use crate::reconcile::note::Verdict;
use crate::state::Weight;
use crate::telemetry;
use crate::vlog;

/// The `-v` from which on each step has a line.
const LEVEL: u8 = 3;

/// Logs each step of a plan, with the object it is about and what became of it.
pub(super) fn log(reconciler: &Reconciler, plan: &Plan, outcomes: &[Outcome]) {
    if !telemetry::v(LEVEL) {
        return;
    }
    for (planned, outcome) in plan.steps.iter().zip(outcomes) {
        let step = &planned.step;
        let key = step.key();
        vlog!(
            LEVEL,
            service = named(reconciler.services_of(&key)),
            object = %key,
            kind = step.kind().as_str(),
            endpoint = step.real_server().map(tracing::field::display),
            weight = weight(step),
            verdict = Verdict::of(outcome).as_str(),
            "Wrote"
        );
    }
}

/// The weight that a real server gets.
fn weight(step: &Step) -> Option<u32> {
    match step {
        Step::AddRealServer(_, _, real) | Step::EditRealServer(_, _, real) => match real.weight {
            Weight::Exactly(weight) => Some(weight),
            Weight::DrainIfPresent => Some(0),
        },
        _ => None,
    }
}
