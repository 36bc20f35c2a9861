//! The difference of addresses on the device and their routes.

use std::net::IpAddr;

use super::order::Draft;
use super::plan::Step;
use crate::state::State;

pub(super) fn address(wanted: &State, actual: &State, address: IpAddr, draft: &mut Draft) {
    match (wanted.addresses.get(&address), actual.addresses.get(&address)) {
        (None, None) => {}
        (None, Some(_)) => draft.add(Step::DeleteAddress(address)),
        (Some(_), None) => draft.add(Step::AddAddress(address)),
        (Some(wanted), Some(actual)) => {
            if wanted.deprecated != actual.deprecated {
                draft.add(Step::EditAddress(address));
            }
            if wanted.routed && !actual.routed {
                draft.add(Step::AddRoute(address));
            }
        }
    }
}
