//! One request, and its answer in pieces.
//!
//! kube's client carries the request (TLS, credentials, connections). Reading the answer is done here and not by
//! its `list` and `watch`, for five things that those hide: every wait for bytes has a limit (a list of kube has
//! none); `Retry-After` is seen; each object is decoded by itself, so that one that cannot be decoded has a
//! name and stops no other; a relist can demand a version, which kube-runtime's watcher cannot; and kube knows JSON only.

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

/// An answer whose status is good; its body is still to come.
pub(super) struct Answer {
    /// How what is in it is written.
    pub(super) encoding: Encoding,
    /// The body.
    pub(super) body: Body,
}

/// Sends a request, for an answer that is best written in this encoding.
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
    // What cannot be read of the explanation is left out: the status is known.
    let mut silence = Silence::default();
    while text.len() < ERROR_LIMIT_BYTES
        && silence.limit(read_more(&mut body, &mut text), limit).await == Ok(true)
    {}
    let explanation = encoding.explanation(&text);
    let text = String::from_utf8_lossy(&text);
    Err(Failure::Refused(refusal(head.status.as_u16(), &head.headers, explanation, &text)))
}

/// Reads the whole body, however long it takes, as long as it does not pause for longer than the limit.
pub(super) async fn read_all(mut body: Body, limit: Duration) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut silence) = (Vec::new(), Silence::default());
    while silence.limit(read_more(&mut body, &mut bytes), limit).await? {}
    Ok(bytes)
}

/// Appends the next piece of the body; whether there was one.
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

/// Limits how long nothing comes, by one timer for many waits: each that is set wakes the thread that waits for sockets,
/// to have it wait again, which costs more than the change that was waited for.
#[derive(Default)]
pub(super) struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// What comes, or [`Failure::Silence`] if it does not within the limit, counted from now.
    pub(super) async fn limit<T>(
        &mut self,
        coming: impl Future<Output = Result<T, Failure>>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let (mut coming, mut end) = (pin!(coming), None);
        poll_fn(|context| {
            // What is there already needs no clock.
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
                // It was set for an earlier wait.
                timer.as_mut().reset(end);
            }
        })
        .await
    }
}

/// The errors of the layers below, each of which says little: all of them, outermost first, without repetition.
fn layers(error: &kube::Error) -> String {
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
    text
}
