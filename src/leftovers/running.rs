//! Tells whether this program runs on the node: while it runs, it writes again whatever is removed.
//!
//! The sign is a name in the abstract namespace of Unix sockets. The name belongs to the network namespace, like
//! everything of ours, so a pod in the host's network sees it without a mount; and it vanishes with the process,
//! however that ends.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const NAME: &str = "kube-ipvs";

/// The sign that this program runs. Nothing is ever sent over its socket.
#[derive(Debug)]
pub struct Sign {
    _socket: UnixDatagram,
}

impl Sign {
    /// Sets the sign that this program runs. It lasts until it is dropped.
    ///
    /// # Errors
    /// `AddrInUse`: another instance runs. Others: those of the socket.
    pub fn set() -> io::Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        Ok(Self { _socket: UnixDatagram::bind_addr(&name)? })
    }
}

/// Whether this program runs in the network namespace of the calling thread.
///
/// The name is looked up rather than connected to: a profile of `AppArmor` may forbid connections between two
/// containers.
///
/// # Errors
/// If the list of sockets cannot be read.
pub(super) fn is_running() -> io::Result<bool> {
    // Of the thread, as the sockets are; /proc/net is that of the process.
    let sockets = std::fs::read("/proc/thread-self/net/unix")?;
    // Names may contain any bytes.
    let has_name = |line: &[u8]| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        fields.nth(7) == Some(&[b"@", NAME.as_bytes()].concat())
    };
    Ok(sockets.split(|byte| *byte == b'\n').any(has_name))
}
