//! The difference of our nftables tables.

use super::order::{Draft, serves};
use super::plan::Step;
use crate::cluster::types::Family;
use crate::state::{Element, Rules, State};

/// Rules that are not exactly ours are made anew, elements included. Keys sort rules before elements, so this comes
/// before any element of the family. What says whose a virtual server is stays until that is gone.
pub(super) fn rules(wanted: &State, actual: &State, family: Family, draft: &mut Draft) {
    let Some(Rules::Intact(settings)) = wanted.rules.get(&family) else { return };
    if actual.rules.get(&family) != wanted.rules.get(&family) {
        let kept =
            actual.elements.difference(&wanted.elements).filter(|element| tells_owner(actual, **element));
        let elements = wanted.elements.iter().chain(kept).filter(|element| element.family() == family);
        draft.add(Step::InstallRules(family, settings.clone(), elements.copied().collect()));
    }
}

pub(super) fn element(wanted: &State, actual: &State, element: Element, draft: &mut Draft) {
    let is_installed = draft.installs(element.family());
    match (wanted.elements.contains(&element), actual.elements.contains(&element)) {
        (true, false) if !is_installed => {
            draft.add(Step::AddElement(element));
            // What is in its way goes, though nobody has come to look at that yet.
            for rival in rivals(actual, element) {
                draft.delete(rival);
            }
        }
        (false, true) if !is_installed || tells_owner(actual, element) => {
            draft.delete(element);
        }
        _ => {}
    }
}

/// Whether an element is why a virtual server that exists is known to be ours, or another one there is not.
fn tells_owner(actual: &State, element: Element) -> bool {
    match element {
        Element::Owned(server) => actual.virtual_servers.contains_key(&server),
        Element::ClusterAddress(address)
        | Element::ExternalAddress(address)
        | Element::SharedAddress(address) => serves(actual, address),
        _ => false,
    }
}

/// The elements that are there and cannot stay beside a new one.
fn rivals(actual: &State, element: Element) -> impl Iterator<Item = Element> {
    // Elements are ordered by kind and then by entry point: those that may be in the way are its neighbours.
    let near = move |other: &&Element| {
        std::mem::discriminant(*other) == std::mem::discriminant(&element)
            && element.entry_point().is_some_and(|server| other.entry_point() == Some(server))
    };
    let before = actual.elements.range(..element).rev().take_while(near);
    let after = actual.elements.range(element..).take_while(near);
    before.chain(after).copied().filter(move |other| element.excludes(other))
}
