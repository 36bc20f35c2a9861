//! One request, and its answer in pieces: a page of a list, or the lines of a watch.
//!
//! kube's client carries the request (TLS, credentials, connections). Reading the answer is done here and not by
//! its `list` and `watch`, for four things that those hide: every wait for bytes has a limit (a list of kube has
//! none); `Retry-After` is seen; each object is decoded by itself, so that one that cannot be decoded has a
//! name and stops no other; and a relist can demand a version, which kube-runtime's watcher cannot.

use std::error::Error as _;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::failure::{Failure, Refusal};
use super::version::Version;
use crate::api::objects::Text;

/// The longest line of a watch that is accepted, in bytes. etcd refuses objects of more than 1.5 MiB.
const LINE_LIMIT_BYTES: usize = 16 << 20;
/// How much of an error's body is read, in bytes.
const ERROR_LIMIT_BYTES: usize = 64 << 10;

/// What a page of a list is made of; the objects are not decoded yet.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    /// The version of the collection, and where it goes on.
    pub(super) metadata: PageMetadata,
    /// The objects.
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

/// `ListMeta` of the API, as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version of the whole collection, the same in all its pages.
    pub(super) resource_version: Option<String>,
    /// The ticket for the next page.
    #[serde(rename = "continue")]
    pub(super) next_page: Option<String>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What a line of a watch says; objects are not decoded yet.
pub(super) enum Line<'a> {
    /// `ADDED` or `MODIFIED`: a text that begins with the object.
    Put(&'a str),
    /// `DELETED`.
    Delete(Named<'a>),
    /// `BOOKMARK`: everything up to this version was sent.
    Bookmark {
        /// That version.
        version: Option<Version>,
        /// Whether it ends the objects of a streaming list.
        ends_list: bool,
    },
}

/// What is read of an object's metadata where the rest does not matter, or cannot be read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Named<'a> {
    /// The metadata.
    #[serde(default, borrow)]
    pub(super) metadata: NamedMetadata<'a>,
}

impl<'a> Named<'a> {
    pub(super) fn new(namespace: Text<'a>, name: Text<'a>, resource_version: Text<'a>) -> Self {
        Self { metadata: NamedMetadata { namespace, name, resource_version, annotations: None } }
    }
}

/// `ObjectMeta` of the API, as far as it is used here.
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
    /// Annotations; bookmarks say the end of a streaming list by one.
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "k8s.io/initial-events-end", default)]
    initial_events_end: Option<String>,
}

impl<'a> Line<'a> {
    /// Reads a line. An `ERROR` event is a failure like the same status as an answer.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, Failure> {
        if let Some(object) = Self::usual(line) {
            return Ok(Self::Put(object));
        }
        let raw: RawLine<'_> =
            serde_json::from_slice(line).map_err(|error| malformed("a watch event", &error))?;
        match raw.kind {
            "ADDED" | "MODIFIED" => Ok(Self::Put(raw.object.get())),
            "DELETED" => named(raw.object.get()).map(Self::Delete),
            "BOOKMARK" => {
                let metadata = named(raw.object.get())?.metadata;
                let mark = metadata.annotations.and_then(|annotations| annotations.initial_events_end);
                Ok(Self::Bookmark {
                    version: Version::new(&metadata.resource_version),
                    ends_list: mark.as_deref() == Some("true"),
                })
            }
            "ERROR" => {
                let status = serde_json::from_str(raw.object.get())
                    .map_err(|error| malformed("the status of an ERROR event", &error))?;
                Err(Failure::Refused(refusal(0, &HeaderMap::new(), Some(status), "")))
            }
            other => Err(Failure::Malformed(format!("a watch event of type {other:?}"))),
        }
    }

    /// The object of an event as API servers write it, found without a walk through the object: it is walked through when
    /// it is decoded, and a list of a large cluster is a hundred million bytes.
    fn usual(line: &'a [u8]) -> Option<&'a str> {
        let forms: [&[u8]; 2] = [br#"{"type":"ADDED","object":"#, br#"{"type":"MODIFIED","object":"#];
        let object = forms.into_iter().find_map(|form| line.strip_prefix(form))?;
        std::str::from_utf8(object).ok()
    }
}

/// The metadata of an object. One without a name is not an object, and what it came from not an API server.
pub(super) fn named(object: &str) -> Result<Named<'_>, Failure> {
    first_of(object).map_err(|error| malformed("the metadata of an object", &error))
}

/// Decodes the object that a text begins with, whatever is behind it.
pub(super) fn first_of<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, serde_json::Error> {
    T::deserialize(&mut serde_json::Deserializer::from_str(text))
}

/// Sends a request; the answer's status is good, its body is still to come.
pub(super) async fn open(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<Body, Failure> {
    let response = timeout(limit, client.send(request.map(Body::from)))
        .await
        .map_err(|_| Failure::Silence(limit))?
        .map_err(|error| connection(&error))?;
    let (head, mut body) = response.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let mut text = Vec::new();
    // What cannot be read of the explanation is left out: the status is known.
    let mut silence = Silence::default();
    while text.len() < ERROR_LIMIT_BYTES
        && silence.limit(read_more(&mut body, &mut text), limit).await == Ok(true)
    {}
    let status = serde_json::from_slice::<Status>(&text).ok();
    Err(Failure::Refused(refusal(
        head.status.as_u16(),
        &head.headers,
        status,
        &String::from_utf8_lossy(&text),
    )))
}

/// Reads the whole body, however long it takes, as long as it does not pause for longer than the limit.
pub(super) async fn read_all(mut body: Body, limit: Duration) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut silence) = (Vec::new(), Silence::default());
    while silence.limit(read_more(&mut body, &mut bytes), limit).await? {}
    Ok(bytes)
}

/// Appends the next piece of the body; whether there was one.
async fn read_more(body: &mut Body, bytes: &mut Vec<u8>) -> Result<bool, Failure> {
    loop {
        let Some(frame) = body.frame().await.transpose().map_err(|error| connection(&error))? else {
            return Ok(false);
        };
        // Other frames are trailers.
        if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            bytes.extend_from_slice(data);
            return Ok(true);
        }
    }
}

/// The lines of a body.
pub(super) struct Lines {
    body: Body,
    silence: Silence,
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no line end, from `start` on.
    searched: usize,
}

impl Lines {
    /// The lines of this body.
    pub(super) fn new(body: Body) -> Self {
        Self { body, silence: Silence::default(), buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// The next line that is not empty; `None` at the end of the body. A last line without its end was cut off
    /// and does not count.
    pub(super) async fn next(&mut self, limit: Duration) -> Result<Option<&[u8]>, Failure> {
        loop {
            while let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.start..self.searched + length;
                self.start = line.end + 1;
                self.searched = self.start;
                if !line.is_empty() {
                    return Ok(Some(&self.buffer[line]));
                }
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.searched = self.buffer.len();
            if self.searched > LINE_LIMIT_BYTES {
                return Err(Failure::Malformed(format!("a line of more than {LINE_LIMIT_BYTES} bytes")));
            }
            let more = read_more(&mut self.body, &mut self.buffer);
            if !self.silence.limit(more, limit).await? {
                return Ok(None);
            }
        }
    }
}

/// Limits how long nothing comes, by one timer for many waits: each that is set wakes the thread that waits for sockets,
/// to have it wait again, which costs more than the change that was waited for.
#[derive(Default)]
struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// What comes, or [`Failure::Silence`] if it does not within the limit, counted from now.
    async fn limit<T>(
        &mut self,
        coming: impl Future<Output = Result<T, Failure>>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let end = Instant::now() + limit;
        let mut coming = pin!(coming);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        loop {
            tokio::select! {
                biased;
                output = &mut coming => return output,
                () = timer.as_mut() => {
                    if Instant::now() >= end {
                        return Err(Failure::Silence(limit));
                    }
                    // It was set for an earlier wait.
                    timer.as_mut().reset(end);
                }
            }
        }
    }
}

/// A refusal from all that the server said; what it says in the status object goes first.
fn refusal(code: u16, headers: &HeaderMap, status: Option<Status>, text: &str) -> Refusal {
    let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let Some(status) = status else {
        // Servers under pressure, and proxies in front of them, answer in plain text.
        let message = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let message = message.chars().take(200).collect();
        return Refusal { code, message, retry_after: header.map(Duration::from_secs), ..Refusal::default() };
    };
    let details = status.details.as_ref();
    let wait = details.map(|details| u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0);
    let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
    Refusal {
        code: if status.code == 0 { code } else { status.code },
        version_too_large: causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
            || status.message.contains("Too large resource version"),
        reason: status.reason,
        message: status.message,
        retry_after: header.or(wait).map(Duration::from_secs),
    }
}

pub(super) fn malformed(what: &str, error: &serde_json::Error) -> Failure {
    Failure::Malformed(format!("{what}: {error}"))
}

/// The errors of the layers below, each of which says little: all of them, outermost first, without repetition.
fn connection(error: &kube::Error) -> Failure {
    let mut text = match error {
        // These two say only that another one is inside.
        kube::Error::Service(inner) => inner.to_string(),
        kube::Error::HyperError(inner) => inner.to_string(),
        other => other.to_string(),
    };
    let mut source = error.source().and_then(std::error::Error::source);
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    Failure::Connection(text)
}
