//! Whose is it: what in the kernel may be removed.

use ipnet::IpNet;
use rustix::io::Errno;

use crate::diff::Step;
use crate::state::{Element, Key, State, VirtualServerKey};

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

/// Whether something of this kind is removed when it is not wanted. Settings are only ever set.
pub(super) fn is_removable(key: &Key) -> bool {
    match key {
        Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => false,
        Key::Element(_) | Key::VirtualServer(_) | Key::Address(_) => true,
    }
}

/// Whether a refusal says that our picture of the kernel was wrong: there was what was to be made, or was not what was
/// to be changed or removed.
pub(super) fn contradicts_picture(step: &Step, errno: i32) -> bool {
    let errno = Errno::from_raw_os_error(errno);
    match step {
        Step::AddDevice
        | Step::AddElement(_)
        | Step::AddVirtualServer(..)
        | Step::AddAddress(_)
        | Step::AddRoute(_) => errno == Errno::EXIST,
        Step::AddRealServer(..) => matches!(errno, Errno::EXIST | Errno::SRCH),
        Step::DeleteElement(_)
        | Step::EditVirtualServer(..)
        | Step::DeleteVirtualServer(_)
        | Step::EditRealServer(..)
        | Step::DeleteRealServer(..)
        | Step::EditAddress(_)
        | Step::DeleteAddress(_) => matches!(errno, Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL),
        Step::SetSysctl(..) | Step::SetTimeouts(_) | Step::InstallRules(..) => false,
    }
}
