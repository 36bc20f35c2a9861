//! Answers in protocol buffers: the framing of the objects.
//!
//! An object that stands alone is in an envelope: four bytes, then a message that names its type
//! (k8s.io/apimachinery/pkg/runtime `Unknown`). A list is one such object; its items have no envelopes of their own. An
//! event of a watch is a message without an envelope, but the object in it has one.

use super::api_status::Explanation;
use super::encoding::{Encoded, Page, WatchEvent, malformed};
use super::failure::Failure;
use super::version::Version;
use crate::api::objects::Text;
use crate::api::objects::protobuf::{Error, decode, messages};

/// The first bytes of every envelope.
const MAGIC: &[u8] = b"k8s\0";

/// pkg/runtime `Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    raw: &'a [u8],
}

/// meta/v1 `WatchEvent`.
#[derive(Default)]
struct Event<'a> {
    kind: Text<'a>,
    object: RawExtension<'a>,
}

/// pkg/runtime `RawExtension`.
#[derive(Default)]
struct RawExtension<'a> {
    raw: &'a [u8],
}

/// `ServiceList` and the like.
#[derive(Default)]
struct List<'a> {
    metadata: ListMeta,
    items: Vec<&'a [u8]>,
}

/// meta/v1 `ListMeta`.
#[derive(Default)]
struct ListMeta {
    resource_version: String,
    continues: Option<String>,
}

messages! {
    Envelope<'a> { 2: raw }
    Event<'a> { 1: kind, 2: object }
    RawExtension<'a> { 1: raw }
    List<'a> { 1: metadata, 2: items }
    ListMeta { 2: resource_version, 3: continues }
}

/// Reads a list.
pub(super) fn page(bytes: &[u8]) -> Result<Page<'_>, Failure> {
    let list: List<'_> = opened(bytes).and_then(decode).map_err(|error| malformed("a list", &error))?;
    Ok(Page {
        version: Version::new(&list.metadata.resource_version),
        continues: list.metadata.continues,
        items: list.items.into_iter().map(Encoded::Protobuf).collect(),
    })
}

/// Reads an event of a watch.
pub(super) fn event(bytes: &[u8]) -> Result<WatchEvent<'_>, Failure> {
    let wrong = |error| malformed("a watch event", &error);
    let Event { kind, object } = decode(bytes).map_err(wrong)?;
    let object = opened(object.raw).map_err(wrong)?;
    WatchEvent::of(&kind, Encoded::Protobuf(object))
}

/// Reads the explanation that comes with an error.
pub(super) fn explanation(bytes: &[u8]) -> Option<Explanation> {
    opened(bytes).and_then(decode).ok()
}

/// The content of an envelope.
fn opened(bytes: &[u8]) -> Result<&[u8], Error> {
    let message = bytes.strip_prefix(MAGIC).ok_or(Error::expected("an envelope"))?;
    let Envelope { raw } = decode(message)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_envelope_is_not_read_as_if_it_had_one() {
        let is_list = |bytes: &[u8]| page(bytes).is_ok();
        assert!(is_list(MAGIC), "an empty list");
        for wrong in [&b""[..], &MAGIC[..3], b"k8s\x01", b"\n\0"] {
            assert!(!is_list(wrong), "{wrong:?}");
        }
    }
}
