//! The hosts with a kube-ipvs on each node, all fed from one folder of manifests.

mod service;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};
use serde_json::Value;

use crate::host::Host;
use crate::proxy::Proxy;
use crate::talk::{self, Answer, Conversation};
use crate::topology;

pub(crate) use self::service::{Condition, Entry, Policy, Service};

/// How long a client waits for an answer: long enough for a second segment, a second after the first.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often a client that gets no answer tries.
const ATTEMPTS: usize = 3;

/// The hosts, and what runs on them.
pub(crate) struct Cluster {
    hosts: BTreeMap<&'static str, Host>,
    folder: tempfile::TempDir,
    next_number: AtomicU16,
}

impl Cluster {
    /// Creates the cluster, with these Services, and starts kube-ipvs on it with these additional arguments.
    pub(crate) fn start<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        arguments: &[&'static str],
    ) -> Self {
        let cluster = Self::without_proxies(services);
        cluster.start_proxies(arguments);
        cluster
    }

    /// Starts a kube-ipvs on each node, which runs as long as this process.
    pub(crate) fn start_proxies(&self, arguments: &[&'static str]) {
        let proxies = ["node-1", "node-2"].map(|node| self.start_proxy(node, arguments));
        for mut proxy in proxies {
            proxy.wait_synced();
            std::mem::forget(proxy);
        }
    }

    /// Creates the cluster, with these Services, and nothing that serves them yet.
    pub(crate) fn without_proxies<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let hosts = topology::build();
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("manifests")).expect("a folder");
        let cluster = Self { hosts, folder, next_number: AtomicU16::new(100) };
        for service in services {
            cluster.put(service);
        }
        cluster
    }

    /// The folder of the manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// Starts a kube-ipvs on a node.
    pub(crate) fn start_proxy(&self, node: &'static str, arguments: &[&'static str]) -> Proxy {
        let (folder, manifests) = (self.folder.path().to_owned(), self.manifests());
        let arguments = arguments.to_vec();
        self.hosts[node].run(move || {
            let manifests = manifests.to_string_lossy().into_owned();
            let mut all = vec!["--manifests", &manifests, "--hostname-override", node, "-v", "2"];
            all.extend(["--cluster-cidr", topology::POD_NETWORKS]);
            all.extend(arguments);
            Proxy::start(&folder, node, &all)
        })
    }

    /// A Service for one test, with addresses of its own.
    pub(crate) fn service(&self, endpoints: &[&'static str]) -> Service {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Service::exposed(&format!("service-{number}"), number, endpoints)
    }

    /// Writes or replaces a Service and its slices.
    pub(crate) fn put(&self, service: &Service) {
        self.put_object(&service.name, &service.manifest());
    }

    /// Writes or replaces any object, in a file of this name.
    pub(crate) fn put_object(&self, name: &str, object: &Value) {
        let temporary = self.folder.path().join(name);
        fs::write(&temporary, object.to_string()).expect("a manifest");
        let file = self.manifests().join(format!("{name}.json"));
        fs::rename(temporary, file).expect("a manifest");
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }

    /// A host asks over a new connection, and again if it gets no answer. IPVS identifies an answer by its endpoint and
    /// the client's address and port: where a client uses one port for two entries that lead to one endpoint, the wrong
    /// one of the two is translated. This happens to one or two of some thousand connections.
    pub(crate) fn ask(&self, client: &str, protocol: Protocol, target: SocketAddr) -> io::Result<Answer> {
        let source = source(protocol, client, target);
        let ask = move || Conversation::open_within(PATIENCE, protocol, source, target)?.ask();
        let mut answer = self.host(client).run(ask);
        for _ in 1..ATTEMPTS {
            if !answer.as_ref().is_err_and(talk::is_silence) {
                break;
            }
            answer = self.host(client).run(ask);
        }
        answer
    }
}

/// The address to which a client's socket must be bound. An unbound SCTP socket tells the server all addresses of its
/// host, and the server tries them in turn. No NAT translates those: the first one that it tries, past the service
/// address, ends the association; Kubernetes leaves multi-homed associations to their users for that reason. On a node,
/// the service addresses are among them, and a few dozen IPv6 addresses do not even fit into a packet.
pub(crate) fn source(protocol: Protocol, client: &str, target: SocketAddr) -> Option<IpAddr> {
    (protocol == Protocol::Sctp).then(|| topology::find(client).address(Family::of(target.ip())))
}
