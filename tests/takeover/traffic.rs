//! Clients that never stop sending requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};

use crate::cluster::{Cluster, Service};
use crate::talk::{self, Conversation};

/// The clients and their families. Nodes and clients outside use IPv4 only: over IPv6, kube-proxy's ipvs mode itself
/// masquerades with service addresses, so no connection could go on.
const CLIENTS: [(&str, Family); 7] = [
    ("pod-1b", Family::V4),
    ("pod-1b", Family::V6),
    ("pod-2b", Family::V4),
    ("node-1", Family::V4),
    ("node-2", Family::V4),
    ("outside-1", Family::V4),
    ("outside-2", Family::V4),
];

/// Traffic that goes on until it is ended.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<[AtomicU32; CLIENTS.len()]>,
    clients: Vec<Receiver<Result<(), String>>>,
}

impl Traffic {
    /// Every client opens a connection and keeps using it; meanwhile it sends requests over new ones, TCP and UDP.
    pub(crate) fn start(cluster: &Cluster, service: &Service) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds: Arc<[AtomicU32; CLIENTS.len()]> = Arc::default();
        let clients = CLIENTS.iter().enumerate().map(|(index, &(client, family))| {
            let target = SocketAddr::new(service.address(family), 80);
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            cluster.host(client).start(move || {
                let who = |what: &str, error: std::io::Error| format!("{client} ({family}): {what}: {error}");
                let old = Conversation::open(Protocol::Tcp, None, target).map_err(|e| who("connect", e))?;
                let (server, _) = old.ask().map_err(|error| who("first answer", error))?;
                while !stop.load(Ordering::Relaxed) {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        talk::ask(protocol, None, target).map_err(|e| who(&format!("new {protocol}"), e))?;
                    }
                    let again = old.ask().map_err(|error| who("the old connection", error))?;
                    if again.0 != server {
                        return Err(format!("{client}: the old connection moved to {}", again.0));
                    }
                    rounds[index].fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(30));
                }
                Ok(())
            })
        });
        let clients = clients.collect();
        let traffic = Self { stop, rounds, clients };
        traffic.go_on();
        traffic
    }

    /// Lets every client send some more requests.
    pub(crate) fn go_on(&self) {
        let before: Vec<u32> = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
        let end = Instant::now() + Duration::from_secs(20);
        let all = |rounds: &[AtomicU32]| {
            rounds.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) >= before + 5)
        };
        while !all(&*self.rounds) && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        if !all(&*self.rounds) {
            let failures: Vec<_> = self.clients.iter().filter_map(|client| client.try_recv().ok()).collect();
            panic!("somebody stopped asking: {failures:?}");
        }
    }

    /// Ends the traffic: every answer must have come.
    pub(crate) fn end(self) {
        self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.recv().expect("the client did not panic").unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}
