use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::cluster::types::Family;
use crate::serve::FamilyStatus;

const PERIOD: Duration = Duration::from_secs(30);

/// A free loopback address, for a server that takes its port by number.
fn free_address() -> SocketAddr {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap()
}

fn start(
    address: SocketAddr,
    router: Router,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<io::Result<()>> {
    let server = Server { name: "test", address, hard_fail: false };
    tokio::spawn(server.run(router, shutdown.clone()))
}

/// The whole answer, as it comes over the socket; waits for the server to come up.
async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{address}: {error}"),
        }
    };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// Status line, header lines (lower case), body.
fn parts(answer: &str) -> (&str, Vec<String>, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap();
    (status, lines.map(str::to_ascii_lowercase).collect(), body)
}

#[tokio::test]
async fn health_follows_the_status() {
    let address = free_address();
    let (publish, status) = watch::channel(Status { synced_once: true, ..Status::default() });
    let metrics = Arc::new(Metrics::new(&[], &[]));
    let shutdown = CancellationToken::new();
    let router = healthz_router(status, PERIOD, Arc::clone(&metrics));
    let server = start(address, router, &shutdown);

    for (path, status) in [
        ("/healthz", "200 OK"),
        ("/livez", "200 OK"),
        ("/", "404 Not Found"),
        ("/healthz/", "404 Not Found"),
        ("/metrics", "404 Not Found"),
    ] {
        let answer = ask(address, "GET", path).await;
        assert_eq!(parts(&answer).0, format!("HTTP/1.1 {status}"), "{path}");
    }
    let answer = ask(address, "POST", "/healthz").await;
    let (status, headers, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 200 OK");
    for header in ["content-type: application/json", "x-content-type-options: nosniff"] {
        assert!(headers.iter().any(|line| line == header), "{headers:?}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &true.into()));

    publish.send_modify(|status| status.ineligible = Some("the node is being deleted"));
    assert!(ask(address, "GET", "/healthz").await.starts_with("HTTP/1.1 503 "));
    assert!(ask(address, "GET", "/livez").await.starts_with("HTTP/1.1 200 "));

    publish.send_modify(|status| {
        let now = Moment::now();
        let since = Moment { instant: now.instant.checked_sub(PERIOD * 2).unwrap(), ..now };
        let family = FamilyStatus { unsynced_since: Some(since), ..FamilyStatus::default() };
        status.families.insert(Family::V6, family);
    });
    assert!(ask(address, "GET", "/livez").await.starts_with("HTTP/1.1 503 "));

    let page = metrics.text();
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 2",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 2",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}");
    }

    shutdown.cancel();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_ipv4_wildcard_is_both_families() {
    let listener = listen(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    // A host without IPv6 has only the one above.
    if listener.local_addr().unwrap().is_ipv6() {
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
    } else {
        let error = TcpSocket::new_v6().and_then(|socket| socket.bind((Ipv6Addr::LOCALHOST, 0).into()));
        assert!(error.is_err(), "there is IPv6, but it is not listened on");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_is_tried_again() {
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let router = Router::new().route("/proxyMode", any(async || "ipvs"));
    let server = start(address, router, &shutdown);
    // Time stands still, and jumps when all sleep: this is after the first try and before the second.
    tokio::time::sleep(RETRY / 2).await;
    drop(holder);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens yet");
    assert!(ask(address, "GET", "/proxyMode").await.ends_with("ipvs"));
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_is_told_once() {
    let (log, _listening) = crate::telemetry::tests::listen();
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = start(address, Router::new(), &shutdown);
    tokio::time::sleep(RETRY * 5 / 2).await;
    assert_eq!(log.lines_with("Failed to listen").len(), 1);
    drop(holder);
    tokio::time::sleep(RETRY).await;
    assert_eq!(log.lines_with("Serving").len(), 1, "that it is over is told too");
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_where_the_user_wants_that() {
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = Server { name: "test", address: holder.local_addr().unwrap(), hard_fail: true };
    let error = server.run(Router::new(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
