//! The API server and the admin's operations. Both live in the first network namespace of the lab, which the main
//! thread never leaves; tests run in other namespaces, and are connected to it by wires of their own, as nodes are.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Event as CoreEvent, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::lab::shell;
use crate::pods::in_namespace_of;
use crate::proxy::Proxy;
use crate::real_apiserver::RealApiServer;

/// The address of the API server, which is the endpoint of `default/kubernetes`.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Service addresses of both families.
const RANGES: &str = "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/108";

/// The name of the node.
pub const NODE: &str = "node1";

static CONTROL_PLANE: Mutex<Option<ControlPlane>> = Mutex::new(None);
/// The last part of the last node's address.
static NODES: AtomicU8 = AtomicU8::new(10);

/// A running API server without any Services except `default/kubernetes`, and its admin.
pub struct ControlPlane {
    runtime: Runtime,
    server: RealApiServer,
    /// A client of `admin`.
    admin: Client,
}

/// The control plane, for one test: running, without objects of earlier tests.
pub struct Cluster(MutexGuard<'static, Option<ControlPlane>>);

/// Takes the control plane, and makes the caller's namespace one of its nodes.
pub fn cluster() -> Cluster {
    let mut guard = CONTROL_PLANE.lock().unwrap_or_else(PoisonError::into_inner);
    let control_plane = guard.get_or_insert_with(ControlPlane::start);
    // A test may have failed while the API server was down.
    if !control_plane.server.is_running() {
        control_plane.restart();
    }
    control_plane.clear();
    join_node();
    Cluster(guard)
}

/// Ends the processes.
pub fn end() {
    CONTROL_PLANE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

impl std::ops::Deref for Cluster {
    type Target = ControlPlane;
    fn deref(&self) -> &ControlPlane {
        self.0.as_ref().expect("it was started")
    }
}

impl std::ops::DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut ControlPlane {
        self.0.as_mut().expect("it was started")
    }
}

/// Runs something in the control plane's namespace.
fn there<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    // That of the process, which is that of its main thread.
    in_namespace_of(Path::new("/proc/self/ns/net"), run)
}

/// Connects the caller's namespace to the control plane.
pub fn join_node() {
    let number = NODES.fetch_add(1, Ordering::Relaxed);
    shell(&format!(
        "ip link add eth0 type veth peer name node{number} netns {}
         ip addr add 192.0.2.{number}/32 dev eth0
         ip link set eth0 addrgenmode none
         ip link set eth0 up
         ip route add {ADDRESS} dev eth0",
        std::process::id()
    ));
    there(|| shell(&format!("ip link set node{number} up; ip route add 192.0.2.{number} dev node{number}")));
}

impl ControlPlane {
    fn start() -> Self {
        there(|| {
            shell(&format!("ip addr add {ADDRESS}/32 dev lo"));
            let (runtime, server, admin) = RealApiServer::with_runtime(ADDRESS, &[RANGES]);
            let control_plane = Self { runtime, server, admin };
            // All tests' nodes are this one, one after the other.
            control_plane.create_node();
            control_plane
        })
    }

    /// Ends the API server as a power failure would; etcd keeps running.
    pub fn kill(&mut self) {
        there(|| self.runtime.block_on(self.server.kill()));
    }

    /// Starts the API server again, on the same port and etcd, and waits until it is ready.
    pub fn restart(&mut self) {
        there(|| self.runtime.block_on(self.server.restart()));
    }

    /// Starts kube-ipvs in the caller's namespace, as `system:kube-proxy`.
    pub fn proxy(&self, folder: &TempDir, name: &str) -> Proxy {
        self.proxy_as("proxy", folder, name)
    }

    /// Does the same as another user.
    pub fn proxy_as(&self, user: &str, folder: &TempDir, name: &str) -> Proxy {
        let kubeconfig = self.server.kubeconfig_at(user, self.server.port);
        start(folder, name, &kubeconfig, &[])
    }

    /// Does the same as `system:kube-proxy`, with additional arguments.
    pub fn proxy_with(&self, folder: &TempDir, name: &str, more: &[&str]) -> Proxy {
        start(folder, name, &self.kubeconfig(), more)
    }

    /// The kubeconfig of `system:kube-proxy`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig("proxy")
    }

    /// The certificate that identifies the API server.
    pub fn certificate(&self) -> PathBuf {
        self.server.path("certs/apiserver.crt")
    }

    /// `default/kubernetes` in the kernel, in the form of [`crate::tools::ipvsadm`].
    pub fn kubernetes(&self) -> String {
        format!("TCP 10.96.0.1:443 rr\n  -> {ADDRESS}:{} Masq 1 0 0\n", self.server.port)
    }

    /// The API server's address and port.
    pub fn host(&self) -> String {
        format!("{ADDRESS}:{}", self.server.port)
    }

    /// The Events in `default`.
    pub fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        self.as_admin("Event", async |api| {
            let list = api.list(&ListParams::default()).await?;
            events = list.items.into_iter().map(|event| serde_json::to_value(event).unwrap()).collect();
            Ok(())
        });
        events
    }

    /// The reasons of the Events that `kubectl describe service` shows: it queries core/v1 by the Service's name,
    /// namespace, kind and uid.
    pub fn described(&self, service: &str) -> Vec<String> {
        let uid = self.uid(service);
        let selector = format!(
            "involvedObject.name={service},involvedObject.namespace=default,involvedObject.kind=Service,\
             involvedObject.uid={uid}"
        );
        let mut reasons = Vec::new();
        self.as_admin("Event of core/v1", async |api| {
            let list = api.list(&ListParams::default().fields(&selector)).await?;
            reasons =
                list.items.iter().map(|event| event.data["reason"].as_str().unwrap().to_owned()).collect();
            Ok(())
        });
        reasons
    }

    /// The uid of a Service.
    pub fn uid(&self, service: &str) -> String {
        let mut uid = String::new();
        self.as_admin("Service", async |api| {
            uid = api.get_metadata(service).await?.metadata.uid.expect("the API server gives one");
            Ok(())
        });
        uid
    }

    /// Creates a Service or EndpointSlice in `default`.
    pub fn create(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let kind = object.types.as_ref().expect("it has a kind").kind.clone();
        self.as_admin(&kind, async |api| api.create(&PostParams::default(), &object).await.map(drop));
    }

    /// Creates the Node object of the node, as kubelet does.
    pub fn create_node(&self) {
        self.create(node(&serde_json::json!({})));
    }

    /// Does the same where a cloud's controller will add the addresses.
    pub fn create_node_without_address(&self) {
        let mut node = node(&serde_json::json!({}));
        node.as_object_mut().unwrap().remove("status");
        self.create(node);
    }

    /// Sets the address in the Node object of the node.
    pub fn set_node_address(&self, address: &str) {
        let change =
            serde_json::json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        self.as_admin("Node", async |api| {
            api.patch_status(NODE, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
        });
    }

    /// Sets the pod networks of the node. Where the API server permits this only once, as Kubernetes' own does, a new
    /// Node replaces the old one. Returns whether the Node is the same.
    pub fn set_pod_networks(&self, networks: &[&str]) -> bool {
        let spec = serde_json::json!({"podCIDR": networks[0], "podCIDRs": networks});
        let change = Patch::Merge(serde_json::json!({"spec": spec}));
        let mut is_same = true;
        self.as_admin("Node", async |api| match api.patch(NODE, &PatchParams::default(), &change).await {
            Err(kube::Error::Api(status)) if status.code == 422 => {
                is_same = false;
                Ok(())
            }
            patched => patched.map(drop),
        });
        if !is_same {
            self.delete("Node", NODE);
            self.create(node(&spec));
        }
        is_same
    }

    /// Changes an object, with a JSON merge patch.
    pub fn patch(&self, kind: &str, name: &str, change: Value) {
        let change = Patch::Merge(change);
        self.as_admin(kind, async |api| api.patch(name, &PatchParams::default(), &change).await.map(drop));
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, name: &str) {
        self.as_admin(kind, async |api| api.delete(name, &DeleteParams::default()).await.map(drop));
    }

    /// Deletes what tests created.
    fn clear(&self) {
        for kind in ["Service", "EndpointSlice"] {
            self.as_admin(kind, async |api| {
                for object in api.list_metadata(&ListParams::default()).await?.items {
                    let name = object.metadata.name.expect("objects have names");
                    if name != "kubernetes" {
                        api.delete(&name, &DeleteParams::default()).await?;
                    }
                }
                Ok(())
            });
        }
    }

    fn as_admin(&self, kind: &str, run: impl AsyncFnOnce(&Api<DynamicObject>) -> kube::Result<()> + Send) {
        let resource = match kind {
            "Service" => ApiResource::erase::<Service>(&()),
            "Event" => ApiResource::erase::<Event>(&()),
            "Event of core/v1" => ApiResource::erase::<CoreEvent>(&()),
            "EndpointSlice" => ApiResource::erase::<EndpointSlice>(&()),
            "Node" => ApiResource::erase::<Node>(&()),
            other => panic!("{other} is no kind that tests use"),
        };
        there(|| {
            let client = self.admin.clone();
            let api = match kind {
                "Node" => Api::all_with(client, &resource),
                _ => Api::default_namespaced_with(client, &resource),
            };
            self.runtime.block_on(run(&api)).unwrap_or_else(|error| panic!("{kind}: {error}"));
        });
    }
}

/// The Node object of the node.
fn node(spec: &Value) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE},
        "spec": spec,
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
    })
}

/// Starts kube-ipvs in the caller's namespace with this kubeconfig and additional arguments.
pub fn start(folder: &TempDir, name: &str, kubeconfig: &Path, more: &[&str]) -> Proxy {
    let kubeconfig = kubeconfig.to_string_lossy();
    let more = [&["--kubeconfig", &*kubeconfig], more].concat();
    Proxy::on_node(folder.path(), name, NODE, "10.244.0.0/16,fd00:10:244::/56", &more)
}
