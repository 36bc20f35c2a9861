//! Ownership: which virtual servers in the kernel may be removed.

use ipnet::IpNet;

use super::{Element, State, VirtualServerKey};

/// Whether a virtual server that nobody wants is ours (or kube-proxy's, whose place we take).
///
/// It is ours if its address is on the device, if it is in our set of owned virtual servers, or if its address is in
/// our sets of service addresses and no other device has that address. Those sets are written before a virtual server
/// and cleared after it, so that a crash in between leaves nothing without an owner. Every other virtual server is
/// somebody else's and stays.
pub(crate) fn is_ours(state: &State, key: &VirtualServerKey) -> bool {
    let has = |element| state.elements.contains(&element);
    let is_address = has(Element::ClusterAddress(key.address)) || has(Element::ExternalAddress(key.address));
    state.addresses.contains_key(&key.address)
        || has(Element::Owned(*key))
        || is_address && !has(Element::SharedAddress(key.address))
}

/// Whether the user forbids removing this virtual server (`--ipvs-exclude-cidrs`).
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
            // Another device has the address too: a virtual server there may be somebody else's.
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
