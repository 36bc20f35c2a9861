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

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::future::pending;
    use std::io;

    use futures_util::stream::{self, Stream, StreamExt as _};
    use http::{Response, StatusCode};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// How a request fails if the answer is a 503 with this body.
    async fn refused(pieces: impl Stream<Item = Vec<u8>> + Clone + Send + Sync + 'static) -> Failure {
        let service = tower::service_fn(move |_: Request<Body>| {
            let body = axum::body::Body::from_stream(pieces.clone().map(Ok::<_, io::Error>));
            let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(body);
            async { response }
        });
        let client = Client::new(service, "default");
        open(&client, Request::new(Vec::new()), Encoding::Json, LIMIT).await.err().expect("a refusal")
    }

    #[tokio::test]
    async fn an_explanation_may_come_in_pieces() {
        let pieces = [&b"{\"message\": "[..], b"", b"\"busy\"}"].map(<[u8]>::to_vec);
        assert_eq!(refused(stream::iter(pieces)).await.to_string(), "503: busy");
    }

    #[tokio::test]
    async fn an_explanation_without_an_end_is_cut_off() {
        let failure = refused(stream::repeat(vec![b'x'; 1000])).await;
        assert_eq!(failure.to_string(), format!("503: {}", "x".repeat(200)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_limit() {
        let mut silence = Silence::default();
        for (pause, limit, wanted) in [(1, 100, Ok(())), (9, 5, Err(5)), (7, 8, Ok(())), (9, 3, Err(3))] {
            let (begun, limit) = (Instant::now(), Duration::from_secs(limit));
            let coming = async {
                sleep(Duration::from_secs(pause)).await;
                Ok(())
            };
            let wanted = wanted.map_err(|seconds| Failure::Silence(Duration::from_secs(seconds)));
            assert_eq!(silence.limit(coming, limit).await, wanted);
            assert_eq!(begun.elapsed(), limit.min(Duration::from_secs(pause)));
        }
        let never = silence.limit(pending::<Result<(), Failure>>(), LIMIT).await;
        assert_eq!(never, Err(Failure::Silence(LIMIT)));
    }

    /// An error with the one below it.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|inner| inner as _)
        }
    }

    #[test]
    fn each_layer_of_an_error_is_said_once() {
        let layers_of = |texts: [&'static str; 3]| {
            let [outer, middle, inner] = texts;
            let inner = Layer(middle, Some(Box::new(Layer(inner, None))));
            layers(&kube::Error::Service(Box::new(Layer(outer, Some(Box::new(inner))))))
        };
        assert_eq!(layers_of(["connect", "tcp", "refused"]), "connect: tcp: refused");
        assert_eq!(layers_of(["connect: tcp", "tcp", "refused"]), "connect: tcp: refused");
    }
}
