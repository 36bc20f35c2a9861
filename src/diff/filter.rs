//! The difference of our nftables tables.

use super::order::Draft;
use super::plan::Step;
use crate::cluster::types::Family;
use crate::state::{Element, Rules, State};

/// Rules that are not exactly ours are made anew, elements included. Keys sort rules before elements, so this comes
/// before any element of the family.
pub(super) fn rules(wanted: &State, actual: &State, family: Family, draft: &mut Draft) {
    let Some(Rules::Intact(settings)) = wanted.rules.get(&family) else { return };
    if actual.rules.get(&family) != wanted.rules.get(&family) {
        let elements = wanted.elements.iter().filter(|element| element.family() == family);
        draft.add(Step::InstallRules(family, settings.clone(), elements.copied().collect()));
    }
}

pub(super) fn element(wanted: &State, actual: &State, element: Element, draft: &mut Draft) {
    if draft.installs(element.family()) {
        return;
    }
    match (wanted.elements.contains(&element), actual.elements.contains(&element)) {
        (true, false) => draft.add(Step::AddElement(element)),
        (false, true) => draft.add(Step::DeleteElement(element)),
        (true, true) | (false, false) => {}
    }
}
