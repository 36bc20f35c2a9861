//! A socket that hears what the kernel tells everybody: multicast groups.

use std::io;

use rustix::net::{RecvFlags, sockopt};

use super::{ANSWER_BYTES, Message, Protocol, RECEIVE_BUFFER_BYTES, connect, message};

/// Hears the messages of multicast groups, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Multicast {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A datagram.
    Messages(&'a [u8]),
    /// Nothing is there now.
    Nothing,
    /// Messages were lost: the receive buffer was full. What they told of must be read anew.
    Overrun,
}

impl<'a> Heard<'a> {
    /// The messages.
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let datagram: &[u8] = if let Self::Messages(datagram) = self { datagram } else { &[] };
        message::messages(datagram)
    }
}

impl Multicast {
    /// Opens a socket and joins these groups (`RTNLGRP_*`).
    ///
    /// # Errors
    /// Those of `socket(2)`, and of joining a group that the kernel does not have.
    pub fn join(protocol: Protocol, groups: &[u32]) -> io::Result<Self> {
        Self::with_receive_buffer(protocol, groups, RECEIVE_BUFFER_BYTES)
    }

    /// Opens a socket with a receive buffer of this size, for those who want to see it overrun.
    ///
    /// # Errors
    /// As for [`Multicast::join`].
    pub fn with_receive_buffer(protocol: Protocol, groups: &[u32], bytes: usize) -> io::Result<Self> {
        let inner = connect(protocol, bytes)?;
        sockopt::set_socket_timeout(&inner, sockopt::Timeout::Recv, None)?;
        for group in groups {
            inner.add_membership(*group)?;
        }
        Ok(Self { inner, buffer: vec![0; ANSWER_BYTES] })
    }

    /// The next datagram; `wait`: until there is one.
    ///
    /// # Errors
    /// Those of `recv(2)` but for `EINTR`, `EAGAIN` and `ENOBUFS`.
    pub fn next(&mut self, wait: bool) -> io::Result<Heard<'_>> {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        loop {
            match rustix::net::recv(&self.inner, &mut self.buffer[..], flags) {
                Ok((stored, length)) if length > stored => return Ok(Heard::Overrun),
                Ok((_, length)) => return Ok(Heard::Messages(&self.buffer[..length])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Ok(Heard::Overrun),
                Err(rustix::io::Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
