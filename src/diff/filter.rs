//! The difference of our nftables tables.

use super::order::{Draft, has_virtual_server};
use super::plan::Step;
use crate::cluster::types::Family;
use crate::state::{Element, Key, Rules, Scope, State, VirtualServerKey};

/// Replaces rules that are not exactly ours, elements included. Keys sort rules before elements, so this comes before
/// any element of the family. Elements that say whose a virtual server is stay until that virtual server is gone.
pub(super) fn rules(wanted: &State, actual: &State, family: Family, scope: &Scope, draft: &mut Draft) {
    let Some(Rules::Intact(settings)) = wanted.rules.get(&family) else { return };
    if actual.rules.get(&family) != wanted.rules.get(&family) {
        let of_family = |element: &Element| element.family() == family;
        let kept = actual.elements.difference(&wanted.elements).copied();
        let kept = kept.filter(|element| tells_owner(actual, *element));
        let orphans: Vec<Element> = orphans(wanted, actual, scope).filter(of_family).collect();
        for orphan in &orphans {
            draft.delete(*orphan);
        }
        let elements = wanted.elements.iter().copied().chain(kept).filter(of_family).chain(orphans);
        draft.add(Step::InstallRules(family, settings.clone(), elements.collect()));
    }
}

/// The ownership elements of virtual servers that are deleted at an address that becomes shared.
///
/// Until now the address alone showed that these are ours, but a shared address shows nothing. A table that is replaced
/// has these elements until the virtual servers are gone. A wanted element is not an orphan: an entry point without
/// endpoints has no virtual server, but is owned.
fn orphans<'a>(wanted: &'a State, actual: &'a State, scope: &'a Scope) -> impl Iterator<Item = Element> {
    let shared_now = wanted.elements.difference(&actual.elements).filter_map(|element| match element {
        Element::SharedAddress(address) => Some(*address),
        _ => None,
    });
    let goes = move |server: &VirtualServerKey| {
        scope.contains(&Key::VirtualServer(*server)) && !wanted.virtual_servers.contains_key(server)
    };
    let servers = shared_now.flat_map(move |address| actual.virtual_servers_at(address)).filter(goes);
    let is_new = |element: &Element| !wanted.elements.contains(element) && !actual.elements.contains(element);
    servers.map(Element::Owned).filter(is_new)
}

pub(super) fn element(wanted: &State, actual: &State, element: Element, draft: &mut Draft) {
    let is_installed = draft.installs(element.family());
    match (wanted.elements.contains(&element), actual.elements.contains(&element)) {
        (true, false) if !is_installed => {
            draft.add(Step::AddElement(element));
            // Its rivals are deleted even if their own keys are not in the scope.
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

/// Whether an element shows that an existing virtual server is ours, or that another one at its address is not.
fn tells_owner(actual: &State, element: Element) -> bool {
    match element {
        Element::Owned(server) => actual.virtual_servers.contains_key(&server),
        Element::ClusterAddress(address)
        | Element::ExternalAddress(address)
        | Element::SharedAddress(address) => has_virtual_server(actual, address),
        _ => false,
    }
}

/// The existing elements that cannot stay beside a new one. Existing elements do not exclude each other, and elements
/// are ordered by kind, entry point and then address, so all rivals are next to the new one, and the first neighbour
/// that is not a rival ends the search.
fn rivals(actual: &State, element: Element) -> impl Iterator<Item = Element> {
    let is_rival = move |other: &&Element| element.excludes(other);
    let before = actual.elements.range(..element).rev().take_while(is_rival);
    let after = actual.elements.range(element..).take_while(is_rival);
    before.chain(after).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::types::Protocol;
    use crate::state::VirtualServerKey;

    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 22..=32u8).prop_map(|(last, bits)| (IpAddr::from([10, 0, 0, last]), bits));
        let v6 = (any::<u8>(), 118..=128u8)
            .prop_map(|(last, bits)| (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]), bits));
        let all = (any::<IpAddr>(), 0..=32u8);
        prop_oneof![4 => v4, 2 => v6, 1 => all]
            .prop_map(|(address, bits)| IpNet::new(address, bits).expect("bits of an address").trunc())
    }

    fn element() -> impl Strategy<Value = Element> {
        let server = (1..3u8, 80..82u16).prop_map(|(last, port)| VirtualServerKey {
            address: IpAddr::from([203, 0, 113, last]),
            protocol: Protocol::Tcp,
            port,
        });
        (server, network(), 0..8u16).prop_map(|(server, network, kind)| match kind {
            0 => Element::Restricted(server),
            1 | 2 => Element::InCluster(server, IpAddr::from([10, 96, 0, 1]), 80 + kind),
            _ => Element::Allowed(server, network),
        })
    }

    proptest! {
        #[test]
        fn rivals_are_those_that_a_walk_through_everything_finds(
            there in proptest::collection::vec(element(), 0..60),
            new in element(),
        ) {
            let mut actual = State::default();
            for element in there {
                if !actual.elements.iter().any(|other| element.excludes(other)) {
                    actual.elements.insert(element);
                }
            }
            let found: BTreeSet<Element> = rivals(&actual, new).collect();
            let all = actual.elements.iter().filter(|other| new.excludes(other));
            prop_assert!(new.is_exclusive() || all.clone().next().is_none());
            prop_assert_eq!(found, all.copied().collect::<BTreeSet<_>>());
        }
    }
}
