//! Blocking netlink sockets: many messages per system call, and a verdict on each.
//!
//! The kernel carries out a request inside `send()`, and when `send()` returns the answers wait in the socket. So
//! asynchronous I/O has nothing to wait for: a plan costs its thread exactly the kernel's own work. With one message
//! per `send()`, 110,000 IPVS messages take 16 s; with 256 per `send()`, 0.3 s.
//!
//! The kernel answers a message that asks for an acknowledgement *or fails*. Only the last message of a datagram asks;
//! once its answer has arrived, the silence of the others means success. Answers carry the sequence number of their
//! request, so late ones do no harm.
//!
//! Each waiting answer takes about 832 bytes of the receive buffer. When the buffer is full, the kernel drops answers
//! and reports `ENOBUFS`: a message whose answer may be among them stays [`Verdict::Unknown`], never "failed" and never
//! "done".

mod message;
pub mod multicast;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::SocketAddr;
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

pub use self::message::{Attribute, Attributes, Body, Frames, Message};
use super::{Outcome, Refusal};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`.
const ACK: u16 = 0x04;
/// `NLM_F_REPLACE`: change what exists.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail with `EEXIST` if it exists.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: create it if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: put it at the end of a list.
pub const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: all objects.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR` in an answer: the dumped objects changed meanwhile, so the answer may miss something.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED` in an error: it repeats only the header of the request.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS` in an error: attributes follow.
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSG_ERROR`: an error, or with error 0 an acknowledgement.
const KIND_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const KIND_DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation.
const EXPLANATION: u16 = 1;

/// The most messages in a datagram: all may fail, and even then the answers must fit a receive buffer of default size.
const DATAGRAM_MESSAGES: usize = 256;
/// The most bytes in a datagram, well below the default send buffer (a longer datagram fails with `EMSGSIZE`).
const DATAGRAM_BYTES: usize = 64 << 10;
/// The size requested for the receive buffer; the kernel doubles it for its own bookkeeping.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// No datagram from the kernel is longer: it fills dumps by 32 KiB at most, and caps errors.
const ANSWER_BYTES: usize = 64 << 10;
/// How long to wait for an answer that should already have arrived.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump is attempted if changes disturb it.
const DUMP_ATTEMPTS: usize = 8;

/// The verdict on one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel carried it out.
    Done,
    /// The kernel refused it, and nothing of it was done.
    Errno(Refusal),
    /// The kernel's answer was lost.
    Unknown,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::Done,
            Verdict::Errno(refusal) => Self::Refused(refusal),
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// The result of a transaction, of which either everything or nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The kernel did all of it.
    Done,
    /// The kernel did nothing of it: the indices of the messages that it objected to, with its reasons. An objection to
    /// the first message, which begins the transaction, concerns the whole transaction: the kernel did not begin, or
    /// had no memory. If the commit failed for another reason, the kernel names the second message, as if it objected
    /// to that one.
    Refused {
        /// The kernel's first objection.
        first: (usize, Refusal),
        /// Its further objections, if any.
        others: Vec<(usize, Refusal)>,
    },
    /// The kernel's answer was lost.
    Unknown,
}

/// What a dump found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump<T> {
    /// What was decoded from its messages.
    pub items: Vec<T>,
    /// In how many datagrams they came. Families without a generation mark (IPVS) are consistent only within one
    /// datagram.
    pub datagrams: usize,
}

/// The netlink families that this program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_ROUTE`: links, addresses, routes.
    Route,
    /// `NETLINK_GENERIC`: IPVS.
    Generic,
    /// `NETLINK_NETFILTER`: `nf_tables`, conntrack, ipsets.
    Netfilter,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Self::Generic => netlink_sys::protocols::NETLINK_GENERIC,
            Self::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        }
    }
}

/// A netlink socket in the network namespace of the thread that opened it. May be used by one thread at a time.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    protocol: Protocol,
    /// The requested size of the receive buffer, in bytes.
    receive_buffer_bytes: usize,
    /// The sequence number of the next message.
    sequence: u32,
    buffer: Vec<u8>,
}

/// The result of one attempt to receive.
enum Received {
    /// A datagram of this length, at the start of the buffer.
    Datagram(usize),
    /// Answers were lost; the remaining ones are still to come.
    Overrun,
    /// No datagram is waiting, and none will come.
    Nothing,
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// Those of `socket(2)`, and of the socket options without which verdicts could not be trusted.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        Self::with_receive_buffer(protocol, RECEIVE_BUFFER_BYTES)
    }

    /// Opens a socket with a receive buffer of this size, for tests that provoke an overrun.
    ///
    /// # Errors
    /// As for [`Socket::open`].
    pub fn with_receive_buffer(protocol: Protocol, bytes: usize) -> io::Result<Self> {
        Ok(Self {
            inner: connect(protocol, bytes)?,
            protocol,
            receive_buffer_bytes: bytes,
            sequence: 1,
            buffer: vec![0; ANSWER_BYTES],
        })
    }

    /// Sends all messages, in as few datagrams as possible, and returns the kernel's verdict on each, in order.
    /// Messages are independent: one that fails does not stop the following ones.
    pub fn batch(&mut self, frames: &mut Frames) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(frames.len());
        let mut first = 0;
        while first < frames.len() {
            let end = frames.datagram_end(first, DATAGRAM_MESSAGES, DATAGRAM_BYTES);
            self.datagram(frames, first, end, &mut verdicts);
            first = end;
        }
        verdicts
    }

    /// Sends messages `first..end` in one datagram.
    fn datagram(&mut self, frames: &mut Frames, first: usize, end: usize, verdicts: &mut Vec<Verdict>) {
        let count = end - first;
        let sequence = self.stamp(frames, first, end, end - 1);
        if let Err(error) = self.send(frames.slice(first, end)) {
            // The kernel did not take the datagram, so nothing of it was done.
            verdicts.extend(std::iter::repeat_n(Verdict::Errno(refusal(&error, None)), count));
            return;
        }
        let mut answers: Vec<Option<Verdict>> = vec![None; count];
        let mut complete = true;
        while answers[count - 1].is_none() {
            match self.receive(complete) {
                Received::Datagram(length) => {
                    for message in message::messages(&self.buffer[..length]) {
                        let index = message.sequence.wrapping_sub(sequence) as usize;
                        if message.kind == KIND_ERROR
                            && let Some(answer) = answers.get_mut(index)
                        {
                            *answer = Some(match error_of(message) {
                                Some(refusal) => Verdict::Errno(refusal),
                                None => Verdict::Done,
                            });
                        }
                    }
                }
                Received::Overrun => complete = false,
                Received::Nothing => {
                    complete = false;
                    break;
                }
            }
        }
        let silent = if complete { Verdict::Done } else { Verdict::Unknown };
        verdicts.extend(answers.into_iter().map(|answer| answer.unwrap_or_else(|| silent.clone())));
    }

    /// Sends all messages in one datagram, of whatever length, as an nfnetlink transaction: the first message is
    /// `NFNL_MSG_BATCH_BEGIN`, the last `NFNL_MSG_BATCH_END`, and at least one lies between.
    pub fn transaction(&mut self, frames: &mut Frames) -> Commit {
        debug_assert!(
            frames.len() >= 3,
            "a transaction has a first, a last and at least one message between"
        );
        // Kernels before 6.10 acknowledge neither the first nor the last message of a transaction.
        let barrier = frames.len() - 2;
        let sequence = self.stamp(frames, 0, frames.len(), barrier);
        let sent = self.raise_send_buffer(frames.byte_length());
        let sent = sent.and_then(|()| self.send(frames.slice(0, frames.len())));
        if let Err(error) = sent {
            return Commit::Refused { first: (0, refusal(&error, None)), others: Vec::new() };
        }
        let mut refusals = Vec::new();
        let mut complete = true;
        let mut answered = false;
        while !answered {
            // An objection to the whole transaction (no such subsystem, no memory) may be the only answer; and all
            // answers have arrived when send() returns.
            match self.receive(complete && refusals.is_empty()) {
                Received::Datagram(length) => {
                    for message in message::messages(&self.buffer[..length]) {
                        let index = message.sequence.wrapping_sub(sequence) as usize;
                        if message.kind == KIND_ERROR && index < frames.len() {
                            refusals.extend(error_of(message).map(|refusal| (index, refusal)));
                            answered |= index == barrier;
                        }
                    }
                }
                Received::Overrun => complete = false,
                Received::Nothing => {
                    complete = false;
                    break;
                }
            }
        }
        match refused(refusals) {
            Some(refused) => refused,
            None if answered && complete => Commit::Done,
            None => Commit::Unknown,
        }
    }

    /// Dumps all objects of a kind. `body` writes what follows the header of the request; `decode` turns each answer
    /// into an item, or leaves it out.
    ///
    /// A dump that the kernel marks as disturbed by a change is repeated, a few times.
    ///
    /// # Errors
    /// If the answer is incomplete or `decode` fails: an incomplete answer is never returned as a complete one.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Body<'_>),
        mut decode: impl FnMut(Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Dump<T>> {
        let mut frames = Frames::new();
        frames.push(kind, DUMP, body);
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(&mut frames, &mut decode) {
                Ok(Some(dump)) => return Ok(dump),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Err(restless())
    }

    /// Starts a dump as [`Socket::dump`] does, and takes only the objects in the first datagram: for the question "are
    /// there any?" where a complete dump would take the kernel seconds. An object that is missing from the first
    /// datagram may still exist.
    ///
    /// # Errors
    /// The kernel's error, a lost answer, or an error of `decode`.
    pub fn glimpse<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Body<'_>),
        mut decode: impl FnMut(Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        let mut frames = Frames::new();
        frames.push(kind, DUMP, body);
        let sequence = self.stamp(&mut frames, 0, 1, usize::MAX);
        self.send(frames.slice(0, 1))?;
        let items = match self.receive(true) {
            Received::Datagram(length) => message::messages(&self.buffer[..length])
                .filter(|message| message.sequence == sequence)
                .filter_map(|message| match (message.kind, errno_of(message)) {
                    (KIND_ERROR | KIND_DONE, None) => None,
                    (KIND_ERROR | KIND_DONE, Some(errno)) => Some(Err(io::Error::from_raw_os_error(errno))),
                    _ => decode(message).transpose(),
                })
                .collect(),
            Received::Overrun | Received::Nothing => Err(lost()),
        };
        // The rest of the dump ends with the old socket.
        self.reopen()?;
        items
    }

    /// Makes one attempt at a dump; `None`: it was disturbed.
    fn dump_once<T>(
        &mut self,
        frames: &mut Frames,
        decode: &mut impl FnMut(Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Option<Dump<T>>> {
        let sequence = self.stamp(frames, 0, 1, usize::MAX);
        self.send(frames.slice(0, 1))?;
        let mut dump = Dump { items: Vec::new(), datagrams: 0 };
        let mut disturbed = false;
        let mut failure = None;
        let end = loop {
            let length = match self.receive(true) {
                Received::Datagram(length) => length,
                lost @ (Received::Overrun | Received::Nothing) => {
                    let reason =
                        if matches!(lost, Received::Overrun) { "an answer was lost" } else { "no answer" };
                    break Err(io::Error::other(reason));
                }
            };
            let mut end = None;
            let mut ours = false;
            for message in message::messages(&self.buffer[..length]).filter(|m| m.sequence == sequence) {
                disturbed |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    KIND_ERROR | KIND_DONE => end = Some(errno_of(message)),
                    _ => {
                        ours = true;
                        match decode(message) {
                            Ok(item) => dump.items.extend(item),
                            // The rest must still be received, or the next dump would find the socket busy.
                            Err(error) => failure = Some(error),
                        }
                    }
                }
            }
            dump.datagrams += usize::from(ours);
            if let Some(end) = end {
                break Ok(end);
            }
        };
        match end {
            Ok(None) => failure.map_or(Ok((!disturbed).then_some(dump)), Err),
            Ok(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Err(error) => {
                // The dump may still be running in the kernel; a new socket knows nothing of it.
                self.reopen()?;
                Err(error)
            }
        }
    }

    /// Asks a question that has one answer (or none, or several: the last one counts).
    ///
    /// # Errors
    /// The kernel's error (`raw_os_error()` is its number), or a lost answer.
    pub fn get<T>(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Body<'_>),
        mut decode: impl FnMut(Message<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut frames = Frames::new();
        frames.push(kind, 0, body);
        let sequence = self.stamp(&mut frames, 0, 1, 0);
        self.send(frames.slice(0, 1))?;
        let mut found = None;
        loop {
            match self.receive(true) {
                Received::Datagram(length) => {
                    for message in
                        message::messages(&self.buffer[..length]).filter(|m| m.sequence == sequence)
                    {
                        if message.kind == KIND_ERROR {
                            return match errno_of(message) {
                                None => Ok(found),
                                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                            };
                        }
                        found = decode(message)?.or(found);
                    }
                }
                Received::Overrun | Received::Nothing => return Err(lost()),
            }
        }
    }

    /// Gives messages `first..end` their sequence numbers and returns the first one; message `barrier` asks for an
    /// acknowledgement.
    fn stamp(&mut self, frames: &mut Frames, first: usize, end: usize, barrier: usize) -> u32 {
        let sequence = self.sequence;
        for index in first..end {
            frames.stamp(index, self.sequence, index == barrier);
            self.sequence = self.sequence.wrapping_add(1);
        }
        sequence
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(datagram, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room for a datagram of this length. The kernel doubles the requested value, but also counts its own
    /// structures.
    fn raise_send_buffer(&self, bytes: usize) -> io::Result<()> {
        let wanted = bytes + (bytes >> 3) + 4096;
        if sockopt::socket_send_buffer_size(&self.inner)? >= wanted {
            return Ok(());
        }
        Ok(sockopt::set_socket_send_buffer_size_force(&self.inner, wanted)?)
    }

    /// Takes the next datagram. Once answers are known to be lost, callers do not wait: nothing is worth waiting for
    /// then.
    fn receive(&mut self, wait: bool) -> Received {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        loop {
            match rustix::net::recv(self.inner.as_fd(), &mut self.buffer[..], flags) {
                Ok((stored, length)) if length > stored => return Received::Overrun,
                Ok((_, length)) => return Received::Datagram(length),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Received::Overrun,
                // Timed out, or the socket is empty or broken: in any case there is no answer.
                Err(_) => return Received::Nothing,
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.inner = connect(self.protocol, self.receive_buffer_bytes)?;
        Ok(())
    }
}

/// Repeats a dump until the answer came in one datagram, which the kernel fills under its lock, or until two answers in
/// a row name the same objects in the same order. This is for objects whose changes the kernel does not mark (see
/// [`Socket::dump`]), or marks too late. A walk by position misses an object when one before it is removed between two
/// datagrams; but then the removed object is in this answer and not in the next. Likewise if a hash table grows during
/// the walk: then the order changes.
///
/// # Errors
/// Those of `dump`, or that the objects never kept still for long enough.
pub fn settled<T>(
    mut dump: impl FnMut() -> io::Result<Dump<T>>,
    are_same: impl Fn(&T, &T) -> bool,
) -> io::Result<Vec<T>> {
    let mut previous: Option<Vec<T>> = None;
    for _ in 0..DUMP_ATTEMPTS {
        let Dump { items, datagrams } = dump()?;
        let all_same = |previous: &Vec<T>| {
            previous.len() == items.len() && previous.iter().zip(&items).all(|(a, b)| are_same(a, b))
        };
        if datagrams <= 1 || previous.as_ref().is_some_and(all_same) {
            return Ok(items);
        }
        previous = Some(items);
    }
    Err(restless())
}

/// The error for an object that the kernel described without something that it always gives, or with an unknown value.
pub(super) fn malformed(what: &str) -> io::Error {
    let text = format!("the kernel's description of {what} is incomplete or of an unknown form");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The error for a lost answer: the request may have been carried out or not.
pub(super) fn lost() -> io::Error {
    io::Error::other("the answer was lost")
}

fn restless() -> io::Error {
    io::Error::other(format!("other changes disturbed the read, {DUMP_ATTEMPTS} times in a row"))
}

/// The result of a transaction in which the kernel objected to the messages with these indices; `None`: to none.
fn refused(mut refusals: Vec<(usize, Refusal)>) -> Option<Commit> {
    for (index, refusal) in &mut refusals {
        // This concerns the whole transaction (`nfnetlink_rcv_batch`): by then the kernel has taken message 0 off the
        // buffer, and names the next message in its place.
        if *index == 1 && refusal.is(Errno::NOMEM) {
            *index = 0;
        }
    }
    let mut refusals = refusals.into_iter();
    let first = refusals.next()?;
    Some(Commit::Refused { first, others: refusals.collect() })
}

/// Opens a socket that is connected to the kernel, so that nobody else can put anything into it.
fn connect(protocol: Protocol, receive_buffer_bytes: usize) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(protocol.number())?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    // Explanations and strict checking came with Linux 4.12 and 4.20. Without them answers say less but are not wrong:
    // decoders check what they get.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);
    if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer_bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, receive_buffer_bytes)?;
    }
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// The positive error number in a message of kind error or done; `None`: success.
fn errno_of(message: Message<'_>) -> Option<i32> {
    let errno = message.payload.first_chunk().copied().map_or(0, i32::from_ne_bytes).saturating_neg();
    (errno > 0).then_some(errno)
}

/// The refusal that a message of kind error states; `None`: it is an acknowledgement.
fn error_of(message: Message<'_>) -> Option<Refusal> {
    let errno = errno_of(message)?;
    let mut explanation = None;
    if message.flags & ACK_ATTRIBUTES != 0 {
        let header = message.payload.get(4..8).and_then(<[u8]>::first_chunk).copied();
        let request = header.map_or(0, u32::from_ne_bytes) as usize;
        let echoed = if message.flags & CAPPED == 0 { request } else { message::HEADER_LENGTH };
        explanation = message.attributes(4 + echoed).get(EXPLANATION).and_then(Attribute::text);
    }
    Some(refusal(&io::Error::from_raw_os_error(errno), explanation))
}

/// A refusal with the system's text for the error, and with the kernel's explanation if there is one.
fn refusal(error: &io::Error, explanation: Option<&str>) -> Refusal {
    let mut refusal = Refusal::of(error);
    if let Some(explanation) = explanation {
        refusal.text = format!("{error}: {explanation}");
    }
    refusal
}
