//! One request, and its answer in pieces.
//!
//! kube's client carries the request (TLS, credentials, connections). Its `list` and `watch` are not used to read the
//! answer, for five reasons: here every wait for bytes has a limit (kube's list has none); `Retry-After` is seen; each
//! object is decoded by itself, so that one that cannot be decoded has a name and stops no other; a relist can demand a
//! version, which kube-runtime's watcher cannot; and kube knows only JSON.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use http::Request;
use http::header::ACCEPT;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::api_status::refusal;
use super::encoding::Encoding;
use super::failure::Failure;

/// How much of an error's body is read, in bytes.
const ERROR_LIMIT_BYTES: usize = 64 << 10;

/// A successful answer; its body is still to come.
pub(super) struct Answer {
    /// The encoding of the body.
    pub(super) encoding: Encoding,
    /// The body.
    pub(super) body: Body,
}

/// Sends a request; `encoding` is the preferred one for the answer.
pub(super) async fn open(
    client: &Client,
    mut request: Request<Vec<u8>>,
    encoding: Encoding,
    limit: Duration,
) -> Result<Answer, Failure> {
    request.headers_mut().insert(ACCEPT, encoding.accept());
    let response = timeout(limit, client.send(request.map(Body::from)))
        .await
        .map_err(|_| Failure::Silence(limit))?
        .map_err(|error| Failure::Connection(layers(&error)))?;
    let (head, mut body) = response.into_parts();
    let encoding = Encoding::of(&head.headers);
    if head.status.is_success() {
        return Ok(Answer { encoding, body });
    }
    let mut text = Vec::new();
    // If the explanation cannot be read to its end, the rest is left out: the status is known.
    let mut silence = Silence::default();
    while text.len() < ERROR_LIMIT_BYTES
        && silence.limit(read_more(&mut body, &mut text), limit).await == Ok(true)
    {}
    let explanation = encoding.explanation(&text);
    let text = String::from_utf8_lossy(&text);
    Err(Failure::Refused(refusal(head.status.as_u16(), &head.headers, explanation, &text)))
}

/// Reads the whole body, however long that takes, as long as no pause is longer than the limit.
pub(super) async fn read_all(mut body: Body, limit: Duration) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut silence) = (Vec::new(), Silence::default());
    while silence.limit(read_more(&mut body, &mut bytes), limit).await? {}
    Ok(bytes)
}

/// Appends the next piece of the body; returns whether there was one.
pub(super) async fn read_more(body: &mut Body, bytes: &mut Vec<u8>) -> Result<bool, Failure> {
    loop {
        let Some(frame) = body.frame().await.transpose().map_err(|error| Failure::Broken(layers(&error)))?
        else {
            return Ok(false);
        };
        // Other frames are trailers.
        if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            bytes.extend_from_slice(data);
            return Ok(true);
        }
    }
}

/// Limits how long nothing may come, with one timer for many waits. Setting a timer wakes the thread that waits for
/// sockets, only to make it wait again, which costs more than the change that was waited for.
#[derive(Default)]
pub(super) struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Returns what comes, or [`Failure::Silence`] if nothing does within the limit, counted from now.
    pub(super) async fn limit<T>(
        &mut self,
        coming: impl Future<Output = Result<T, Failure>>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let (mut coming, mut end) = (pin!(coming), None);
        poll_fn(|context| {
            // What is already there needs no clock.
            if let Poll::Ready(output) = coming.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            let end = *end.get_or_insert_with(|| Instant::now() + limit);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
            if timer.deadline() > end {
                timer.as_mut().reset(end);
            }
            loop {
                ready!(timer.as_mut().poll(context));
                if Instant::now() >= end {
                    return Poll::Ready(Err(Failure::Silence(limit)));
                }
                // The timer was set for an earlier wait.
                timer.as_mut().reset(end);
            }
        })
        .await
    }
}

/// The errors of all layers below, outermost first, without repetition, since each alone says little.
fn layers(error: &kube::Error) -> String {
    let mut text = match error {
        // These two say only that there is an inner error.
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
    text
}
