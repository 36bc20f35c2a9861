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
