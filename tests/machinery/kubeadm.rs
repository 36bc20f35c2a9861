//! kubeadm's objects with another image: the command of the `DaemonSet` in `deploy/kubeadm`, with the files of its
//! `ConfigMap` where a node has them, and only the rights of `system:node-proxier`.

use std::fs;
use std::path::Path;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::control_plane::{NODE, cluster};
use crate::objects::{service, slice};
use crate::proxy::{Proxy, get};
use crate::real_apiserver::PROXY_TOKEN;
use crate::tools::{ipvsadm, wait_for};

fn object<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn the_daemon_set_of_kubeadm_runs_with_its_own_rights() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    cluster.create(service("web", json!({"clusterIP": "10.96.1.1", "ports": [{"port": 80}]})));
    cluster.create(slice("web-1", "web", &[("", 8080, "TCP")], &["10.244.0.1"]));

    let files = object::<ConfigMap>("configuration/configmap.yaml").data.expect("data");
    let mounted = folder.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    for (name, text) in &files {
        // The only thing that a cluster must fill in.
        let text = text.replace("control-plane.example:6443", &cluster.host());
        fs::write(mounted.join(name), text).unwrap();
    }
    fs::write(mounted.join("token"), PROXY_TOKEN).unwrap();
    fs::copy(cluster.certificate(), mounted.join("ca.crt")).unwrap();

    let pod = object::<DaemonSet>("kubeadm/daemonset.yaml").spec.template.spec.expect("a pod");
    let container = &pod.containers[0];
    let command =
        container.command.as_ref().expect("a command").join(" ").replace("$(NODE_NAME)", "$NODE_NAME");
    assert!(container.args.is_none(), "{:?}", container.args);
    // In a mount namespace of its own: nothing of this is visible outside.
    let lines = format!(
        "set -e
         mount -t tmpfs tmpfs /var/lib
         mkdir /var/lib/kube-proxy
         cp {mounted}/config.conf {mounted}/kubeconfig.conf /var/lib/kube-proxy
         mkdir -p /run/secrets/kubernetes.io
         mount -t tmpfs tmpfs /run/secrets/kubernetes.io
         mkdir /run/secrets/kubernetes.io/serviceaccount
         cp {mounted}/ca.crt {mounted}/token /run/secrets/kubernetes.io/serviceaccount
         mount -t tmpfs tmpfs /usr/local/bin
         touch /usr/local/bin/kube-proxy
         mount --bind {program} /usr/local/bin/kube-proxy
         exec {command}",
        mounted = mounted.display(),
        program = env!("CARGO_BIN_EXE_kube-ipvs"),
    );
    let mut proxy = Proxy::of_shell(folder.path(), "kubeadm", &lines, &[("NODE_NAME", NODE)]);
    proxy.wait_synced();
    assert!(ipvsadm().contains("TCP 10.96.1.1:80 rr\n  -> 10.244.0.1:8080 Masq 1 0 0\n"), "{}", ipvsadm());
    assert!(proxy.log().contains("\"Using ipvs Proxier\""), "{}", proxy.log());
    assert_eq!(get("127.0.0.1:10249", "/proxyMode"), "ipvs");
    assert!(get("127.0.0.1:10256", "/healthz").contains("\"healthy\":true"));
    // It may watch, and create Events.
    cluster.create(slice("web-2", "web", &[("", 8080, "TCP")], &["10.244.0.2"]));
    wait_for("a new slice shows", 5, || ipvsadm().contains("-> 10.244.0.2:8080 Masq 1 0 0"));
    wait_for("the Event of its start", 10, || {
        cluster
            .events()
            .iter()
            .any(|event| event["reason"] == "Starting" && event["regarding"]["name"] == NODE)
    });
    for denied in ["Forbidden", "forbidden", "Unauthorized"] {
        assert!(!proxy.log().contains(denied), "{}", proxy.log());
    }
}
