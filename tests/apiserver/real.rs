//! The source against the real API machinery: verifies what the fake server assumes, and tests what that cannot do.

use std::fmt::Debug;
use std::path::Path;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube_ipvs::api::Event;
use kube_ipvs::api::client::connect;
use kube_ipvs::api::watch::{ApiSource, Encoding, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::common::objects;
use crate::common::real_apiserver::{RealApiServer, assets};
use crate::common::relay::Relay;
use crate::session::{self, Log, NODE, Of, Session};

session::tests![
    follows_the_cluster_with_the_rights_of_kube_proxy,
    a_killed_server_withdraws_nothing,
    what_was_forgotten_meanwhile_is_listed_again,
    a_server_without_streaming_lists_is_listed,
    both_encodings_say_the_same,
    who_may_not_is_told_what,
    a_renewed_certificate_is_used,
    the_server_accepts_the_objects_of_deploy,
];

/// Why these tests cannot run, if so.
pub fn missing() -> Option<String> {
    assets().err()
}

/// What the admin can change.
struct Admin {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    nodes: Api<Node>,
}

impl Admin {
    async fn of(server: &RealApiServer) -> Self {
        let client = server.client("admin").await;
        Self {
            services: Api::default_namespaced(client.clone()),
            slices: Api::default_namespaced(client.clone()),
            nodes: Api::all(client),
        }
    }

    async fn service(&self, name: &str, address: &str) {
        create(&self.services, objects::service(name, address)).await;
    }

    async fn slice(&self, name: &str, service: &str, addresses: &[&str]) {
        create(&self.slices, objects::slice(name, service, addresses)).await;
    }

    /// Creates the node; its addresses are part of the status, which creation ignores.
    async fn node(&self) {
        create(&self.nodes, objects::node(NODE, "192.0.2.1")).await;
        let status = json!({"status": objects::node(NODE, "192.0.2.1")["status"]});
        self.nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

async fn create<K: Clone + DeserializeOwned + Serialize + Debug>(api: &Api<K>, object: Value) {
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn patch<K>(api: &Api<K>, name: &str, change: Value)
where
    K: Clone + DeserializeOwned + Debug + kube::Resource<Scope = NamespaceResourceScope>,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn delete<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) {
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

/// A cluster with Service `default/a` in addition to `default/kubernetes`, and an admin.
async fn cluster(flags: &[&str]) -> (RealApiServer, Admin) {
    let server = RealApiServer::start(flags).await;
    let admin = Admin::of(&server).await;
    admin.node().await;
    admin.service("a", "10.96.1.1").await;
    admin.slice("a-1", "a", &["10.1.0.1"]).await;
    (server, admin)
}

const FIRST: &str = "replace [default/a 10.96.1.1:80, default/kubernetes 10.96.0.1:443]";

async fn begin(client: kube::Client) -> Session {
    let mut session = Session::start(client, Settings::default());
    let [services, slices, node] = session.first().await;
    assert_eq!(services, FIRST);
    assert!(
        slices.starts_with("replace [default/a-1 of default/a (10.1.0.1), default/kubernetes of"),
        "{slices}"
    );
    assert_eq!(node, "replace [worker (192.0.2.1)]");
    session
}

/// Objects with every field that is used, as the server itself encodes them: the counterpart to the field numbers here.
async fn both_encodings_say_the_same() {
    let server = RealApiServer::start(&["--feature-gates=WatchList=false"]).await;
    let admin = Admin::of(&server).await;
    admin.node().await;
    let node = json!({
        "metadata": {"labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {
            "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"],
            "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}],
        },
    });
    admin.nodes.patch(NODE, &PatchParams::default(), &Patch::Merge(node)).await.unwrap();
    admin.service("plain", "10.96.1.1").await;
    let full = json!({
        "metadata": {
            "name": "full",
            "labels": {"app": "full"},
            "annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24"},
        },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.1.2", "externalIPs": ["203.0.113.1", "203.0.113.2"],
            "ports": [
                {"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353, "nodePort": 30053},
                {"name": "sctp", "port": 53, "protocol": "SCTP", "nodePort": 30054},
            ],
            "selector": {"app": "full"},
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
            "loadBalancerSourceRanges": ["192.0.2.0/25", "198.51.100.0/24"],
        },
    });
    create(&admin.services, full).await;
    let ingress = json!({"status": {"loadBalancer": {"ingress": [
        {"ip": "203.0.113.9", "ipMode": "VIP"}, {"ip": "203.0.113.10", "ipMode": "Proxy"}, {"hostname": "a.example"},
    ]}}});
    admin.services.patch_status("full", &PatchParams::default(), &Patch::Merge(ingress)).await.unwrap();
    let slice = json!({
        "metadata": {
            "name": "full-1",
            "labels": {"kubernetes.io/service-name": "full"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.678Z"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "any"}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}},
            {
                "addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true},
                "nodeName": NODE, "zone": "a", "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"},
                "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": NODE}]},
            },
            {"addresses": ["10.1.0.3"]},
        ],
    });
    create(&admin.slices, slice).await;
    create(
        &admin.slices,
        json!({
            "metadata": {"name": "six", "labels": {"kubernetes.io/service-name": "plain"}},
            "addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}],
        }),
    )
    .await;

    let client = server.client("proxy").await;
    let mut all = Vec::new();
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        // In lists, since the other tests check events; in one page and in several.
        for page_size in [500, 1] {
            let settings = Settings { encoding, page_size, ..Settings::default() };
            all.push(complete_sets(client.clone(), settings).await);
        }
    }
    let [first, rest @ ..] = &all[..] else { panic!("four of them") };
    for (what, needle) in [
        ("the affinity", "affinity_seconds: Some(77)"),
        ("the health check", "health_check_node_port: Some(30999)"),
        ("a source range", "198.51.100.0/24"),
        ("a balancer's address", "203.0.113.9"),
        ("a hint", "zones: [\"a\", \"b\"], nodes: [\"worker\"]"),
        ("the trigger's time", "triggered_nanoseconds: Some(1767323045678000000)"),
        ("the zone", "zone: Some(\"a\")"),
        ("the taint", "eligible: false"),
        ("the pods' range", "10.1.0.0/24"),
    ] {
        assert!(first.iter().any(|set| set.contains(needle)), "{what} is in none of {first:#?}");
    }
    for other in rest {
        assert_eq!(first, other);
    }
}

/// Everything that the first three complete sets say.
async fn complete_sets(client: kube::Client, settings: Settings) -> [String; 3] {
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    let end = tokio_util::sync::CancellationToken::new();
    let source = ApiSource::new(client, NODE.into()).with_settings(settings);
    let running = tokio::spawn(source.run(sender, end.clone()));
    let mut sets = <[String; 3]>::default();
    while sets.iter().any(String::is_empty) {
        let (index, text) = match events.recv().await.unwrap() {
            Event::Service(change) => (0, format!("{change:?}")),
            Event::Slice(change) => (1, format!("{change:?}")),
            Event::Node(change) => (2, format!("{change:?}")),
            other => panic!("not watched: {other:?}"),
        };
        sets[index] = text;
    }
    end.cancel();
    running.await.unwrap().unwrap();
    sets
}

async fn follows_the_cluster_with_the_rights_of_kube_proxy() {
    let (server, admin) = cluster(&[]).await;
    let log = Log::begin();
    let mut session = begin(server.client("proxy").await).await;

    admin.service("b", "10.96.1.2").await;
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.1.2:80");
    patch(&admin.services, "b", json!({"spec": {"ports": [{"port": 81}]}})).await;
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.1.2:81");
    let label = "service.kubernetes.io/service-proxy-name";
    patch(&admin.services, "b", json!({"metadata": {"labels": {label: "other"}}})).await;
    assert_eq!(session.next(Of::Services).await, "delete default/b");
    patch(&admin.services, "b", json!({"metadata": {"labels": {label: null}}})).await;
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.1.2:81");
    delete(&admin.services, "b").await;
    assert_eq!(session.next(Of::Services).await, "delete default/b");

    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    create(&admin.services, headless).await;
    admin.service("c", "10.96.1.3").await;
    assert_eq!(
        session.next(Of::Services).await,
        "upsert default/c 10.96.1.3:80",
        "and nothing of the headless one"
    );

    admin.slice("b-1", "b", &["10.1.0.2", "10.1.0.3"]).await;
    assert_eq!(session.next(Of::Slices).await, "upsert default/b-1 of default/b (10.1.0.2 10.1.0.3)");
    let endpoints = json!({"endpoints": [{"addresses": ["10.1.0.3"]}]});
    patch(&admin.slices, "b-1", endpoints).await;
    assert_eq!(session.next(Of::Slices).await, "upsert default/b-1 of default/b (10.1.0.3)");
    let label = "service.kubernetes.io/headless";
    patch(&admin.slices, "b-1", json!({"metadata": {"labels": {label: ""}}})).await;
    assert_eq!(session.next(Of::Slices).await, "delete default/b-1");
    patch(&admin.slices, "b-1", json!({"metadata": {"labels": {label: null}}})).await;
    assert_eq!(session.next(Of::Slices).await, "upsert default/b-1 of default/b (10.1.0.3)");
    delete(&admin.slices, "b-1").await;
    assert_eq!(session.next(Of::Slices).await, "delete default/b-1");

    delete(&admin.nodes, NODE).await;
    assert_eq!(session.next(Of::Node).await, "delete worker");

    for of in [Of::Services, Of::Slices, Of::Node] {
        assert_eq!(session.counters(of)[3..], [0, 0], "relists, errors of {of:?}");
        assert_eq!(session.status(of).last_error, None);
    }
    assert_eq!(log.with("no streaming lists"), Vec::<String>::new(), "they were used");
}

async fn a_killed_server_withdraws_nothing() {
    let (mut server, admin) = cluster(&[]).await;
    let mut session = begin(server.client("proxy").await).await;
    for round in ["killed", "stopped"] {
        if round == "killed" {
            server.kill().await;
        } else {
            server.stop().await;
        }
        for of in [Of::Services, Of::Slices, Of::Node] {
            session.until(of, |status| status.last_error.is_some()).await;
        }
        server.restart().await;
        admin.service(round, if round == "killed" { "10.96.1.8" } else { "10.96.1.9" }).await;
        // The restarted server may or may not remember the version to continue from; either way nothing is deleted.
        let mut event = session.next(Of::Services).await;
        while event.starts_with("replace ") && !event.contains(round) {
            for name in ["default/a ", "default/kubernetes "] {
                assert!(event.contains(name), "{event}");
            }
            event = session.next(Of::Services).await;
        }
        assert!(event.contains(&format!("default/{round} ")) && !event.starts_with("delete"), "{event}");
    }
}

async fn what_was_forgotten_meanwhile_is_listed_again() {
    let (mut server, admin) = cluster(&[]).await;
    let mut relay = Relay::to(([127, 0, 0, 1], server.port).into()).await;
    let kubeconfig = server.kubeconfig_at("proxy", relay.address.port());
    let log = Log::begin();
    let mut session = begin(connect(Some(&kubeconfig), None).await.unwrap()).await;
    relay.stop().await;
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    admin.service("b", "10.96.1.2").await;
    admin.service("c", "10.96.1.3").await;
    delete(&admin.services, "a").await;
    // Neither etcd nor the server's memory has the history of the present state.
    server.stop().await;
    server.compact().await;
    server.restart().await;
    relay.restart();
    let present =
        "replace [default/b 10.96.1.2:80, default/c 10.96.1.3:80, default/kubernetes 10.96.0.1:443]";
    assert_eq!(session.next(Of::Services).await, present);
    assert_eq!(log.with("watch services: 410").len(), 1);
    admin.service("d", "10.96.1.4").await;
    assert_eq!(session.next(Of::Services).await, "upsert default/d 10.96.1.4:80");
}

async fn a_server_without_streaming_lists_is_listed() {
    let (server, admin) = cluster(&["--feature-gates=WatchList=false"]).await;
    let log = Log::begin();
    let settings = Settings { page_size: 1, ..Settings::default() };
    let mut session = Session::start(server.client("proxy").await, settings);
    assert_eq!(session.next(Of::Services).await, FIRST);
    assert_eq!(log.with("no streaming lists, using list and watch resource=services").len(), 1);
    admin.service("b", "10.96.1.2").await;
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.1.2:80");
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "relists, errors");
}

async fn who_may_not_is_told_what() {
    let server = RealApiServer::start(&[]).await;
    let error = Session::start(server.client("nobody").await, Settings::default()).end().await.unwrap_err();
    let text = error.to_string();
    let (what, why) = text.split_once(": forbidden: ").unwrap_or_else(|| panic!("{text}"));
    let resources = ["watch services", "watch endpointslices.discovery.k8s.io", "watch nodes"];
    assert!(resources.contains(&what) && why.contains("User \"nobody\" cannot watch resource"), "{text}");

    let kubeconfig = server.kubeconfig_at("stranger", server.port);
    let client = connect(Some(&kubeconfig), None).await.unwrap();
    let text = Session::start(client, Settings::default()).end().await.unwrap_err().to_string();
    assert!(text.contains(": unauthorized: the server does not accept the credentials"), "{text}");
}

/// Certificate and key are in one file, as kubelet renews its own. The file is replaced by that of another user; both
/// are of this test's own authority.
async fn a_renewed_certificate_is_used() {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/certificates");
    let authority = format!("--client-ca-file={}", certificates.join("authority.pem").display());
    let (server, admin) = cluster(&[&authority]).await;
    let (kubeconfig, identity) = (server.path("certificate.kubeconfig"), server.path("identity.pem"));
    let renew = |name: &str| std::fs::copy(certificates.join(name), &identity).unwrap();
    renew("kube-proxy.pem");
    let mut relay = Relay::to(([127, 0, 0, 1], server.port).into()).await;
    let with_token = std::fs::read_to_string(server.kubeconfig_at("proxy", relay.address.port())).unwrap();
    let user = "{client-certificate: identity.pem, client-key: identity.pem}";
    std::fs::write(&kubeconfig, with_token.replace("{token: proxy}", user)).unwrap();
    let mut session = begin(connect(Some(&kubeconfig), None).await.unwrap()).await;

    renew("renewed.pem");
    relay.stop().await;
    relay.restart();
    let is_denied = |error: &str| error.contains("User \"renewed\" cannot watch resource \"services\"");
    session.until(Of::Services, |status| status.last_error.as_deref().is_some_and(is_denied)).await;
    renew("kube-proxy.pem");
    admin.service("b", "10.96.1.2").await;
    assert_eq!(session.next(Of::Services).await, "upsert default/b 10.96.1.2:80");
}

/// A dry run with strict field validation. (The API machinery alone may not know daemon sets: see `deploy.rs`.)
async fn the_server_accepts_the_objects_of_deploy() {
    let server = RealApiServer::start(&[]).await;
    let client = server.client("admin").await;
    let parameters = PatchParams::apply("test").dry_run().validation_strict();
    let read = |file: &str| -> Value {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
        serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "kube-system");
    let map = read("configuration/configmap.yaml");
    maps.patch("kube-proxy", &parameters, &Patch::Apply(&map)).await.unwrap();
    accounts
        .patch("kube-proxy", &parameters, &Patch::Apply(&read("kubeadm/serviceaccount.yaml")))
        .await
        .unwrap();

    let mut wrong = map;
    wrong["dta"] = json!({});
    let error = maps.patch("kube-proxy", &parameters, &Patch::Apply(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains("dta"), "{error}");
    assert!(maps.get_opt("kube-proxy").await.unwrap().is_none(), "it was a dry run");
}
