//! What a refusal says besides that a step was not done.
//!
//! It may say that the picture of the kernel is wrong, or that something else is missing; and it is about one object,
//! or about this node. Pure.
//!
//! A Service that no kernel accepts is refused on every node. If that made nodes unhealthy, it would take them all out
//! of the load balancers. So single objects that are refused do not count as waiting to be written. They are still
//! tried again and named.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::schedule::Failure;
use crate::cluster::types::Family;
use crate::diff::Step;
use crate::kernel::Refusal;
use crate::state::{Element, Key, State, VirtualServerKey};

/// Whether a refusal is about this object alone, as far as the error tells.
///
/// The foundations are no such object, and for want of memory or rights the kernel refuses everything. We do without
/// most sysctls where they may not be written, but not without those that forwarding needs. Timeouts only say how long
/// connections are remembered.
pub(super) fn is_single(key: &Key, refusal: &Refusal) -> bool {
    let about_all = [Errno::PERM, Errno::ACCESS, Errno::NOMEM, Errno::NOBUFS];
    match key {
        Key::Element(_) | Key::VirtualServer(_) | Key::Address(_) => {
            !about_all.into_iter().any(|errno| refusal.is(errno))
        }
        Key::Sysctl(sysctl) => !sysctl.is_needed(),
        Key::Device | Key::Rules(_) => false,
        Key::Timeouts => true,
    }
}

/// What else a refusal says is missing, besides what the step is about: the device for an address, or the table with
/// the set of an element.
pub(super) fn misses(step: &Step, refusal: &Refusal) -> Option<Key> {
    match step {
        Step::AddAddress(_) | Step::EditAddress(_) | Step::DeleteAddress(_) | Step::AddRoute(_) => {
            refusal.is(Errno::NODEV).then_some(Key::Device)
        }
        Step::AddElement(element) | Step::DeleteElement(element) => {
            refusal.is(Errno::NOENT).then(|| Key::Rules(element.family()))
        }
        _ => None,
    }
}

/// Whether a refusal says that our picture of the kernel was wrong: what was to be made existed already, or what was to
/// be changed or removed did not exist.
pub(super) fn contradicts_picture(step: &Step, refusal: &Refusal) -> bool {
    let is = |errno| refusal.is(errno);
    match step {
        Step::AddDevice
        | Step::AddElement(_)
        | Step::AddVirtualServer(..)
        | Step::AddAddress(_)
        | Step::AddRoute(_) => is(Errno::EXIST),
        Step::AddRealServer(..) => is(Errno::EXIST) || is(Errno::SRCH),
        Step::DeleteElement(_)
        | Step::EditVirtualServer(..)
        | Step::DeleteVirtualServer(_)
        | Step::EditRealServer(..)
        | Step::DeleteRealServer(..)
        | Step::EditAddress(_)
        | Step::DeleteAddress(_) => is(Errno::NOENT) || is(Errno::SRCH) || is(Errno::ADDRNOTAVAIL),
        Step::SetSysctl(..) | Step::SetTimeouts(_) | Step::InstallRules(..) => false,
    }
}

/// Whether, for each kind of object of a family, fewer fail than are as wanted. A kernel that accepts none of a kind
/// may give any error for that.
pub(super) fn are_few(
    failures: &BTreeMap<Key, Failure>,
    actual: &State,
    wanted: impl Fn(&Key) -> bool,
    family: Family,
) -> bool {
    let of_family = |key: &Key| key.family() == Some(family);
    let stands = |key: &Key| of_family(key) && wanted(key) && !failures.contains_key(key);
    let (mut elements, mut servers, mut addresses) = (0, 0, 0);
    for key in failures.keys().filter(|key| of_family(key)) {
        match key {
            Key::Element(_) => elements += 1,
            Key::VirtualServer(_) => servers += 1,
            Key::Address(_) => addresses += 1,
            // There are not many of these of one kind: nothing to count.
            Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => {}
        }
    }
    // Counts no further than needed: there may be many.
    let more = |keys: &mut dyn Iterator<Item = Key>, count: usize| {
        count == 0 || keys.filter(stands).nth(count).is_some()
    };
    // These start where the family begins: otherwise each change would walk past all of the other family, as long as an
    // object is refused. Most elements are cluster IPs.
    let lowest = family.unspecified_address();
    let of_elements = Element::ClusterAddress(lowest);
    let of_servers = *VirtualServerKey::all_at(lowest).start();
    let all_elements = actual.elements.range(of_elements..).chain(actual.elements.range(..of_elements));
    let all_servers = actual.virtual_servers.range(of_servers..).map(|(key, _)| Key::VirtualServer(*key));
    let all_addresses = actual.addresses.range(lowest..).map(|(address, _)| Key::Address(*address));
    more(&mut all_elements.copied().map(Key::Element), elements)
        && more(&mut { all_servers }, servers)
        && more(&mut { all_addresses }, addresses)
}
