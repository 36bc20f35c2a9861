//! Whose is it: what in the kernel may be removed.

use ipnet::IpNet;

use super::{Element, State, VirtualServerKey};

/// Whether a virtual server that nobody wants is ours (or kube-proxy's, whose place we take): its address is on the
/// device, or it is in our set of owned virtual servers or, unless another device has its address too, the address is
/// in our sets of service addresses. Those sets are written before a virtual server and given up after it, so that a
/// crash in between leaves nothing that nobody owns. Everything else is somebody's and stays.
pub(crate) fn is_ours(state: &State, key: &VirtualServerKey) -> bool {
    let has = |element| state.elements.contains(&element);
    let is_address = has(Element::ClusterAddress(key.address)) || has(Element::ExternalAddress(key.address));
    state.addresses.contains_key(&key.address)
        || has(Element::Owned(*key))
        || is_address && !has(Element::SharedAddress(key.address))
}

/// Whether the user forbade to remove virtual servers there (`--ipvs-exclude-cidrs`).
pub(crate) fn is_excluded(networks: &[IpNet], key: &VirtualServerKey) -> bool {
    networks.iter().any(|network| network.contains(&key.address))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::Address;
    use super::*;
    use crate::cluster::types::Protocol;

    #[test]
    fn a_virtual_server_is_ours_where_something_of_ours_says_so() {
        let address = |last: u8| IpAddr::from([203, 0, 113, last]);
        let server = |last, port| VirtualServerKey { address: address(last), protocol: Protocol::Tcp, port };
        let key = server(1, 80);
        let shared = Element::SharedAddress(address(1));
        for (elements, on_device, ours) in [
            (&[][..], None, false),
            (&[], Some(address(1)), true),
            (&[], Some(address(2)), false),
            (&[Element::ClusterAddress(address(1))], None, true),
            (&[Element::ExternalAddress(address(1))], None, true),
            (&[Element::ClusterAddress(address(2)), Element::ExternalAddress(address(2))], None, false),
            // Another device has the address too: what is there may be somebody's.
            (&[Element::ClusterAddress(address(1)), shared], None, false),
            (&[Element::ExternalAddress(address(1)), shared], None, false),
            (&[Element::ExternalAddress(address(1)), shared, Element::Owned(key)], None, true),
            (&[Element::ExternalAddress(address(1)), shared, Element::Owned(server(1, 81))], None, false),
            (&[shared], None, false),
            (&[Element::Owned(key)], None, true),
        ] {
            let state = State {
                elements: elements.iter().copied().collect(),
                addresses: on_device.iter().map(|address| (*address, Address::wanted(*address))).collect(),
                ..State::default()
            };
            assert_eq!(is_ours(&state, &key), ours, "{elements:?} {on_device:?}");
        }
    }
}
