//! The device that holds the service addresses: a dummy that is never set up (contract 4.6).

use std::io;

use rustix::io::Errno;

use super::netlink::{Attribute, CREATE, EXCLUSIVE, Frames, Message, Socket, Verdict, lost, malformed};
use super::{Outcome, Refusal};
use crate::state::DEVICE;

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK` (`linux/rtnetlink.h`).
pub(super) const NEW_LINK: u16 = 16;
pub(super) const DELETE_LINK: u16 = 17;
pub(super) const GET_LINK: u16 = 18;
/// Length of `struct ifinfomsg`.
pub(super) const HEADER_LENGTH: usize = 16;
/// `IFLA_*` (`linux/if_link.h`).
const HARDWARE_ADDRESS: u16 = 1;
pub(super) const NAME: u16 = 3;
const INFO: u16 = 18;
/// `IFLA_INFO_KIND`.
const KIND: u16 = 1;
const DUMMY: &str = "dummy";

/// A device that has our device's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number.
    pub(crate) index: u32,
    /// Its kind, as `ip -details link` shows it; empty for hardware.
    pub(crate) kind: String,
}

impl Link {
    /// Whether the device is of the kind that we make, and so may be used.
    pub(crate) fn is_dummy(&self) -> bool {
        self.kind == DUMMY
    }

    /// Why a device of another kind is not used.
    fn objection(&self) -> String {
        let found = if self.kind.is_empty() { "a hardware device" } else { &self.kind };
        format!("device {DEVICE} exists, but is {found}, not a dummy: rename or remove it")
    }
}

/// The device of our name; `None`: there is none.
pub(crate) fn find(socket: &mut Socket) -> io::Result<Option<Link>> {
    let found = socket.get(
        GET_LINK,
        |body| {
            body.fixed(&[0; HEADER_LENGTH]);
            body.text(NAME, DEVICE);
        },
        |message| decode(message).map(Some),
    );
    match found {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        found => found,
    }
}

/// Makes the device.
pub(crate) fn add(socket: &mut Socket) -> Outcome {
    let mut frames = Frames::new();
    frames.push(NEW_LINK, CREATE | EXCLUSIVE, |body| {
        body.fixed(&[0; HEADER_LENGTH]);
        body.text(NAME, DEVICE);
        body.nest(INFO, |body| body.text(KIND, DUMMY));
    });
    match socket.batch(&mut frames).pop() {
        Some(Verdict::Errno(refusal)) if refusal.is(Errno::EXIST) => match find(socket) {
            Ok(Some(link)) if !link.is_dummy() => {
                Outcome::Refused(Refusal { text: link.objection(), ..refusal })
            }
            _ => Outcome::Refused(refusal),
        },
        verdict => verdict.map_or(Outcome::Unknown, Outcome::from),
    }
}

/// Removes a device, by its number.
pub(crate) fn delete(socket: &mut Socket, index: u32) -> Outcome {
    let mut frames = Frames::new();
    frames.push(DELETE_LINK, 0, |body| {
        // `struct ifinfomsg`: family, type, number, flags, change.
        let mut header = [0; HEADER_LENGTH];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        body.fixed(&header);
    });
    socket.batch(&mut frames).pop().map_or(Outcome::Unknown, Outcome::from)
}

/// Whether the kernel can make dummies, found out without making one: the check of this kind rejects a multicast
/// hardware address, and is reached only if the kind exists (the kernel loads its module if it can).
pub(crate) fn dummies_supported(socket: &mut Socket) -> io::Result<bool> {
    if find(socket)?.is_some_and(|link| link.is_dummy()) {
        return Ok(true);
    }
    let mut frames = Frames::new();
    frames.push(NEW_LINK, CREATE | EXCLUSIVE, |body| {
        body.fixed(&[0; HEADER_LENGTH]);
        body.text(NAME, "kube-ipvs-probe");
        body.attribute(HARDWARE_ADDRESS, &[0x01, 0, 0, 0, 0, 0]);
        body.nest(INFO, |body| body.text(KIND, DUMMY));
    });
    match socket.batch(&mut frames).pop() {
        Some(Verdict::Errno(refusal)) if refusal.is(Errno::ADDRNOTAVAIL) => Ok(true),
        Some(Verdict::Errno(refusal)) if refusal.is(Errno::OPNOTSUPP) => Ok(false),
        Some(Verdict::Errno(refusal)) => Err(io::Error::other(refusal.text)),
        Some(Verdict::Done) => Err(io::Error::other(
            "device kube-ipvs-probe was created although its hardware address is invalid: remove it",
        )),
        Some(Verdict::Unknown) | None => Err(lost()),
    }
}

fn decode(message: Message<'_>) -> io::Result<Link> {
    let index = message.payload.get(4..).and_then(<[u8]>::first_chunk).copied().map(u32::from_ne_bytes);
    let index = index.ok_or_else(|| malformed("a device"))?;
    let info = message.attributes(HEADER_LENGTH).get(INFO);
    let kind = info.and_then(|info| info.nested().get(KIND)).and_then(Attribute::text).unwrap_or_default();
    Ok(Link { index, kind: kind.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_off_says_what_it_is_about() {
        let message = Message { kind: NEW_LINK, flags: 0, sequence: 1, payload: &[0; 7] };
        let error = decode(message).expect_err("no number");
        assert_eq!(
            error.to_string(),
            "the kernel's description of a device is incomplete or of an unknown form"
        );
    }
}
