//! What carries requests: the address, credentials and TLS of kube's client, over connections that are made here.
//!
//! kube's own stack has one time limit for a whole connection. The addresses of a name are tried one after the other:
//! one that drops packets would use up the limit, and none of those after it would be tried. Here each has a share.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ConfigExt as _};
use tower::{BoxError, Service, ServiceBuilder};

/// How long a connection may be silent before the other end is probed (TCP keepalive). A watch only receives: when its
/// server's machine dies, nothing is sent that could be refused. (client-go probes after 30 s, and waits for 15.)
const IDLE: Duration = Duration::from_secs(15);
/// How long an answer to a probe may take before the next one is sent.
const ANSWER: Duration = Duration::from_secs(5);
/// How many probes are sent before the connection is given up.
const QUESTIONS: u32 = 3;

/// A service that sends requests to the server, and as the user, of these settings.
///
/// # Errors
/// If the settings for TLS, or those of the user, cannot be used.
pub(super) fn service(
    config: &Config,
) -> Result<
    impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send> + use<>,
    kube::Error,
> {
    resolved_by(GaiResolver::new(), config)
}

fn resolved_by<R>(
    resolver: R,
    config: &Config,
) -> Result<
    impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send> + use<R>,
    kube::Error,
>
where
    R: Service<Name, Response: Iterator<Item = SocketAddr>, Error: Into<BoxError>, Future: Send>,
    R: Clone + Send + Sync + 'static,
{
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    // This limit is divided among the addresses of a name.
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_keepalive(Some(IDLE));
    tcp.set_keepalive_interval(Some(ANSWER));
    tcp.set_keepalive_retries(Some(QUESTIONS));
    let mut limited = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    // This limit is for everything, including name resolution and TLS.
    limited.set_connect_timeout(config.connect_timeout);
    limited.set_read_timeout(config.read_timeout);
    limited.set_write_timeout(config.write_timeout);
    let connections = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(limited);
    Ok(ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::StatusCode;
    use socket2::{Domain, Socket, Type};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// The time limit for a connection.
    const LIMIT: Duration = Duration::from_millis(500);

    fn settings(server: &str) -> Config {
        let mut config = Config::new(server.parse().unwrap());
        config.connect_timeout = Some(LIMIT);
        config.accept_invalid_certs = true;
        config.root_cert = Some(Vec::new());
        config
    }

    fn get() -> Request<Body> {
        Request::get("/version").body(Body::empty()).unwrap()
    }

    /// An address where nobody answers, since a listener whose queue is full drops new connections; and the sockets
    /// that fill it.
    fn silent() -> (SocketAddr, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let connecting = (0..3).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // "In progress"
            socket.connect(&address).unwrap_err();
            socket
        });
        let mut sockets: Vec<Socket> = connecting.collect();
        sockets.push(listener);
        (address.as_socket().unwrap(), sockets)
    }

    #[tokio::test]
    async fn a_name_is_reached_by_its_second_address() {
        let (silent, _full) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let length = connection.read(&mut buffer).await.unwrap();
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&buffer[..length]).lines().next().map(str::to_owned)
        });
        let resolver =
            service_fn(move |_: Name| std::future::ready(Ok::<_, Infallible>([silent, good].into_iter())));
        let answer = resolved_by(resolver, &settings("http://name.test")).unwrap().oneshot(get()).await;
        assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!(server.await.unwrap().as_deref(), Some("GET /version HTTP/1.1"));
    }

    /// The seconds left on the kernel's keepalive timer of a connection to this address.
    fn keepalive(server: SocketAddr) -> Option<f64> {
        let connections = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let port = format!(":{:04X}", server.port());
        let fields = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = fields.filter(|fields| fields[2].ends_with(&port)).find_map(|fields| {
            let (kind, jiffies) = fields[5].split_once(':')?;
            (kind == "02").then(|| u64::from_str_radix(jiffies, 16).unwrap())
        })?;
        Some(Duration::from_millis(ours * 10).as_secs_f64())
    }

    #[tokio::test]
    async fn a_silent_connection_is_asked_whether_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let watch = service(&settings(&format!("http://{server}"))).unwrap().oneshot(get());
        let watch = tokio::spawn(watch);
        let (mut connection, _) = listener.accept().await.unwrap();
        assert_ne!(connection.read(&mut [0; 1024]).await.unwrap(), 0, "the request");
        let soon = async {
            // Until the request is acknowledged, the connection's timer is that of the request.
            loop {
                match keepalive(server) {
                    Some(left) => return left,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let left = timeout(IDLE, soon).await.expect("there is such a timer");
        assert!(left <= IDLE.as_secs_f64(), "{left}");
        watch.abort();
    }

    #[tokio::test]
    async fn tls_that_nobody_answers_has_a_limit_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let answer = service(&settings(&server)).unwrap().oneshot(get());
        let error = timeout(LIMIT * 10, answer).await.unwrap().unwrap_err();
        assert!(anyhow::Error::from_boxed(error).to_string().contains("Connect"));
    }
}
