//! Wanted − actual → steps.
//!
//! [`diff`] compares two states, key by key, and returns what must be written in which order ([`order`]) to get from
//! one to the other; [`Step::apply_to`] gives the state after a step. One law joins them and is tested as a property:
//! after all steps of a plan, [`accepts`] holds and another diff is empty. [`purge`] has what is not state but must be
//! done afterwards.
//!
//! Pure: no clock, no I/O, and no knowledge of who owns an object: the scope holds only what is ours.

pub mod accept;
mod address;
mod apply;
mod filter;
mod ipvs;
mod kind;
pub mod order;
pub mod plan;
pub mod purge;
#[cfg(test)]
mod tests;

pub use accept::accepts;
pub use kind::StepKind;
pub use plan::{Phase, Plan, PlannedStep, Step};

use crate::state::{Key, Scope, State};
use order::Draft;

/// The steps that make `actual` what `wanted` says, for every key of the scope.
///
/// Keys outside the scope are left alone, whatever the states hold for them, with two exceptions: if a table's rules
/// must be replaced, the table is made with all wanted elements of its family, and an element that a wanted one
/// excludes is deleted.
pub fn diff(wanted: &State, actual: &State, scope: &Scope) -> Plan {
    let mut draft = Draft::default();
    for key in scope {
        match key {
            Key::Device => {
                if wanted.device && !actual.device {
                    draft.add(Step::AddDevice);
                }
            }
            Key::Sysctl(sysctl) => {
                if let Some(value) = wanted.sysctls.get(sysctl)
                    && actual.sysctls.get(sysctl) != Some(value)
                {
                    draft.add(Step::SetSysctl(*sysctl, value.clone()));
                }
            }
            Key::Timeouts => {
                if !accept::timeouts(wanted.timeouts, actual.timeouts) {
                    draft.add(Step::SetTimeouts(wanted.timeouts));
                }
            }
            Key::Rules(family) => filter::rules(wanted, actual, *family, scope, &mut draft),
            Key::Element(element) => filter::element(wanted, actual, *element, &mut draft),
            Key::VirtualServer(server) => ipvs::virtual_server(wanted, actual, *server, &mut draft),
            Key::Address(address) => address::address(wanted, actual, *address, &mut draft),
        }
    }
    draft.into_plan(actual)
}
