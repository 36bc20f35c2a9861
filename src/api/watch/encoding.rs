//! The two encodings of answers, and what is read of an answer before its objects are decoded.
//!
//! Protocol buffers are asked for first, as Kubernetes' own clients do: they have a third of the bytes, and take a
//! tenth of the work to read. JSON is understood as well, since a user may want it, and something in front of an API
//! server may know nothing else; the answer's `Content-Type` tells which one came.

use std::fmt;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::api_status::Explanation;
use super::failure::Failure;
use super::version::Version;
use super::{json, protobuf};
use crate::api::objects::protobuf::{Content, Entry, Error, Value};
use crate::api::objects::{self, Text};

/// How objects are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `application/vnd.kubernetes.protobuf`.
    #[default]
    Protobuf,
    /// `application/json`.
    Json,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Encoding {
    /// The value of the header `Accept` that asks for this encoding.
    pub(super) fn accept(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf,application/json",
            Self::Json => "application/json",
        })
    }

    /// The encoding of an answer. Whatever is not declared as something else may be JSON.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(value) if value.starts_with(PROTOBUF.as_bytes()) => Self::Protobuf,
            _ => Self::Json,
        }
    }

    /// Reads an event of a watch. An `ERROR` event is a failure, like an answer with the same status.
    pub(super) fn event(self, bytes: &[u8]) -> Result<WatchEvent<'_>, Failure> {
        match self {
            Self::Protobuf => protobuf::event(bytes),
            Self::Json => json::event(bytes),
        }
    }

    /// Reads a list, or a page of one.
    pub(super) fn page(self, bytes: &[u8]) -> Result<Page<'_>, Failure> {
        match self {
            Self::Protobuf => protobuf::page(bytes),
            Self::Json => json::page(bytes),
        }
    }

    /// Reads the explanation that comes with an error, if there is one.
    pub(super) fn explanation(self, bytes: &[u8]) -> Option<Explanation> {
        match self {
            Self::Protobuf => protobuf::explanation(bytes),
            Self::Json => serde_json::from_slice(bytes).ok(),
        }
    }
}

/// A list, or a page of one; the objects are not decoded yet.
pub(super) struct Page<'a> {
    /// The version of the whole collection, the same in all its pages.
    pub(super) version: Option<Version>,
    /// The token for the next page.
    pub(super) continues: Option<String>,
    /// The objects.
    pub(super) items: Vec<Encoded<'a>>,
}

/// The content of a watch event; objects are not decoded yet.
pub(super) enum WatchEvent<'a> {
    /// `ADDED` or `MODIFIED`.
    Put(Encoded<'a>),
    /// `DELETED`.
    Delete(NamedMetadata<'a>),
    /// `BOOKMARK`: everything up to this version was sent.
    Bookmark {
        /// That version.
        version: Option<Version>,
        /// Whether it ends the objects of a streaming list.
        ends_list: bool,
    },
}

impl<'a> WatchEvent<'a> {
    /// The event of this type about this object.
    pub(super) fn of(kind: &str, object: Encoded<'a>) -> Result<Self, Failure> {
        match kind {
            "ADDED" | "MODIFIED" => Ok(Self::Put(object)),
            "DELETED" => object.metadata().map(Self::Delete),
            "BOOKMARK" => {
                let metadata = object.metadata()?;
                let version = Version::new(&metadata.resource_version);
                let mark = metadata.annotations.and_then(|annotations| annotations.initial_events_end);
                Ok(Self::Bookmark { version, ends_list: mark.as_deref() == Some("true") })
            }
            "ERROR" => {
                let explanation: Explanation =
                    object.decode().map_err(|error| malformed("the status of an ERROR event", &error))?;
                Err(Failure::Refused(explanation.into()))
            }
            other => Err(Failure::Malformed(format!("a watch event of type {other:?}"))),
        }
    }
}

/// An object that is not decoded yet.
#[derive(Clone, Copy)]
pub(super) enum Encoded<'a> {
    /// The message.
    Protobuf(&'a [u8]),
    /// A text that begins with the object, whatever follows it.
    Json(&'a str),
}

/// Why an object cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undecodable {
    #[error(transparent)]
    Protobuf(#[from] objects::protobuf::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl<'a> Encoded<'a> {
    /// Decodes the object.
    pub(super) fn decode<T: Deserialize<'a> + Value<'a>>(self) -> Result<T, Undecodable> {
        Ok(match self {
            Self::Protobuf(message) => objects::protobuf::decode(message)?,
            Self::Json(text) => T::deserialize(&mut serde_json::Deserializer::from_str(text))?,
        })
    }

    /// Decodes only its metadata, if the rest does not matter or cannot be decoded.
    pub(super) fn metadata(self) -> Result<NamedMetadata<'a>, Failure> {
        let named: Named<'a> =
            self.decode().map_err(|error| malformed("the metadata of an object", &error))?;
        Ok(named.metadata)
    }
}

/// An object reduced to its metadata.
#[derive(Debug, Default, Deserialize)]
struct Named<'a> {
    #[serde(default, borrow)]
    metadata: NamedMetadata<'a>,
}

/// The part of the API's `ObjectMeta` that is used if the object itself is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NamedMetadata<'a> {
    /// The namespace, empty for objects that have none.
    #[serde(borrow)]
    pub(super) namespace: Text<'a>,
    /// The name.
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    /// The version.
    #[serde(borrow)]
    pub(super) resource_version: Text<'a>,
    /// Annotations; by one of them, a bookmark says that it ends a streaming list.
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
}

/// The annotation of the bookmark that ends the objects of a streaming list (KEP-3157): `true`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations<'a> {
    #[serde(rename = "k8s.io/initial-events-end", borrow)]
    initial_events_end: Option<Text<'a>>,
}

impl<'a> Value<'a> for Annotations<'a> {
    fn put(&mut self, content: Content<'a>) -> Result<(), Error> {
        let Entry { key, value } = objects::protobuf::decode(content.bytes()?)?;
        if key == b"k8s.io/initial-events-end" {
            self.initial_events_end.put(Content::Bytes(value))?;
        }
        Ok(())
    }
}

objects::protobuf::messages! {
    Named<'a> { 1: metadata }
    NamedMetadata<'a> { 1: name, 3: namespace, 6: resource_version, 12: annotations }
}

impl<'a> NamedMetadata<'a> {
    pub(super) fn new(namespace: Text<'a>, name: Text<'a>, resource_version: Text<'a>) -> Self {
        Self { namespace, name, resource_version, annotations: None }
    }
}

pub(super) fn malformed(what: &str, error: &impl fmt::Display) -> Failure {
    Failure::Malformed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_an_answer_is_what_it_says_or_else_json() {
        let of = |content_type: Option<&'static str>| {
            let value = content_type.map(|text| (CONTENT_TYPE, HeaderValue::from_static(text)));
            Encoding::of(&HeaderMap::from_iter(value))
        };
        assert_eq!(of(Some("application/vnd.kubernetes.protobuf")), Encoding::Protobuf);
        assert_eq!(of(Some("application/vnd.kubernetes.protobuf;stream=watch")), Encoding::Protobuf);
        for other in [Some("application/json;stream=watch"), Some("text/plain"), None] {
            assert_eq!(of(other), Encoding::Json, "{other:?}");
        }
    }
}
