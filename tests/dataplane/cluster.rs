//! The hosts with a kube-ipvs on each node, all fed from one folder of manifests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use kube_ipvs::cluster::types::{Family, Protocol};
use serde_json::{Value, json};

use crate::host::Host;
use crate::proxy::Proxy;
use crate::talk::{self, Answer};
use crate::topology::{self, PORT, find};

/// A Service of both families, with port 80 of each protocol.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// What its addresses end with.
    pub(crate) number: u8,
    /// Pods.
    pub(crate) endpoints: Vec<&'static str>,
    /// The condition of all endpoints.
    pub(crate) ready: bool,
    pub(crate) affinity: bool,
}

impl Service {
    pub(crate) fn new(name: &str, number: u8, endpoints: &[&'static str]) -> Self {
        Self { name: name.to_owned(), number, endpoints: endpoints.to_vec(), ready: true, affinity: false }
    }

    /// Its address.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        let text = match family {
            Family::V4 => format!("10.96.0.{}", self.number),
            Family::V6 => format!("fd00:10:96::{:x}", self.number),
        };
        text.parse().expect("an address")
    }

    fn manifest(&self) -> Value {
        let protocols = talk::PROTOCOLS.map(|protocol| protocol.to_string());
        let ports = |port: u16| -> Vec<_> {
            protocols
                .iter()
                .map(|protocol| json!({"name": protocol.to_lowercase(), "port": port, "protocol": protocol}))
                .collect()
        };
        let addresses = Family::ALL.map(|family| self.address(family).to_string());
        let mut items = vec![json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": self.name},
            "spec": {
                "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack", "ports": ports(80),
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
            },
        })];
        for family in Family::ALL {
            let endpoints: Vec<_> = self
                .endpoints
                .iter()
                .map(|pod| {
                    let pod = find(pod);
                    json!({
                        "addresses": [pod.address(family)], "nodeName": pod.node,
                        "conditions": {"ready": self.ready, "serving": self.ready, "terminating": false},
                    })
                })
                .collect();
            items.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": format!("{}-{family}", self.name).to_lowercase(),
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": family.to_string(), "ports": ports(PORT), "endpoints": endpoints,
            }));
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }
}

/// The hosts, and what runs on them.
pub(crate) struct Cluster {
    hosts: BTreeMap<&'static str, Host>,
    folder: tempfile::TempDir,
    next_number: AtomicU8,
}

impl Cluster {
    /// Makes it, with these Services in place, and these arguments for kube-ipvs beside the usual ones.
    pub(crate) fn start(services: &[Service], arguments: &[&'static str]) -> Self {
        let cluster = Self::without_proxies(services);
        let proxies = ["node-1", "node-2"].map(|node| cluster.start_proxy(node, arguments));
        for mut proxy in proxies {
            proxy.wait_synced();
            // It runs as long as this process does.
            std::mem::forget(proxy);
        }
        cluster
    }

    /// Makes it, with these Services in place, and nothing that serves them yet.
    pub(crate) fn without_proxies(services: &[Service]) -> Self {
        let hosts = topology::build();
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("manifests")).expect("a folder");
        let cluster = Self { hosts, folder, next_number: AtomicU8::new(100) };
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

    /// A Service of a test's own, with addresses that nothing else has.
    pub(crate) fn service(&self, endpoints: &[&'static str]) -> Service {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        assert!(number < u8::MAX, "no address is left");
        Service::new(&format!("service-{number}"), number, endpoints)
    }

    /// Writes a Service and its slices, or replaces them.
    pub(crate) fn put(&self, service: &Service) {
        let temporary = self.folder.path().join(&service.name);
        fs::write(&temporary, service.manifest().to_string()).expect("a manifest");
        let file = self.manifests().join(format!("{}.json", service.name));
        fs::rename(temporary, file).expect("a manifest");
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }

    /// A host asks once, over a new connection.
    pub(crate) fn ask(&self, client: &str, protocol: Protocol, target: SocketAddr) -> io::Result<Answer> {
        self.host(client).run(move || talk::ask(protocol, None, target))
    }
}
