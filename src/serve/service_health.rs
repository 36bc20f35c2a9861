//! The health check ports of Services (contract 8.4): where load balancers ask whether this node has endpoints of a
//! Service with `externalTrafficPolicy: Local`.
//!
//! There is one server for each Service, family and address, opened and closed as [`News`] come; a port that is wanted
//! as before is left alone, whatever else changes. Each family has its own socket, as in kube-proxy since 1.36.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connections::{self, Connections, Limits};
use super::http::{JSON, listen_on_one_family, typed};
use super::{Moment, Status, healthz};
use crate::cluster::types::{Family, ServiceKey, Uid};
use crate::vlog;

/// How long to wait after listening on a port failed.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is wanted of one family of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// How many ready addresses are on this node.
    pub local_endpoints: usize,
    /// The UID of the Service, which tells it from earlier ones of that name.
    pub uid: Option<Uid>,
}

/// Where the ports of one family listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// On all addresses that the node has or will get.
    All,
    /// On these.
    These(BTreeSet<IpAddr>),
}

/// A change to what the servers are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A Service: what is wanted of each of its families; empty, if it has no health check port (any more).
    Service(ServiceKey, BTreeMap<Family, Wanted>),
    /// The addresses of a family. Until this comes: all.
    Addresses(Family, Addresses),
}

/// What the servers answer besides their counts.
#[derive(Clone)]
pub struct Health {
    /// How the node does.
    pub status: watch::Receiver<Status>,
    /// Half of the time after which an unwritten change makes the node unhealthy.
    pub sync_period: Duration,
}

/// A port that cannot be listened on. It is tried again every 5 seconds, and reported when the reason is new.
#[derive(Debug)]
pub struct Failed<'a> {
    /// The Service.
    pub service: &'a ServiceKey,
    /// Its UID, which tells it from earlier Services of that name.
    pub uid: Option<Uid>,
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub error: &'a io::Error,
}

/// Serves what is wanted, until `shutdown` or the end of the news. News come in lists of those that arrived together:
/// within one list, a port may pass from one Service to another.
pub async fn run(
    mut news: mpsc::UnboundedReceiver<Vec<News>>,
    health: Health,
    mut failed: impl FnMut(&Failed<'_>),
    shutdown: CancellationToken,
) {
    let mut servers = Servers {
        health,
        connections: Connections::within(Limits::DEFAULT),
        addresses: BTreeMap::new(),
        ports: BTreeMap::new(),
        failing: BTreeSet::new(),
    };
    let mut retry: Option<Instant> = None;
    loop {
        if servers.failing.is_empty() {
            retry = None;
        } else {
            retry.get_or_insert_with(|| Instant::now() + RETRY);
        }
        // All arms are cancel-safe.
        let change = tokio::select! {
            change = news.recv() => match change {
                Some(change) => Some(change),
                None => return,
            },
            () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => None,
            () = shutdown.cancelled() => return,
        };
        let keys = if let Some(together) = change {
            servers.hear(together).await
        } else {
            retry = None;
            std::mem::take(&mut servers.failing)
        };
        servers.look_again(&keys, &mut failed).await;
    }
}

type Key = (ServiceKey, Family);

struct Servers {
    health: Health,
    /// Those of all ports together: a cluster may have hundreds.
    connections: Connections,
    addresses: BTreeMap<Family, Addresses>,
    ports: BTreeMap<Key, Port>,
    /// The ports that have failures.
    failing: BTreeSet<Key>,
}

impl Servers {
    /// Takes in what changed, and returns which ports to look at again.
    async fn hear(&mut self, together: Vec<News>) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for news in together {
            match news {
                News::Service(service, families) => {
                    for family in Family::ALL {
                        let key = (service.clone(), family);
                        self.want(&key, families.get(&family)).await;
                        keys.insert(key);
                    }
                }
                News::Addresses(family, addresses) => {
                    self.addresses.insert(family, addresses);
                    keys.extend(self.ports.keys().filter(|(_, of)| *of == family).cloned());
                }
            }
        }
        keys
    }

    /// Closes what is no longer wanted; what is wanted is opened by [`Servers::look_again`].
    async fn want(&mut self, key: &Key, wanted: Option<&Wanted>) {
        let service = &key.0;
        let Some(wanted) = wanted else {
            if let Some(mut port) = self.ports.remove(key) {
                vlog!(2, %service, port = port.number, "Closing healthcheck");
                port.close(|_| true).await;
                self.failing.remove(key);
            }
            return;
        };
        let port = self.ports.entry(key.clone()).or_insert_with(|| {
            vlog!(2, %service, port = wanted.port, "Opening healthcheck");
            Port::new(wanted)
        });
        if port.uid != wanted.uid {
            // Nobody was told of the failures for this Service yet.
            port.failures.clear();
            port.uid = wanted.uid;
        }
        port.number = wanted.port;
        port.local_endpoints.store(wanted.local_endpoints, Ordering::Relaxed);
    }

    /// Closes and opens what is not as it should be: first closes whatever is to go, since another port may need the
    /// address.
    async fn look_again(&mut self, keys: &BTreeSet<Key>, failed: &mut impl FnMut(&Failed<'_>)) {
        for key in keys {
            let Some(port) = self.ports.get_mut(key) else { continue };
            let sockets = sockets(&self.addresses, key.1, port.number);
            port.close(|socket| !sockets.contains(socket)).await;
        }
        for key in keys {
            let Some(port) = self.ports.get_mut(key) else { continue };
            let sockets = sockets(&self.addresses, key.1, port.number);
            port.open(&key.0, &sockets, &self.health, &self.connections, failed);
            if port.failures.is_empty() {
                self.failing.remove(key);
            } else {
                self.failing.insert(key.clone());
            }
        }
    }
}

/// Where a port is listened on.
fn sockets(addresses: &BTreeMap<Family, Addresses>, family: Family, port: u16) -> BTreeSet<SocketAddr> {
    let addresses = match addresses.get(&family) {
        None | Some(Addresses::All) => [family.unspecified_address()].into(),
        Some(Addresses::These(addresses)) => addresses.clone(),
    };
    addresses.into_iter().map(|address: IpAddr| SocketAddr::new(address, port)).collect()
}

/// The servers of one family of a Service.
struct Port {
    number: u16,
    uid: Option<Uid>,
    local_endpoints: Arc<AtomicUsize>,
    open: BTreeMap<SocketAddr, JoinHandle<()>>,
    /// What could not be opened, and why.
    failures: BTreeMap<SocketAddr, String>,
}

impl Port {
    fn new(wanted: &Wanted) -> Self {
        Self {
            number: wanted.port,
            uid: wanted.uid,
            local_endpoints: Arc::default(),
            open: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Opens those of these sockets that are not open yet.
    fn open(
        &mut self,
        service: &ServiceKey,
        sockets: &BTreeSet<SocketAddr>,
        health: &Health,
        connections: &Connections,
        failed: &mut impl FnMut(&Failed<'_>),
    ) {
        self.failures.retain(|socket, _| sockets.contains(socket));
        for &address in sockets {
            if self.open.contains_key(&address) {
                continue;
            }
            match listen_on_one_family(address) {
                Ok(listener) => {
                    self.failures.remove(&address);
                    let router = router(service.clone(), Arc::clone(&self.local_endpoints), health.clone());
                    let connections = connections.clone();
                    let server = async {
                        // Never ends by itself.
                        let _ = connections::serve(listener, router, connections).await;
                    };
                    self.open.insert(address, tokio::spawn(server));
                }
                Err(error) => {
                    if self.failures.insert(address, error.to_string()) != Some(error.to_string()) {
                        tracing::error!(
                            %service, port = address.port(), %address, err = %error, "Failed to start healthcheck"
                        );
                        failed(&Failed { service, uid: self.uid, address, error: &error });
                    }
                }
            }
        }
    }

    /// Closes the sockets for which `goes` holds; when this returns, others can have them.
    async fn close(&mut self, goes: impl Fn(&SocketAddr) -> bool) {
        let gone: Vec<_> = self.open.extract_if(.., |socket, _| goes(socket)).collect();
        for (_, server) in gone {
            server.abort();
            // An error says that it was aborted.
            let _ = server.await;
        }
    }
}

impl Drop for Port {
    /// Ends the servers: tasks do not end with their handles.
    fn drop(&mut self) {
        self.open.values().for_each(JoinHandle::abort);
    }
}

/// Answers any path and any method.
fn router(service: ServiceKey, local_endpoints: Arc<AtomicUsize>, health: Health) -> Router {
    Router::new().fallback(async move || {
        let healthy = healthz::forwards(&health.status.borrow(), Moment::now(), health.sync_period);
        answer(&service, local_endpoints.load(Ordering::Relaxed), healthy)
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn answer(service: &ServiceKey, local_endpoints: usize, healthy: bool) -> Response {
    let name = Name { namespace: service.namespace(), name: service.name() };
    let body = Body { service: name, local_endpoints, service_proxy_healthy: healthy };
    let mut text = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    body.serialize(&mut serializer).expect("texts, a number and a truth value");
    let mut response = typed(JSON, String::from_utf8(text).expect("JSON is UTF-8"));
    if local_endpoints == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(WEIGHT, local_endpoints.into());
    // A connection must not outlive the server that it was made to.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
