//! The measured cluster: Services and EndpointSlices like those of a real one, in a folder of manifests.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use kube_ipvs::cluster::types::Protocol;
use kube_ipvs::state::VirtualServerKey;
use serde_json::{Value, json};

/// The pods' network, which contains all endpoints.
pub(crate) const CLUSTER_CIDR: &str = "10.128.0.0/9";
/// The name of the Node that the program runs on.
pub(crate) const NODE: &str = "node";
/// The port of every Service.
pub(crate) const PORT: u16 = 80;
/// The port of every endpoint.
pub(crate) const TARGET_PORT: u16 = 8080;

/// The number of namespaces over which the Services are spread.
const NAMESPACES: u32 = 50;

/// The Node that the program runs on.
pub(crate) fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
    })
}

/// The number of Services, and of endpoints of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

impl Size {
    /// The number of virtual servers, real servers and addresses together.
    pub(crate) fn objects(self) -> u32 {
        self.services * (self.endpoints + 2)
    }

    /// The size as [`FromStr`] reads it.
    pub(crate) fn argument(self) -> String {
        format!("{}x{}", self.services, self.endpoints)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { services, endpoints } = self;
        match services / 1000 {
            0 => write!(f, "{services} × {endpoints}"),
            thousands => write!(f, "{thousands},{:03} × {endpoints}", services % 1000),
        }
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (services, endpoints) = text.split_once('x').context("a size is SERVICESxENDPOINTS")?;
        Ok(Self {
            services: services.parse().context("services")?,
            endpoints: endpoints.parse().context("endpoints")?,
        })
    }
}

/// The address of a Service: 10.64.1.1 and up; API servers take the first address of their range for themselves.
pub(crate) fn service_address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a40_0101 + service)
}

/// Services in the order of the kernel's hash chains and, along a chain, by address: the cheapest order of writes for
/// the kernel.
pub(crate) fn in_chains(services: Range<u32>) -> Vec<u32> {
    let mut services: Vec<u32> = services.collect();
    // A stable sort.
    services.sort_by_key(|service| {
        let address = service_address(*service).into();
        VirtualServerKey { address, protocol: Protocol::Tcp, port: PORT }.chain()
    });
    services
}

/// The address of the n-th endpoint in the cluster: 10.128.0.1 and up.
pub(crate) fn endpoint_address(endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a80_0001 + endpoint)
}

/// The endpoints of the Service with this number.
pub(crate) fn endpoints(size: Size, number: u32) -> Vec<Ipv4Addr> {
    (number * size.endpoints..(number + 1) * size.endpoints).map(endpoint_address).collect()
}

/// Writes the folder, with all Services in `cluster.json`.
pub(crate) fn write(size: Size, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let items: Vec<Value> = (0..size.services)
        .flat_map(|number| [service(number), slice(number, &endpoints(size, number))])
        .collect();
    put(folder, "cluster.json", &items)
}

/// Writes the Service with this number and these endpoints to a file of its own.
pub(crate) fn write_one(number: u32, endpoints: &[Ipv4Addr], folder: &Path) -> anyhow::Result<()> {
    put(folder, "one.json", &[service(number), slice(number, endpoints)])
}

/// Puts a complete file in place atomically.
fn put(folder: &Path, name: &str, items: &[Value]) -> anyhow::Result<()> {
    let temporary = folder.join(format!(".{name}"));
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
    fs::write(&temporary, serde_json::to_vec(&list)?)?;
    fs::rename(&temporary, folder.join(name))?;
    Ok(())
}

/// A Service as `kubectl get service -o json` shows it.
pub(crate) fn service(number: u32) -> Value {
    let name = format!("service-{number}");
    let address = service_address(number).to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace(number),
            "uid": uid(1, number),
            "resourceVersion": (100_000 + number).to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "bench"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// An EndpointSlice as the EndpointSlice controller makes it.
pub(crate) fn slice(number: u32, endpoints: &[Ipv4Addr]) -> Value {
    let name = format!("service-{number}");
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| {
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", address.to_bits() % 200),
                "targetRef": {
                    "kind": "Pod",
                    "name": format!("{name}-{:x}", address.to_bits()),
                    "namespace": namespace(number),
                    "uid": uid(2, address.to_bits()),
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-7hx2k"),
            "generateName": format!("{name}-"),
            "namespace": namespace(number),
            "uid": uid(3, number),
            "resourceVersion": (200_000 + number).to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": name,
                "uid": uid(1, number),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
    })
}

/// The namespace of the Service with this number.
pub(crate) fn namespace(number: u32) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// All namespaces.
pub(crate) fn namespaces() -> impl Iterator<Item = String> {
    (0..NAMESPACES).map(namespace)
}

fn uid(kind: u32, number: u32) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

/// The address of the Service `default/kubernetes`.
pub(crate) const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 1);
/// The endpoint of `default/kubernetes`.
pub(crate) const API_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// `default/kubernetes` and its slice, with the same port as all Services here.
pub(crate) fn kubernetes() -> [Value; 2] {
    let mut service = service(0);
    service["metadata"] = json!({"name": "kubernetes", "namespace": "default"});
    service["spec"]["clusterIP"] = json!(KUBERNETES);
    service["spec"]["clusterIPs"] = json!([KUBERNETES]);
    let mut slice = slice(0, &[API_SERVER]);
    slice["metadata"] = json!({
        "name": "kubernetes",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "kubernetes"},
    });
    [service, slice]
}
