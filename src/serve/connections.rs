//! Connections: how many there may be, and how long each may keep us waiting.
//!
//! Anybody who reaches a port may open connections and say nothing, and a scraper may vanish without a word. Each
//! connection costs a descriptor and memory, in a process that may open as many files as the system has, and that is
//! the last to be killed for want of memory. So a connection is closed if no complete request comes on it, or if nobody
//! takes its answers. The number of connections is limited, in all and for each peer: a peer that has all it may have
//! shuts nobody out. Ports of which there may be hundreds share these limits, except that each of them takes one
//! connection of each peer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use crate::telemetry::Said;

/// How long to wait after the system could not give us a connection.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the head of a request may be, with room to spare for whatever gateways add. hyper's own limit is 400 kB,
/// which a peer that sends a head without an end would have us keep for each connection.
const HEAD_BYTES: usize = 16 << 10;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long the head of a request may take, from the first moment or the last answer on; how long the answer may
    /// take after that; and for how long the peer may take nothing of what it is sent.
    pub(super) patience: Duration,
    /// How many connections are served at a time. Others wait until one of them is closed.
    pub(super) connections: usize,
    /// How many of them one address may have. Any more are closed at once, except for the first at each port.
    pub(super) connections_of_one_peer: usize,
}

impl Limits {
    /// The limits of all servers.
    ///
    /// The patience is longer than what load balancers and most scrapers wait between two requests on one connection,
    /// and not a period that they like to use: a request that is sent just when the connection is closed has to be sent
    /// again. All connections within these limits need some twenty MB at most.
    ///
    /// A load balancer has a few connections for each of its own machines, and all that comes through a gateway has one
    /// address.
    pub(super) const DEFAULT: Self =
        Self { patience: Duration::from_secs(25), connections: 1024, connections_of_one_peer: 128 };
}

/// How many connections each address has.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    fn connections_of(&self, address: IpAddr) -> usize {
        self.lock().get(&address).copied().unwrap_or(0)
    }

    /// Counts one more connection of this address.
    fn count(&self, address: IpAddr) -> Counted {
        *self.lock().entry(address).or_default() += 1;
        Counted { peers: self.clone(), address }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted until this is dropped.
struct Counted {
    peers: Peers,
    address: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The open connections of one port, or of several together.
#[derive(Clone)]
pub(super) struct Connections {
    limits: Limits,
    free: Arc<Semaphore>,
    peers: Peers,
}

impl Connections {
    /// None yet.
    pub(super) fn within(limits: Limits) -> Self {
        Self { limits, free: Arc::new(Semaphore::new(limits.connections)), peers: Peers::default() }
    }
}

/// Serves without end. Once dropped, it accepts no more connections; those that are open go on.
pub(super) async fn serve(listener: TcpListener, router: Router, connections: Connections) -> io::Result<()> {
    let Connections { limits, free, peers } = connections;
    // Counts the connections of this port only.
    let here = Peers::default();
    let mut said = Said::default();
    loop {
        let (stream, peer) = accept(|| listener.accept(), &mut said).await;
        // A load balancer may ask all ports at once, each for another Service.
        if peers.connections_of(peer) >= limits.connections_of_one_peer && here.connections_of(peer) > 0 {
            continue;
        }
        let counted = [&peers, &here].map(|peers| peers.count(peer));
        // Only once there is a connection: otherwise as many ports as there may be connections would each take a permit
        // to wait, and no other port would get any.
        let permit = Arc::clone(&free).acquire_owned().await.map_err(io::Error::other)?;
        let router = router.clone();
        tokio::spawn(async move {
            converse(stream, router, limits.patience).await;
            drop((counted, permit));
        });
    }
}

/// The next connection, and its peer. Why there is none is logged once an hour, even where a connection comes now and
/// then, as where the system has too few for all.
async fn accept<S, F>(mut next: impl FnMut() -> F, said: &mut Said) -> (S, IpAddr)
where
    F: Future<Output = io::Result<(S, SocketAddr)>>,
{
    loop {
        match next().await {
            Ok((stream, peer)) => return (stream, peer.ip().to_canonical()),
            // The connection was gone before we looked.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                let error = error.to_string();
                if said.is_news(&error, Instant::now().into_std()) {
                    tracing::error!(err = error, "Cannot accept connections, trying again each second");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers requests on a connection until one side ends it.
async fn converse(stream: TcpStream, router: Router, patience: Duration) {
    // The kernel keeps this limit (since 5.11 also where the peer says all the time that it has no room): nothing here
    // sees what was taken. Where the kernel does not know the option, the connection is as good as before.
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(patience));
    let answer = service_fn(move |request| {
        // The answer may have to wait for the rest of the request.
        let answer = timeout(patience, router.clone().oneshot(request));
        async { answer.await.map(|answer| answer.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    // An error means that the other side is wrong, or gone.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use axum::body::Bytes;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::http::listen_on_one_family;
    use super::*;
    use crate::telemetry;

    const SOON: Duration = Duration::from_millis(200);

    /// A server that says how long the body of a request is.
    fn start(limits: Limits) -> SocketAddr {
        start_one_of(&Connections::within(limits))
    }

    /// Starts one of several servers that share their connections.
    fn start_one_of(connections: &Connections) -> SocketAddr {
        let listener = listen_on_one_family("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(any(async |body: Bytes| body.len().to_string()));
        tokio::spawn(serve(listener, router, connections.clone()));
        address
    }

    /// Sends `said`, and returns all that comes until the server closes the connection, and how long that took.
    async fn told(address: SocketAddr, said: &str) -> (String, Duration) {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .expect("it is closed")
            .unwrap();
        (String::from_utf8(answer).unwrap(), begun.elapsed())
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn a_head_without_an_end_is_not_kept() {
        let address = start(Limits::DEFAULT);
        let head = |bytes| format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(bytes));
        let (answer, after) = told(address, &head(HEAD_BYTES)).await;
        assert!(answer.starts_with("HTTP/1.1 431 ") && after < Limits::DEFAULT.patience / 2, "{answer:?}");
        // Cookies of a gateway, say.
        let large = head(HEAD_BYTES * 3 / 4) + "\r\nConnection: close\r\n\r\n";
        let (answer, _) = told(address, &large).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }

    #[tokio::test]
    async fn who_says_nothing_more_is_left() {
        let address = start(Limits { patience: SOON, ..Limits::DEFAULT });
        for (said, answers) in [
            ("", 0),
            ("GET / HTTP/1.1\r\nHos", 0),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc", 0),
            (REQUEST, 1),
            (&[REQUEST, REQUEST].concat(), 2),
        ] {
            let (answer, took) = told(address, said).await;
            assert!(took >= SOON, "{said:?}: {took:?}");
            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), answers, "{said:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn who_goes_on_is_not() {
        let patience = Duration::from_secs(1);
        let address = start(Limits { patience, ..Limits::DEFAULT });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        while begun.elapsed() < patience * 2 {
            stream.write_all(REQUEST.as_bytes()).await.unwrap();
            let mut bytes = [0; 1024];
            let length = stream.read(&mut bytes).await.unwrap();
            assert!(bytes[..length].starts_with(b"HTTP/1.1 200 OK"), "after {:?}", begun.elapsed());
            tokio::time::sleep(SOON).await;
        }
    }

    #[tokio::test]
    async fn those_who_are_too_many_wait() {
        let patience = Duration::from_secs(10);
        let address = start(Limits { patience, connections: 2, ..Limits::DEFAULT });
        let first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        // A moment for both to be accepted.
        tokio::time::sleep(SOON).await;
        let third = tokio::spawn(async move {
            told(address, &REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await
        });
        tokio::time::sleep(SOON).await;
        assert!(!third.is_finished());
        drop(first);
        let (answer, took) = third.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(took < patience, "{took:?}");
    }

    #[tokio::test]
    async fn who_takes_no_answers_is_left() {
        let patience = Duration::from_secs(1);
        let address = start(Limits { patience, connections: 1, ..Limits::DEFAULT });
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Until there is no room for answers any more, nor for requests.
        let requests = REQUEST.repeat(1000);
        let filled = async {
            while timeout(SOON, stream.write_all(requests.as_bytes())).await.is_ok_and(|sent| sent.is_ok()) {}
        };
        timeout(Duration::from_secs(20), filled).await.expect("the server stops to read");
        // The server has room for one connection.
        let (answer, _) =
            timeout(Duration::from_secs(20), told(address, REQUEST)).await.expect("the first one is closed");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        drop(stream);
    }

    #[tokio::test]
    async fn a_peer_that_has_all_it_may_have_shuts_nobody_out() {
        let patience = Duration::from_secs(10);
        let address = start(Limits { patience, connections: 8, connections_of_one_peer: 2 });
        let first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(SOON).await;
        let request = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(third.read(&mut [0; 1]).await.unwrap(), 0, "closed");
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(address).await.unwrap();
        other.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        drop(first);
        tokio::time::sleep(SOON).await;
        assert!(told(address, &request).await.0.starts_with("HTTP/1.1 200 OK"), "there is room again");
    }

    #[tokio::test]
    async fn a_peer_that_has_all_it_may_have_is_answered_at_each_port() {
        let limits =
            Limits { patience: Duration::from_secs(10), connections_of_one_peer: 2, ..Limits::DEFAULT };
        let connections = Connections::within(limits);
        let ports = [(); 4].map(|()| start_one_of(&connections));
        let mut all = Vec::new();
        for port in ports {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(REQUEST.as_bytes()).await.unwrap();
            let mut bytes = [0; 1024];
            let length = stream.read(&mut bytes).await.unwrap();
            assert!(bytes[..length].starts_with(b"HTTP/1.1 200 OK"), "{}", all.len());
            all.push(stream);
        }
        for port in ports {
            let mut second = TcpStream::connect(port).await.unwrap();
            assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "closed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn why_there_are_no_connections_is_said_once() {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        let (log, _listening) = telemetry::tests::listen();
        let mut said = Said::default();
        let peer = "192.0.2.1:1".parse().unwrap();
        // Between two refusals a connection succeeds: somebody else has closed one.
        for (refused, after, lines) in [
            ([EMFILE; 3].as_slice(), Duration::ZERO, 1),
            (&[EMFILE], Duration::ZERO, 1),
            (&[ENFILE], Duration::ZERO, 2),
            (&[], Said::AGAIN, 2),
            (&[ENFILE, ENFILE], Duration::ZERO, 3),
        ] {
            tokio::time::sleep(after).await;
            let refused = refused.iter().map(|errno| Err(io::Error::from_raw_os_error(*errno)));
            let mut answers: VecDeque<_> = refused.chain([Ok(((), peer))]).collect();
            accept(|| std::future::ready(answers.pop_front().unwrap()), &mut said).await;
            assert_eq!(log.lines_with("Cannot accept").len(), lines, "{:?}", log.lines());
        }
    }

    #[tokio::test]
    async fn who_is_gone_without_a_word_is_noticed() {
        let listener = listen_on_one_family("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = accept(|| listener.accept(), &mut Said::default()).await;
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    }
}
