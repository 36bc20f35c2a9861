//! The format of netlink messages: writing requests, reading answers (`linux/netlink.h`).
//!
//! The three netlink families in use (rtnetlink, generic netlink, nfnetlink) share this format, so one small writer and
//! one reader serve all of them. Numbers are in the host's byte order unless a method says otherwise.

use std::borrow::Cow;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER_LENGTH: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
/// The longest attribute that its 16-bit length can express, header included.
const LONGEST_ATTRIBUTE: usize = u16::MAX as usize;
/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// Masks `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` out of an attribute's type.
const TYPE_MASK: u16 = (1 << 14) - 1;

/// Encoded requests, ready to be sent in as few datagrams as possible. Two allocations hold all of them.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Frames {
    /// No messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a request with this `nlmsg_type`, these flags (`NLM_F_REQUEST` is added; `NLM_F_ACK` is the socket's
    /// business), and this body behind the header.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; HEADER_LENGTH]);
        body(&mut Body { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far shorter than 4 GiB");
        pad(&mut self.bytes);
        let header = &mut self.bytes[start..start + HEADER_LENGTH];
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | super::REQUEST).to_ne_bytes());
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many bytes the messages take together.
    pub fn byte_length(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all messages and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Where message `index` ends, including its padding.
    fn end(&self, index: usize) -> usize {
        self.starts.get(index + 1).copied().unwrap_or(self.bytes.len())
    }

    /// The index behind the last message of a datagram that begins with message `first` and holds at least that
    /// message.
    pub(super) fn datagram_end(&self, first: usize, messages: usize, bytes: usize) -> usize {
        let limit = self.starts[first] + bytes;
        let mut end = first + 1;
        while end < self.len() && end - first < messages && self.end(end) <= limit {
            end += 1;
        }
        end
    }

    /// Sets what only the sender knows: the sequence number, and whether an acknowledgement is requested.
    pub(super) fn stamp(&mut self, index: usize, sequence: u32, acknowledge: bool) {
        let start = self.starts[index];
        let header = &mut self.bytes[start..start + HEADER_LENGTH];
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        let flags = u16::from_ne_bytes([header[6], header[7]]) & !super::ACK;
        let flags = if acknowledge { flags | super::ACK } else { flags };
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// Message `index`, as it is sent.
    pub(crate) fn message(&self, index: usize) -> Message<'_> {
        messages(self.slice(index, index + 1)).next().expect("whole messages are pushed")
    }

    /// What follows the header of message `index`; for tests.
    #[cfg(test)]
    pub(crate) fn payload(&self, index: usize) -> &[u8] {
        self.message(index).payload
    }

    /// The bytes of messages `first..end`.
    pub(super) fn slice(&self, first: usize, end: usize) -> &[u8] {
        &self.bytes[self.starts[first]..self.end(end - 1)]
    }
}

/// Writes what follows the header of a message: the family's fixed part, then attributes.
#[derive(Debug)]
pub struct Body<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Body<'_> {
    /// Writes raw bytes, padded to netlink's alignment: the family's fixed part (`struct genlmsghdr`,
    /// `struct ifaddrmsg`, ...).
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        pad(self.bytes);
    }

    /// Writes an attribute with these bytes.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// Writes an attribute of one byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    /// Writes a 16-bit attribute in the host's byte order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes a 32-bit attribute in the host's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes a 16-bit attribute in network byte order.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a 32-bit attribute in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a 64-bit attribute in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a text attribute, with the terminating NUL that the kernel requires.
    pub fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// Writes an attribute that holds attributes. Its length is a 16-bit number: use [`Body::list`] for what may be
    /// long.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Body<'_>)) {
        let start = self.open(kind | NESTED);
        inner(&mut Body { bytes: self.bytes });
        self.close(start);
    }

    /// Writes an attribute that holds the first of these items, each written by `write`: as many as its 16-bit length
    /// allows. Returns how many, which is at least one: a single item must fit.
    pub fn list<T>(&mut self, kind: u16, items: &[T], mut write: impl FnMut(&mut Body<'_>, &T)) -> usize {
        let start = self.open(kind | NESTED);
        let mut written = 0;
        for item in items {
            let end = self.bytes.len();
            write(&mut Body { bytes: self.bytes }, item);
            if written > 0 && self.bytes.len() - start > LONGEST_ATTRIBUTE {
                self.bytes.truncate(end);
                break;
            }
            written += 1;
        }
        self.close(start);
        written
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length =
            u16::try_from(self.bytes.len() - start).expect("an attribute is at most 65,535 bytes long");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.bytes);
    }
}

/// Pads to a multiple of four bytes. Every message starts at such a multiple, so counting from the start of the buffer
/// gives the same result as counting from the start of the message.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: that of the request that this message answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes that follow a fixed part of this length.
    pub fn attributes(&self, fixed_length: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(fixed_length.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// The messages in a datagram. A truncated last message is not yielded.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_LENGTH] = datagram.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = datagram.get(HEADER_LENGTH..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Reads a sequence of attributes; ends at the first malformed one.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first attribute of this type.
    pub fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.clone().find(|attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header: &[u8; ATTRIBUTE_HEADER_LENGTH] = self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = self.0.get(ATTRIBUTE_HEADER_LENGTH..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// An attribute. The methods return `None` if the value is shorter than the type needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// One byte.
    pub fn u8(self) -> Option<u8> {
        self.value.first().copied()
    }

    /// A 16-bit number in the host's byte order.
    pub fn u16(self) -> Option<u16> {
        self.value.first_chunk().copied().map(u16::from_ne_bytes)
    }

    /// A 32-bit number in the host's byte order.
    pub fn u32(self) -> Option<u32> {
        self.value.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// A 16-bit number in network byte order.
    pub fn be16(self) -> Option<u16> {
        self.value.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// A 32-bit number in network byte order.
    pub fn be32(self) -> Option<u32> {
        self.value.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// A 64-bit number in network byte order.
    pub fn be64(self) -> Option<u64> {
        self.value.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// A text, without its terminating NUL.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.text_bytes()).ok()
    }

    /// A name given by others, which the kernel accepts in any encoding: invalid UTF-8 is replaced by U+FFFD, so two
    /// different names may look the same.
    pub fn name(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.text_bytes())
    }

    fn text_bytes(self) -> &'a [u8] {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        &self.value[..end]
    }

    /// The attributes that this attribute holds.
    pub fn nested(self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}
