use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

const PERIOD: Duration = Duration::from_secs(30);

/// Running servers, and what was reported about ports that could not be opened.
struct Running {
    news: mpsc::UnboundedSender<Vec<News>>,
    publish: watch::Sender<Status>,
    failed: Arc<Mutex<Vec<String>>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        let (news, receiver) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(Status { synced_once: true, ..Status::default() });
        let failed: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&failed);
        let shutdown = CancellationToken::new();
        let hear = move |failed: &Failed<'_>| {
            told.lock().unwrap().push(format!(
                "{} {:?} {}: {}",
                failed.service,
                failed.uid,
                failed.address,
                failed.error.kind()
            ));
        };
        let health = Health { status, sync_period: PERIOD };
        let task = tokio::spawn(run(receiver, health, hear, shutdown.clone()));
        Self { news, publish, failed, shutdown, task }
    }

    fn want(&self, name: &str, families: &[(Family, u16, usize)]) {
        self.news.send(vec![service(name, families)]).unwrap();
    }

    fn listen_on(&self, family: Family, addresses: Addresses) {
        self.news.send(vec![News::Addresses(family, addresses)]).unwrap();
    }
}

fn service(name: &str, families: &[(Family, u16, usize)]) -> News {
    let wanted = |&(family, port, local_endpoints)| (family, Wanted { port, local_endpoints, uid: None });
    News::Service(ServiceKey::new("default", name), families.iter().map(wanted).collect())
}

fn these(addresses: &[&str]) -> Addresses {
    Addresses::These(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

/// A port that is free on all addresses of both families.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

/// The whole answer; `None`: nobody listens.
async fn ask(address: &str, port: u16) -> Option<String> {
    let address: IpAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    stream.write_all(b"POST /any/path HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Some(answer)
}

/// Waits until the answer begins with `begins`; empty: until nobody listens.
async fn until(address: &str, port: u16, begins: &str) -> String {
    for _ in 0..1000 {
        let answer = ask(address, port).await.unwrap_or_default();
        if if begins.is_empty() { answer.is_empty() } else { answer.starts_with(begins) } {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{address}:{port} does not answer {begins:?}");
}

#[tokio::test]
async fn answers_say_how_many_endpoints_there_are_and_whether_the_node_forwards() {
    let running = Running::start();
    let port = free_port();
    running.want("web", &[(Family::V4, port, 2), (Family::V6, port, 0)]);
    let answer = until("127.0.0.1", port, "HTTP/1.1 200 OK").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(head.lines().any(|line| line == header), "{header}\n{head}");
    }
    assert_eq!(
        body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
         \"serviceProxyHealthy\": true\n}"
    );
    let answer = until("::1", port, "HTTP/1.1 503 ").await;
    assert!(answer.contains("x-load-balancing-endpoint-weight: 0\r\n"), "{answer}");

    running.want("web", &[(Family::V4, port, 0), (Family::V6, port, 1)]);
    until("127.0.0.1", port, "HTTP/1.1 503 ").await;
    until("::1", port, "HTTP/1.1 200 ").await;
    running.publish.send_modify(|status| status.synced_once = false);
    let answer = until("::1", port, "HTTP/1.1 503 ").await;
    assert!(answer.contains("\"serviceProxyHealthy\": false"), "{answer}");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 1\r\n"), "{answer}");
    running.publish.send_modify(|status| status.synced_once = true);
    until("::1", port, "HTTP/1.1 200 ").await;
    running.publish.send_modify(|status| status.ineligible = Some("the node is being deleted"));
    until("::1", port, "HTTP/1.1 200 ").await;
}

#[tokio::test]
async fn ports_follow_their_services() {
    let running = Running::start();
    let (first, second) = (free_port(), free_port());
    running.want("a", &[(Family::V4, first, 1)]);
    until("127.0.0.1", first, "HTTP/1.1 200 ").await;
    assert_eq!(ask("::1", first).await, None, "that family does not have it");
    running.want("a", &[(Family::V4, second, 1)]);
    until("127.0.0.1", second, "HTTP/1.1 200 ").await;
    assert_eq!(ask("127.0.0.1", first).await, None);
    // Another Service takes over the port of one that goes, at once.
    running.want("a", &[]);
    running.want("b", &[(Family::V4, second, 1)]);
    let answer = until("127.0.0.1", second, "HTTP/1.1 200 ").await;
    assert!(answer.contains("\"name\": \"b\""), "{answer}");
    running.want("b", &[]);
    until("127.0.0.1", second, "").await;
    assert!(running.failed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_port_passes_from_one_service_to_another_whatever_the_order_of_the_news() {
    let running = Running::start();
    let (first, second) = (free_port(), free_port());
    running.want("b", &[(Family::V4, first, 1)]);
    until("127.0.0.1", first, "HTTP/1.1 200 ").await;
    running.news.send(vec![service("a", &[(Family::V4, first, 1)]), service("b", &[])]).unwrap();
    let answer = until("127.0.0.1", first, "HTTP/1.1 200 ").await;
    assert!(answer.contains("\"name\": \"a\""), "{answer}");
    // Two change places.
    running.want("b", &[(Family::V4, second, 1)]);
    until("127.0.0.1", second, "HTTP/1.1 200 ").await;
    let swapped = [("a", second), ("b", first)];
    running.news.send(swapped.map(|(name, port)| service(name, &[(Family::V4, port, 1)])).into()).unwrap();
    let of_b = async {
        while ask("127.0.0.1", first).await.is_none_or(|answer| !answer.contains("\"name\": \"b\"")) {}
    };
    tokio::time::timeout(RETRY, of_b).await.expect("it passes without another try");
    let answer = until("127.0.0.1", second, "HTTP/1.1 200 ").await;
    assert!(answer.contains("\"name\": \"a\""), "{answer}");
    assert!(running.failed.lock().unwrap().is_empty(), "{:?}", running.failed);
}

#[tokio::test]
async fn ports_follow_the_addresses() {
    let running = Running::start();
    let port = free_port();
    running.listen_on(Family::V4, these(&["127.0.0.2"]));
    running.want("a", &[(Family::V4, port, 1)]);
    until("127.0.0.2", port, "HTTP/1.1 200 ").await;
    assert_eq!(ask("127.0.0.3", port).await, None);
    running.listen_on(Family::V4, these(&["127.0.0.2", "127.0.0.3"]));
    until("127.0.0.3", port, "HTTP/1.1 200 ").await;
    running.listen_on(Family::V4, these(&["127.0.0.3"]));
    until("127.0.0.2", port, "").await;
    until("127.0.0.3", port, "HTTP/1.1 200 ").await;
    running.listen_on(Family::V4, Addresses::All);
    until("127.0.0.4", port, "HTTP/1.1 200 ").await;
    assert!(running.failed.lock().unwrap().is_empty(), "{:?}", running.failed);
}

#[tokio::test]
async fn a_port_in_use_is_told_of_once_and_tried_again() {
    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = holder.local_addr().unwrap().port();
    let running = Running::start();
    running.want("a", &[(Family::V4, port, 1)]);
    running.want("a", &[(Family::V4, port, 2)]);
    let expected = [format!("default/a None 0.0.0.0:{port}: address in use")];
    while *running.failed.lock().unwrap() != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The clock stands still from here on, and jumps when all sleep.
    tokio::time::pause();
    tokio::time::sleep(RETRY * 3).await;
    assert_eq!(*running.failed.lock().unwrap(), expected, "the same thing is not told twice");
    drop(holder);
    tokio::time::sleep(RETRY * 2).await;
    tokio::time::resume();
    until("127.0.0.1", port, "HTTP/1.1 200 ").await;
}

/// A Service with another UID is a new one: a failure of its port is reported although that of the earlier Service was.
/// The same failure of the same Service is not reported again.
#[tokio::test]
async fn of_a_port_in_use_each_service_of_its_name_is_told() {
    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = holder.local_addr().unwrap().port();
    let running = Running::start();
    let uids = ["0c5a7bde-f012-4034-8967-89abcdef0100", "0c5a7bde-f012-4034-8967-89abcdef0101"];
    for text in uids {
        let wanted = Wanted { port, local_endpoints: 1, uid: Uid::parse(text) };
        let news = News::Service(ServiceKey::new("default", "a"), [(Family::V4, wanted)].into());
        running.news.send(vec![news.clone()]).unwrap();
        running.news.send(vec![news]).unwrap();
    }
    let expected = uids.map(|uid| format!("default/a Some({uid}) 0.0.0.0:{port}: address in use"));
    while *running.failed.lock().unwrap() != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Each connection is memory, and a cluster may have hundreds of such ports.
#[tokio::test]
async fn one_peer_has_as_many_connections_to_all_ports_as_to_one() {
    let running = Running::start();
    let ports = [free_port(), free_port()];
    running.want("a", &[(Family::V4, ports[0], 1)]);
    running.want("b", &[(Family::V4, ports[1], 1)]);
    for port in ports {
        until("127.0.0.1", port, "HTTP/1.1 200 ").await;
    }
    let mut silent = Vec::new();
    for place in 0..Limits::DEFAULT.connections_of_one_peer {
        silent.push(TcpStream::connect((Ipv4Addr::LOCALHOST, ports[place % 2])).await.unwrap());
    }
    // A moment for all to be accepted.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for port in ports {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let closed = tokio::time::timeout(Limits::DEFAULT.patience / 5, stream.read(&mut [0; 1])).await;
        assert_eq!(closed.expect("at once").unwrap(), 0);
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(silent);
    until("127.0.0.1", ports[0], "HTTP/1.1 200 ").await;
}

#[tokio::test]
async fn nothing_listens_after_the_shutdown() {
    let running = Running::start();
    let port = free_port();
    running.want("a", &[(Family::V4, port, 1)]);
    until("127.0.0.1", port, "HTTP/1.1 200 ").await;
    running.shutdown.cancel();
    running.task.await.unwrap();
    until("127.0.0.1", port, "").await;
}
