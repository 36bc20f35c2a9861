//! Blocking netlink sockets: many messages per system call, and a verdict on each.
//!
//! The kernel carries out a request inside `send()`, and its answers wait in the socket when `send()` returns. So
//! there is nothing to wait for asynchronously: a plan costs its thread exactly the kernel's own work. One
//! message per `send()` takes 16 s for 110,000 IPVS messages, 256 per `send()` 0.3 s.
//!
//! The kernel answers a message that asks for an acknowledgement *or fails*. Only the last message of a datagram
//! asks; its answer is the barrier behind which the silence of the others means success. Answers carry the sequence
//! number of the request, which makes late ones harmless.
//!
//! Each waiting answer takes about 832 bytes of the receive buffer. When it is full the kernel drops answers and
//! says `ENOBUFS`: what is then not known stays [`Verdict::Unknown`], never "failed" and never "done".

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
/// `NLM_F_EXCL`: `EEXIST` if it exists.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end of a list.
pub const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: all objects.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR` in an answer: what is dumped changed meanwhile, the answer may miss something.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED` in an error: the request is not repeated in it, but for its header.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS` in an error: attributes follow.
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSG_ERROR`: an error, or with error 0 an acknowledgement.
const KIND_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const KIND_DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation.
const EXPLANATION: u16 = 1;

/// Most messages in a datagram: all may fail, and their answers must fit even a default receive buffer.
const DATAGRAM_MESSAGES: usize = 256;
/// Most bytes in a datagram, well below the default send buffer (a longer one gets `EMSGSIZE`).
const DATAGRAM_BYTES: usize = 64 << 10;
/// Asked for answers; the kernel doubles it for its own bookkeeping.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// No datagram of the kernel is longer: it fills dumps by 32 KiB at most, and caps errors.
const ANSWER_BYTES: usize = 64 << 10;
/// How long to wait for an answer that, by all rules, is already there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump that was disturbed is begun anew.
const DUMP_ATTEMPTS: usize = 8;

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel did it.
    Done,
    /// The kernel said no, and nothing of it was done.
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

/// What became of a transaction: all of it, or nothing of it, was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The kernel did all of it.
    Done,
    /// The kernel did nothing of it: the indices of the messages that it objected to, with its reasons. That of the first message,
    /// which begins the transaction, stands for the whole: the kernel did not begin, or had no memory. Where it could not commit
    /// for another reason, it names the second message, as if it objected to that.
    Refused {
        /// What it said first.
        first: (usize, Refusal),
        /// What it said then, if it said more.
        others: Vec<(usize, Refusal)>,
    },
    /// The kernel's answer was lost.
    Unknown,
}

/// What a dump found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump<T> {
    /// What was made of its messages.
    pub items: Vec<T>,
    /// In how many datagrams they came. Families without a generation mark (IPVS) are consistent inside one
    /// datagram only.
    pub datagrams: usize,
}

/// The netlink families that are spoken here.
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

/// A netlink socket in the network namespace of the thread that opened it. To be used by one thread at a time.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    protocol: Protocol,
    /// Bytes asked for as receive buffer.
    receive_buffer_bytes: usize,
    /// The sequence number of the next message.
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a look at the socket gave.
enum Received {
    /// A datagram: the first so many bytes of the buffer.
    Datagram(usize),
    /// Answers were lost; the ones that remain are still to come.
    Overrun,
    /// Nothing is there, and nothing will come.
    Nothing,
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// Those of `socket(2)` and of the settings without which verdicts could not be trusted.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        Self::with_receive_buffer(protocol, RECEIVE_BUFFER_BYTES)
    }

    /// Opens a socket with a receive buffer of this size, for those who want to see it overrun.
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

    /// Sends all messages, in as few datagrams as fit, and gives the kernel's verdict on each, in order. Messages are
    /// independent: one that fails does not stop those behind it.
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
            // The kernel did not take the datagram: nothing of it was done.
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
        // Kernels before 6.10 acknowledge neither of the two that enclose a transaction.
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
            // An objection to the whole (no such subsystem, no memory) may come with no other answer behind it; and all
            // that come are there when send() returns.
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

    /// Asks for all objects of a kind. `body` writes what follows the header of the request, `decode` makes something
    /// of each answer, or leaves it out.
    ///
    /// A dump that the kernel marks as disturbed by a change is begun anew, a few times.
    ///
    /// # Errors
    /// Where the answer is not complete, or `decode` says so: an incomplete answer is never returned as a complete one.
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

    /// Asks for all objects of a kind as [`Socket::dump`] does, and takes those of the first datagram only: for "is there
    /// any?", where all would take the kernel seconds. That there is none in it says nothing of the others.
    ///
    /// # Errors
    /// What the kernel says, that the answer was lost, or what `decode` says.
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
        // The rest of the dump ends with the socket.
        self.reopen()?;
        items
    }

    /// One attempt; `None`: disturbed.
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
                            // The rest is still to be received, or the next dump would find the socket busy.
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

    /// Asks one question that has one answer (or none, or several).
    ///
    /// # Errors
    /// What the kernel says (`raw_os_error()` is its number), or that the answer was lost.
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

    /// Gives messages `first..end` their sequence numbers and returns the first; message `barrier` asks for an ACK.
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

    /// Makes room for a datagram of this length. The kernel doubles the value, and counts its own structures.
    fn raise_send_buffer(&self, bytes: usize) -> io::Result<()> {
        let wanted = bytes + (bytes >> 3) + 4096;
        if sockopt::socket_send_buffer_size(&self.inner)? >= wanted {
            return Ok(());
        }
        Ok(sockopt::set_socket_send_buffer_size_force(&self.inner, wanted)?)
    }

    /// Takes the next datagram. When it is known that something was lost, there is nothing worth waiting for.
    fn receive(&mut self, wait: bool) -> Received {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        loop {
            match rustix::net::recv(self.inner.as_fd(), &mut self.buffer[..], flags) {
                Ok((stored, length)) if length > stored => return Received::Overrun,
                Ok((_, length)) => return Received::Datagram(length),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Received::Overrun,
                // The time is over, or the socket is empty or broken: in any case no answer.
                Err(_) => return Received::Nothing,
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.inner = connect(self.protocol, self.receive_buffer_bytes)?;
        Ok(())
    }
}

/// Dumps until the answer came in one datagram, which the kernel fills under its lock, or two answers in a row name
/// the same objects in the same order. For what the kernel does not mark ([`Socket::dump`] looks at its mark), or not
/// in time: a walk by position misses an object when one before it goes between two datagrams, but then the one that
/// went is in this answer and not in the next. The same where a hash table grows under the walk: the order is another one
/// then.
///
/// # Errors
/// Those of `dump`, or that there was no peace long enough.
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

/// An object that the kernel described without something that it always says, or with a value that is not known here.
pub(super) fn malformed(what: &str) -> io::Error {
    let text = format!("the kernel described {what} in a form not known here");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The kernel's answer was lost: what was asked for may have been done, or not.
pub(super) fn lost() -> io::Error {
    io::Error::other("the answer was lost")
}

fn restless() -> io::Error {
    io::Error::other(format!("it changed while it was read, {DUMP_ATTEMPTS} times in a row"))
}

/// What became of a transaction in which the kernel objected to these messages, by their indices; `None`: to none.
fn refused(mut refusals: Vec<(usize, Refusal)>) -> Option<Commit> {
    for (index, refusal) in &mut refusals {
        // Of the whole (nfnetlink_rcv_batch): message 0 has been taken off by then, and the next one is named in its place.
        if *index == 1 && refusal.is(Errno::NOMEM) {
            *index = 0;
        }
    }
    let mut refusals = refusals.into_iter();
    let first = refusals.next()?;
    Some(Commit::Refused { first, others: refusals.collect() })
}

/// A socket, connected to the kernel so that nobody else can put anything into it.
fn connect(protocol: Protocol, receive_buffer_bytes: usize) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(protocol.number())?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    // Explanations and strict checking came with Linux 4.12 and 4.20; without them answers are poorer, not wrong:
    // decoders look at what they get.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);
    if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer_bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, receive_buffer_bytes)?;
    }
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// The positive error number in a message of kind error or done; `None` for success.
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

/// A refusal with the system's text for the error, and the kernel's explanation.
fn refusal(error: &io::Error, explanation: Option<&str>) -> Refusal {
    let mut refusal = Refusal::of(error);
    if let Some(explanation) = explanation {
        refusal.text = format!("{error}: {explanation}");
    }
    refusal
}
