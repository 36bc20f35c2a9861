//! A socket that receives what the kernel tells everybody: multicast groups.

use std::io;

use rustix::net::{RecvFlags, sockopt};
use socket2::{SockFilter, SockRef};

use super::{ANSWER_BYTES, Message, Protocol, RECEIVE_BUFFER_BYTES, connect, message};

/// Receives the messages of multicast groups, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Multicast {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// What was received.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A datagram.
    Messages(&'a [u8]),
    /// Nothing is waiting.
    Nothing,
    /// Messages were lost because the receive buffer was full. What they were about must be read anew. Whatever comes
    /// from now on is received, or reported as another overrun.
    Overrun,
}

impl<'a> Heard<'a> {
    /// The messages in the datagram; none without one.
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

    /// Opens a socket with a receive buffer of this size, for tests that provoke an overrun.
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

    /// From now on ignores messages of these kinds whose field at this offset has this value, in the machine's byte
    /// order; without a field, ignores nothing. The kernel itself filters them out, so nobody is woken up. The filter
    /// looks at the first message of a datagram (each message to a multicast group has its own datagram).
    ///
    /// # Errors
    /// Those of `SO_ATTACH_FILTER` (`socket(7)`).
    pub fn ignore(&self, kinds: [u16; 2], field: Option<(u32, u32)>) -> io::Result<()> {
        SockRef::from(&self.inner).attach_filter(&filter(kinds, field))
    }

    /// The next datagram; `wait`: blocks until there is one.
    ///
    /// # Errors
    /// Those of `recv(2)` except `EINTR`, `EAGAIN` and `ENOBUFS`.
    pub fn next(&mut self, wait: bool) -> io::Result<Heard<'_>> {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        loop {
            match rustix::net::recv(&self.inner, &mut self.buffer[..], flags) {
                Ok((stored, length)) if length > stored => return Ok(Heard::Overrun),
                Ok((_, length)) => return Ok(Heard::Messages(&self.buffer[..length])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => {
                    self.discard();
                    return Ok(Heard::Overrun);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes and drops everything that waits. The kernel reports a loss once, and again only after the queue was empty
    /// (`netlink_overrun` and `netlink_rcv_wake` in `net/netlink/af_netlink.c`): it never reports what is lost in
    /// between.
    fn discard(&mut self) {
        let flags = RecvFlags::DONTWAIT;
        loop {
            match rustix::net::recv(&self.inner, &mut self.buffer[..], flags) {
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::NOBUFS) => {}
                // Empty, or broken, which the next call reports.
                Err(_) => return,
            }
        }
    }
}

/// The filter program for [`Multicast::ignore`]. Filter programs load values in network byte order, whatever the
/// machine's.
fn filter(kinds: [u16; 2], field: Option<(u32, u32)>) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// The offset of the kind in a message's header.
    const KIND_OFFSET: u32 = 4;

    let all = SockFilter::new(RETURN, 0, 0, u32::MAX);
    let Some((offset, value)) = field else { return vec![all] };
    let [first, second] = kinds.map(|kind| u32::from(kind.to_be()));
    vec![
        SockFilter::new(LOAD_HALF, 0, 0, KIND_OFFSET),
        SockFilter::new(JUMP_EQUAL, 1, 0, first),
        SockFilter::new(JUMP_EQUAL, 0, 3, second),
        SockFilter::new(LOAD_WORD, 0, 0, offset),
        SockFilter::new(JUMP_EQUAL, 0, 1, value.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
        all,
    ]
}
