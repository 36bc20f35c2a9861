//! The API server, on the wire between the nodes, and the admin's operations.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use kube_ipvs::cluster::types::Family;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::NODES;
use crate::anything;
use crate::cluster::Cluster;
use crate::proxy::eventually;
use crate::real_apiserver::RealApiServer;
use crate::topology;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 253);
const RANGES: &str = "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112";

/// A running API server that knows the nodes of a cluster.
pub(crate) struct ControlPlane {
    /// Its threads are in the server's namespace.
    runtime: Runtime,
    server: RealApiServer,
    admin: Client,
}

impl ControlPlane {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        cluster.host("lan").shell(format!("ip addr add {ADDRESS}/24 dev lan"));
        let control_plane = cluster.host("lan").run(|| {
            let (runtime, server, admin) = RealApiServer::with_runtime(ADDRESS, &[RANGES]);
            Self { runtime, server, admin }
        });
        for (node, _) in NODES {
            control_plane.create_node(node);
        }
        control_plane.hide_own_service();
        control_plane
    }

    /// The kubeconfig of `system:kube-proxy`.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig("proxy")
    }

    /// Creates the objects of a list.
    pub(crate) fn create(&self, list: &Value) {
        for object in list["items"].as_array().unwrap() {
            self.create_one(object);
        }
    }

    fn create_node(&self, node: &str) {
        let address = |family| json!({"type": "InternalIP", "address": topology::find(node).address(family)});
        self.create_one(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"topology.kubernetes.io/zone": anything::zone(node)}}, "spec": {},
            "status": {"addresses": Family::ALL.map(address)},
        }));
    }

    /// Makes proxies ignore `default/kubernetes`, whose target port differs in each run.
    fn hide_own_service(&self) {
        let label = json!({"service.kubernetes.io/service-proxy-name": "nobody"});
        let change = Patch::Merge(json!({"metadata": {"labels": label}}));
        let services: Api<Service> = Api::default_namespaced(self.admin.clone());
        // It is created some time after the API server is ready.
        let hidden = eventually(Duration::from_secs(30), || {
            let (services, change) = (services.clone(), change.clone());
            let patch = async move { services.patch("kubernetes", &PatchParams::default(), &change).await };
            self.there(patch).is_ok()
        });
        assert!(hidden, "default/kubernetes cannot be labelled");
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let client = self.admin.clone();
        match object["kind"].as_str().unwrap() {
            "Node" => Api::all_with(client, &ApiResource::erase::<Node>(&())),
            "Service" => Api::default_namespaced_with(client, &ApiResource::erase::<Service>(&())),
            "EndpointSlice" => {
                Api::default_namespaced_with(client, &ApiResource::erase::<EndpointSlice>(&()))
            }
            other => panic!("{other} is no kind that tests use"),
        }
    }

    /// Deletes an object.
    pub(crate) fn delete_one(&self, object: &Value) {
        let (api, name) = (self.api(object), object["metadata"]["name"].as_str().unwrap().to_owned());
        let deleted = self.there(async move { api.delete(&name, &DeleteParams::default()).await.map(drop) });
        deleted.unwrap_or_else(|error| panic!("{error}: {object}"));
    }

    /// Creates an object, with its status.
    pub(crate) fn create_one(&self, value: &Value) {
        let object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
        let api = self.api(value);
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        let status = value["status"].clone();
        let created = self.there(async move {
            api.create(&PostParams::default(), &object).await?;
            if status.as_object().is_some_and(|status| !status.is_empty()) {
                let change = Patch::Merge(json!({"status": status}));
                api.patch_status(&name, &PatchParams::default(), &change).await?;
            }
            Ok(())
        });
        created.unwrap_or_else(|error| panic!("{error}: {value}"));
    }

    fn there<T: Send + 'static>(
        &self,
        run: impl Future<Output = kube::Result<T>> + Send + 'static,
    ) -> kube::Result<T> {
        self.runtime.block_on(self.runtime.spawn(run)).unwrap()
    }
}
