//! What the HTTP servers have in common, and the server for health checks (contract 8.1, 8.2). The pages of the other
//! server are in [`super::pages`].

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use rustix::io::Errno;
use socket2::TcpKeepalive;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::{self, Connections, Limits};
use super::healthz::{self, Answer};
use super::metrics::Metrics;
use super::{Moment, Status};

/// How long to wait after listening on an address failed.
const RETRY: Duration = Duration::from_secs(5);
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// When, and how often, a silent peer is asked whether it is still there.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Answers `/healthz` and `/livez`, and nothing else.
pub fn healthz_router(
    status: watch::Receiver<Status>,
    sync_period: Duration,
    metrics: Arc<Metrics>,
) -> Router {
    let livez_status = status.clone();
    let livez_metrics = Arc::clone(&metrics);
    Router::new()
        .route(
            "/healthz",
            any(async move || {
                let answer = healthz::healthz(&status.borrow(), Moment::now(), sync_period);
                metrics.kube_proxy.healthz_total.with_label_values(&[answer.code.to_string()]).inc();
                health(answer)
            }),
        )
        .route(
            "/livez",
            any(async move || {
                let answer = healthz::livez(&livez_status.borrow(), Moment::now(), sync_period);
                livez_metrics.kube_proxy.livez_total.with_label_values(&[answer.code.to_string()]).inc();
                health(answer)
            }),
        )
        .fallback(not_found)
}

/// A server on an address of its own.
pub struct Server {
    /// Its name in the log.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is fatal if the address cannot be listened on.
    pub hard_fail: bool,
}

impl Server {
    /// Serves until `shutdown`. If the address cannot be listened on, it is tried again every 5 seconds: another
    /// program that still holds it (the proxy that is being replaced) is no reason not to forward packets.
    ///
    /// # Errors
    /// With `hard_fail`, at once if the address cannot be listened on.
    pub async fn run(self, router: Router, shutdown: CancellationToken) -> io::Result<()> {
        let Self { name, address, hard_fail } = self;
        let serve = async {
            // The last reason that was logged: each is logged once, and again after another. The contract wants an
            // error in the log, not one for each attempt.
            let mut said = None;
            let listener = loop {
                match listen(address) {
                    Ok(listener) => break listener,
                    Err(error) if hard_fail => {
                        // Logged here, since the program ends with one error, and the other server may have one too.
                        tracing::error!(name, %address, err = %error, "Failed to listen");
                        return Err(error);
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if said.as_ref() != Some(&error) {
                            tracing::error!(name, %address, err = error, "Failed to listen, trying again in 5 seconds");
                        }
                        said = Some(error);
                    }
                }
                tokio::time::sleep(RETRY).await;
            };
            tracing::info!(name, %address, "Serving");
            connections::serve(listener, router, Connections::within(Limits::DEFAULT)).await
        };
        // Connections that are open do not delay the end of the program. Cancel-safe: both ends are final.
        shutdown.run_until_cancelled(serve).await.unwrap_or(Ok(()))
    }
}

/// Listens on an address; for `0.0.0.0` on IPv6 too, as Go does and kube-proxy therefore always did.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() == IpAddr::from([0, 0, 0, 0]) {
        match open((Ipv6Addr::UNSPECIFIED, address.port()).into(), false) {
            // A host without IPv6.
            Err(error)
                if matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {
            }
            result => return result,
        }
    }
    open(address, false)
}

/// Listens for the family of the address only: a wildcard leaves the other family to others.
pub(super) fn listen_on_one_family(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, true)
}

fn open(address: SocketAddr, only_its_family: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, only_its_family)?;
        socket
    };
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit this: a peer that vanished is noticed after a minute.
    socket2::SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn health(answer: Answer) -> Response {
    let code = StatusCode::from_u16(answer.code).expect("200 or 503");
    (code, typed(JSON, answer.body)).into_response()
}

pub(super) fn typed(content_type: &'static str, body: impl Into<String>) -> Response {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, body.into()).into_response()
}

pub(super) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, typed(TEXT, "404 page not found\n")).into_response()
}

#[cfg(test)]
mod tests;
