//! Reports every request to the API server to an observer, for metrics.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Body;
use tower::Service;

/// A request, and what became of it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The method.
    pub method: &'a Method,
    /// The server, as host and port.
    pub host: &'a str,
    /// The status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// How long it took until the answer began. A watch goes on for minutes after that.
    pub took: Duration,
    /// How many bytes were sent, without the head.
    pub request_bytes: u64,
    /// How many bytes the answer has, without its head, if the head says so: an answer that is written while it is made
    /// does not.
    pub response_bytes: Option<u64>,
}

/// Is told of requests; must not block.
pub type Observer = Arc<dyn Fn(&Exchange<'_>) + Send + Sync>;

/// Wraps a client so that its requests are observed.
pub(super) struct Layer {
    host: Arc<str>,
    observer: Observer,
}

impl Layer {
    pub(super) fn new(server: &Uri, observer: Observer) -> Self {
        let default = if server.scheme_str() == Some("https") { 443 } else { 80 };
        let port = server.port_u16().unwrap_or(default);
        Self { host: format!("{}:{port}", server.host().unwrap_or_default()).into(), observer }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, host: Arc::clone(&self.host), observer: Arc::clone(&self.observer) }
    }
}

/// A client that is observed.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    host: Arc<str>,
    observer: Observer,
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    B: Body,
    S: Service<Request<B>, Response = Response<R>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().clone();
        let (host, observer) = (Arc::clone(&self.host), Arc::clone(&self.observer));
        let request_bytes = request.body().size_hint().lower();
        let begun = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            observer(&Exchange {
                method: &method,
                host: &host,
                status: answer.as_ref().ok().map(|answer| answer.status().as_u16()),
                took: begun.elapsed(),
                request_bytes,
                response_bytes: answer.as_ref().ok().and_then(|answer| length(answer.headers())),
            });
            answer
        })
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;

    #[tokio::test]
    async fn every_request_is_told_of_with_its_end() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = Arc::clone(&told);
        let observer: Observer = Arc::new(move |exchange| {
            let Exchange { method, host, status, request_bytes, response_bytes, .. } = exchange;
            let sizes = format!("{request_bytes} {response_bytes:?}");
            hears.lock().unwrap().push(format!("{method} {host} {status:?} {sizes}"));
        });
        let server = service_fn(async |request: Request<String>| match request.uri().path() {
            "/bad" => Err("broken"),
            "/whole" => Ok(Response::builder().header(CONTENT_LENGTH, "482").body(()).unwrap()),
            _ => Ok(Response::builder().status(404).body(()).unwrap()),
        });
        for (url, path, body) in [
            ("https://kubernetes", "/good", ""),
            ("http://192.0.2.1:8080", "/bad", ""),
            ("http://192.0.2.1:8080", "/whole", "an Event"),
        ] {
            let client = Layer::new(&url.parse().unwrap(), Arc::clone(&observer)).layer(server);
            let answer = client.oneshot(Request::get(path).body(body.to_owned()).unwrap()).await;
            assert_eq!(answer.is_ok(), path != "/bad");
        }
        assert_eq!(
            *told.lock().unwrap(),
            [
                "GET kubernetes:443 Some(404) 0 None",
                "GET 192.0.2.1:8080 None 0 None",
                "GET 192.0.2.1:8080 Some(200) 8 Some(482)",
            ]
        );
    }
}
