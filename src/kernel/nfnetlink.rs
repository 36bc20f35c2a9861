//! What the netlink subsystems of netfilter have in common (`linux/netfilter/nfnetlink.h`).

use super::bytes::family_number;
use super::netlink::{Attributes, Body, Message};
use crate::cluster::types::Family;

/// Length of `struct nfgenmsg`.
const HEADER_LENGTH: usize = 4;

/// The message type of this number in a subsystem (`NFNL_SUBSYS_*`).
pub(super) const fn kind(subsystem: u16, number: u16) -> u16 {
    subsystem << 8 | number
}

/// Writes `struct nfgenmsg`; without a family, `NFPROTO_UNSPEC`.
pub(super) fn header(body: &mut Body<'_>, family: impl Into<Option<Family>>) {
    body.fixed(&[family.into().map_or(0, family_number), 0, 0, 0]);
}

/// Whether a message is about this family.
pub(super) fn is_of_family(message: &Message<'_>, family: Family) -> bool {
    message.payload.first() == Some(&family_number(family))
}

/// The attributes of a message.
pub(super) fn attributes<'a>(message: &Message<'a>) -> Attributes<'a> {
    message.attributes(HEADER_LENGTH)
}
