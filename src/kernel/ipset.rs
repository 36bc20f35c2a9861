//! The kernel's ipsets (`linux/netfilter/ipset/ip_set.h`): listed and destroyed, never made. They are kube-proxy's.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::netlink::{Attribute, Body, Frames, Message, Protocol, Socket, Verdict};
use super::nfnetlink::{attributes, header, kind};
use super::{Outcome, Refusal};

/// `NFNL_SUBSYS_IPSET`.
const SUBSYSTEM: u16 = 6;
/// `IPSET_CMD_DESTROY`, `IPSET_CMD_LIST`.
const DESTROY: u16 = kind(SUBSYSTEM, 3);
const LIST: u16 = kind(SUBSYSTEM, 7);
/// `IPSET_ATTR_*` of a message.
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const ELEMENTS: u16 = 8;
    /// In an element, inside [`DATA`].
    pub(super) const PORT: u16 = 4;
    pub(super) const DATA: u16 = 7;
}
/// `IPSET_PROTOCOL_MIN`: all kernels support it.
const PROTOCOL: u8 = 6;
/// `IPSET_FLAG_LIST_SETNAME`: only names, no elements.
const NAMES_ONLY: u32 = 1 << 1;

/// The ipsets in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct IpSets {
    socket: Socket,
}

impl IpSets {
    /// `IPSET_ERR_BUSY`, the error number for a set that rules refer to.
    pub const IN_USE: i32 = 4100;

    /// Opens a socket for the ipsets; `None`: the kernel has none now. The check does not use netlink, which would load
    /// the module.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open() -> io::Result<Option<Self>> {
        if !Path::new("/sys/module/ip_set").exists() {
            return Ok(None);
        }
        Ok(Some(Self { socket: Socket::open(Protocol::Netfilter)? }))
    }

    /// The names of all sets.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn names(&mut self) -> io::Result<Vec<String>> {
        let body = |out: &mut Body<'_>| {
            head(out);
            out.be32(attribute::FLAGS, NAMES_ONLY);
        };
        let names = self.socket.dump(LIST, body, |message| Ok(name_of(message)))?;
        Ok(names.items)
    }

    /// The ports in the elements of a set, whatever else the elements hold; none if the set does not exist.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn ports(&mut self, name: &str) -> io::Result<Vec<u16>> {
        let body = |out: &mut Body<'_>| {
            head(out);
            out.text(attribute::NAME, name);
        };
        match self.socket.dump(LIST, body, |message| Ok(Some(ports_of(message)))) {
            Ok(parts) => Ok(parts.items.concat()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Destroys sets, each on its own. A set that rules refer to is refused.
    pub fn destroy(&mut self, names: &[String]) -> Vec<Outcome> {
        let mut frames = Frames::new();
        for name in names {
            // Without a name, the request would destroy all sets.
            assert!(!name.is_empty(), "a set has a name");
            frames.push(DESTROY, 0, |out| {
                head(out);
                out.text(attribute::NAME, name);
            });
        }
        let explained = |verdict| match verdict {
            Verdict::Errno(Refusal { errno: Self::IN_USE, .. }) => {
                Outcome::Refused(Refusal { errno: Self::IN_USE, text: "rules refer to it".to_owned() })
            }
            verdict => verdict.into(),
        };
        self.socket.batch(&mut frames).into_iter().map(explained).collect()
    }
}

fn head(out: &mut Body<'_>) {
    header(out, None);
    out.u8(attribute::PROTOCOL, PROTOCOL);
}

fn name_of(message: Message<'_>) -> Option<String> {
    attributes(&message).get(attribute::NAME).and_then(Attribute::text).map(str::to_owned)
}

fn ports_of(message: Message<'_>) -> Vec<u16> {
    let Some(elements) = attributes(&message).get(attribute::ELEMENTS) else {
        return Vec::new();
    };
    let elements = elements.nested().filter(|element| element.kind == attribute::DATA);
    elements.filter_map(|element| element.nested().get(attribute::PORT).and_then(Attribute::be16)).collect()
}
