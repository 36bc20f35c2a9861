//! Whether this program runs on the node: what is removed under it, it writes again.
//!
//! The sign is a name in the abstract namespace of Unix sockets. It belongs to the network namespace, as all that is ours
//! does, so that a pod with the network of the host sees it without a mount; and it goes with the process, however that ends.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const NAME: &str = "kube-ipvs";

/// Nobody is spoken to over it.
#[derive(Debug)]
pub struct Sign {
    _socket: UnixDatagram,
}

impl Sign {
    /// Says that this program runs, until it is dropped.
    ///
    /// # Errors
    /// `AddrInUse`: another one runs. Others: those of the socket.
    pub fn set() -> io::Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        Ok(Self { _socket: UnixDatagram::bind_addr(&name)? })
    }
}

/// Whether this program runs in the network namespace of the calling thread.
///
/// It is looked up, and not connected to: a profile of `AppArmor` may forbid that between two containers.
///
/// # Errors
/// The list of sockets cannot be read.
pub(super) fn is_running() -> io::Result<bool> {
    // The thread's, as the sockets are; /proc/net is that of the process.
    let sockets = std::fs::read("/proc/thread-self/net/unix")?;
    // Names are whatever bytes their owners like.
    let has_name = |line: &[u8]| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        fields.nth(7) == Some(&[b"@", NAME.as_bytes()].concat())
    };
    Ok(sockets.split(|byte| *byte == b'\n').any(has_name))
}
