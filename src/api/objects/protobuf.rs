//! The API's objects in the encoding that Kubernetes' own clients ask for: protocol buffers.
//!
//! They have a third of the bytes of JSON, and fields are skipped without looking at their bytes. Field numbers are
//! those of `generated.proto` in k8s.io/api (core/v1, discovery/v1) and k8s.io/apimachinery (meta/v1); they never
//! change their meaning. As in JSON, unknown fields are skipped. Go's encoder writes empty texts and numbers too: here
//! an empty one is the same as an absent one, as it is for [`convert`](super::super::convert).
//!
//! The wire format is left to `quick-protobuf`. Its generated types are not used: they have all fields of all kinds.

use std::borrow::Cow;

use jiff::Timestamp;
use quick_protobuf::BytesReader;
use smallvec::{Array, SmallVec};

use super::{
    ClientIpConfig, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, KEPT,
    LoadBalancerIngress, LoadBalancerStatus, Named, Node, NodeAddress, NodeSpec, NodeStatus, ObjectMeta,
    Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig, Taint, Text, Texts, Time,
};

/// Why something is not the message that it should be: `spec.ports: Unexpected end of buffer`.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", prefix(path))]
pub struct Error {
    /// The fields on the way to the place, innermost first.
    path: Vec<&'static str>,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Wire(quick_protobuf::Error),
    #[error("{0} is expected")]
    Expected(&'static str),
}

fn prefix(path: &[&str]) -> String {
    if path.is_empty() {
        return String::new();
    }
    let outermost_first: Vec<&str> = path.iter().rev().copied().collect();
    format!("{}: ", outermost_first.join("."))
}

impl Error {
    /// Adds the name of the field that the error is in.
    #[must_use]
    pub fn within(mut self, field: &'static str) -> Self {
        self.path.push(field);
        self
    }

    /// An error that says what was expected.
    pub fn expected(what: &'static str) -> Self {
        Self { path: Vec::new(), problem: Problem::Expected(what) }
    }
}

impl From<quick_protobuf::Error> for Error {
    fn from(problem: quick_protobuf::Error) -> Self {
        Self { path: Vec::new(), problem: Problem::Wire(problem) }
    }
}

/// The content of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A number or a boolean.
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
    /// A number of a fixed width: no field that is used has one.
    Fixed,
}

impl<'a> Content<'a> {
    /// The bytes.
    ///
    /// # Errors
    /// [`Error`], if it is a number.
    pub fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) | Self::Fixed => Err(Error::expected("a text or a message")),
        }
    }

    fn number(self) -> Result<u64, Error> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed => Err(Error::expected("a number")),
        }
    }
}

/// The fields of a message, in the order in which they come: number and content.
pub struct Fields<'a> {
    message: &'a [u8],
    reader: BytesReader,
}

impl<'a> Fields<'a> {
    /// The fields of this message.
    pub fn of(message: &'a [u8]) -> Self {
        Self { message, reader: BytesReader::from_bytes(message) }
    }

    fn read(&mut self) -> Result<(u32, Content<'a>), Error> {
        const NUMBER: u32 = 0;
        const BYTES: u32 = 2;
        let tag = self.reader.next_tag(self.message)?;
        let content = match tag & 7 {
            NUMBER => Content::Number(self.reader.read_varint64(self.message)?),
            BYTES => Content::Bytes(self.reader.read_bytes(self.message)?),
            _ => {
                self.reader.read_unknown(self.message, tag)?;
                Content::Fixed
            }
        };
        Ok((tag >> 3, content))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Content<'a>), Error>;

    /// The next field. Nothing comes after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_eof() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            *self = Self::of(&[]);
        }
        Some(field)
    }
}

/// A type that can be the value of a field, or a whole message.
pub trait Value<'a>: Default {
    /// Takes in content: as another item of a list, as more fields of a message, otherwise in place of the previous
    /// value.
    ///
    /// # Errors
    /// [`Error`], if the content does not fit the type.
    fn put(&mut self, content: Content<'a>) -> Result<(), Error>;
}

/// Decodes a message.
///
/// # Errors
/// [`Error`], which names the field.
pub fn decode<'a, M: Value<'a>>(message: &'a [u8]) -> Result<M, Error> {
    let mut decoded = M::default();
    decoded.put(Content::Bytes(message))?;
    Ok(decoded)
}

/// Assigns field numbers to the fields of messages.
macro_rules! messages {
    ($($message:ident $(<$life:lifetime>)? { $($number:literal: $field:ident),* $(,)? })*) => { $(
        impl<'a> $crate::api::objects::protobuf::Value<'a> for $message $(<$life>)? {
            fn put(
                &mut self,
                content: $crate::api::objects::protobuf::Content<'a>,
            ) -> Result<(), $crate::api::objects::protobuf::Error> {
                for field in $crate::api::objects::protobuf::Fields::of(content.bytes()?) {
                    let (number, content) = field?;
                    match number {
                        $($number => self.$field.put(content).map_err(|error| error.within(stringify!($field)))?,)*
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    )* };
}
pub(crate) use messages;

messages! {
    Service<'a> { 1: metadata, 2: spec, 3: status }
    ServiceSpec<'a> {
        1: ports, 3: cluster_ip, 4: type_, 5: external_ips, 7: session_affinity, 9: load_balancer_source_ranges,
        11: external_traffic_policy, 12: health_check_node_port, 14: session_affinity_config, 18: cluster_ips,
        19: ip_families, 22: internal_traffic_policy,
    }
    ServicePort<'a> { 1: name, 2: protocol, 3: port, 5: node_port }
    SessionAffinityConfig { 1: client_ip }
    ClientIpConfig { 1: timeout_seconds }
    ServiceStatus<'a> { 1: load_balancer }
    LoadBalancerStatus<'a> { 1: ingress }
    LoadBalancerIngress<'a> { 1: ip, 3: ip_mode }
    EndpointSlice<'a> { 1: metadata, 2: endpoints, 3: ports, 4: address_type }
    Endpoint<'a> { 1: addresses, 2: conditions, 6: node_name, 8: hints }
    EndpointConditions { 1: ready, 2: serving, 3: terminating }
    EndpointHints<'a> { 1: for_zones, 2: for_nodes }
    Named<'a> { 1: name }
    EndpointPort<'a> { 1: name, 2: protocol, 3: port }
    Node<'a> { 1: metadata, 2: spec, 3: status }
    NodeSpec<'a> { 1: pod_cidr, 5: taints, 7: pod_cidrs }
    Taint<'a> { 1: key }
    NodeStatus<'a> { 5: addresses }
    NodeAddress<'a> { 1: type_, 2: address }
    ObjectMeta<'a> {
        1: name, 3: namespace, 5: uid, 6: resource_version, 8: creation_timestamp, 9: deletion_timestamp,
        11: labels, 12: annotations,
    }
}

/// Bytes that are not decoded yet.
impl<'a> Value<'a> for &'a [u8] {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        *self = content.bytes()?;
        Ok(())
    }
}

/// API servers accept whatever bytes a client that speaks protocol buffers puts into an annotation. Bytes that are not
/// UTF-8 are read as Go's JSON encoder writes them, as U+FFFD: one object then looks strange, but no other is stopped.
impl<'a> Value<'a> for Text<'a> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        let bytes = content.bytes()?;
        // Checked first, since the lossy function looks at each byte.
        let text = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed);
        *self = Self(text);
        Ok(())
    }
}

impl Value<'_> for String {
    fn put(&mut self, content: Content<'_>) -> Result<(), Error> {
        let mut text = Text::default();
        text.put(content)?;
        *self = text.to_string();
        Ok(())
    }
}

impl Value<'_> for i32 {
    fn put(&mut self, content: Content<'_>) -> Result<(), Error> {
        let number = content.number()?;
        // Negative numbers are written as 64 bits.
        *self = i32::try_from(number.cast_signed()).map_err(|_| Error::expected("a number of 32 bits"))?;
        Ok(())
    }
}

impl Value<'_> for i64 {
    fn put(&mut self, content: Content<'_>) -> Result<(), Error> {
        *self = content.number()?.cast_signed();
        Ok(())
    }
}

impl Value<'_> for bool {
    fn put(&mut self, content: Content<'_>) -> Result<(), Error> {
        *self = content.number()? != 0;
        Ok(())
    }
}

impl<'a, T: Value<'a>> Value<'a> for Option<T> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        self.get_or_insert_default().put(content)
    }
}

impl<'a, T: Value<'a>> Value<'a> for Vec<T> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        let mut item = T::default();
        item.put(content)?;
        self.push(item);
        Ok(())
    }
}

impl<'a, A: Array<Item: Value<'a>>> Value<'a> for SmallVec<A> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        let mut item = A::Item::default();
        item.put(content)?;
        self.push(item);
        Ok(())
    }
}

/// meta/v1 `Timestamp`. Times of objects have no fractions of seconds; an empty message means no time, as 0 does.
#[derive(Default)]
struct SinceEpoch {
    seconds: i64,
}

messages! { SinceEpoch { 1: seconds } }

impl Value<'_> for Time {
    fn put(&mut self, content: Content<'_>) -> Result<(), Error> {
        let SinceEpoch { seconds } = decode(content.bytes()?)?;
        let time = Timestamp::from_second(seconds).map_err(|_| Error::expected("a time of this era"))?;
        *self = Self(time);
        Ok(())
    }
}

/// An entry of a map of texts. Few entries are used, so neither part is decoded yet.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value: content for a [`Text`].
    pub value: &'a [u8],
}

messages! { Entry<'a> { 1: key, 2: value } }

impl<'a> Value<'a> for Texts<'a> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        let entry: Entry<'a> = decode(content.bytes()?)?;
        if let Some(name) = KEPT.into_iter().find(|kept| kept.as_bytes() == entry.key) {
            let mut value = Text::default();
            value.put(Content::Bytes(entry.value))?;
            self.0.push((name, value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
