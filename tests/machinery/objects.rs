//! Changes of Services and EndpointSlices show in the kernel.

use serde_json::{Value, json};

use crate::control_plane::cluster;
use crate::table::{comes_to, shows};

/// A Service in `default`.
pub fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
    object["spec"] = spec;
    object
}

/// A slice of a Service, with these ports (name, number, protocol) and endpoints.
pub fn slice(name: &str, service: &str, ports: &[(&str, u16, &str)], endpoints: &[&str]) -> Value {
    let six = endpoints.iter().any(|address| address.contains(':'));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": if six { "IPv6" } else { "IPv4" },
        "ports": ports.iter().map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
            .collect::<Vec<_>>(),
        "endpoints": ready(endpoints),
    })
}

/// Ready endpoints.
pub fn ready(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

/// The ports of Service `web`; only its slices know which port of a pod `http` is.
fn web_ports(number: u16) -> Value {
    json!([
        {"name": "http", "port": number, "protocol": "TCP", "targetPort": "http"},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
    ])
}

const WEB_SLICE: &[(&str, u16, &str)] = &[("http", 8080, "TCP"), ("dns", 5353, "UDP")];
const DNS: &str = "UDP 10.96.1.1:53 rr\n  -> 10.244.0.1:5353 Masq 1 0 0\n  -> 10.244.0.2:5353 Masq 1 0 0\n";

fn web(number: u16, persistence: &str) -> String {
    format!(
        "TCP 10.96.1.1:{number} rr{persistence}\n  -> 10.244.0.1:8080 Masq 1 0 0\n  -> 10.244.0.2:8080 Masq 1 0 0\n{}",
        DNS.replace(" rr", &format!(" rr{persistence}"))
    )
}

pub fn services_come_change_and_go() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    shows(&cluster, "", &[]);

    cluster.create(service("web", json!({"clusterIP": "10.96.1.1", "ports": web_ports(80)})));
    shows(&cluster, "", &["10.96.1.1"]);
    cluster.create(slice("web-1", "web", WEB_SLICE, &["10.244.0.1", "10.244.0.2"]));
    shows(&cluster, &web(80, ""), &["10.96.1.1"]);

    // A second slice has pods whose port `http` is another one, and a third one shares an endpoint with the first.
    cluster.create(slice("web-2", "web", &[("http", 9090, "TCP")], &["10.244.0.3"]));
    cluster.create(slice("web-3", "web", &[("http", 8080, "TCP")], &["10.244.0.1"]));
    let third = "  -> 10.244.0.3:9090 Masq 1 0 0\nUDP";
    shows(&cluster, &web(80, "").replace("UDP", third), &["10.96.1.1"]);
    cluster.delete("EndpointSlice", "web-2");
    cluster.delete("EndpointSlice", "web-3");
    shows(&cluster, &web(80, ""), &["10.96.1.1"]);

    // Another port number; then an additional port, which the pods have only later.
    cluster.patch("Service", "web", json!({"spec": {"ports": web_ports(81)}}));
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);
    let mut ports = web_ports(81);
    let more = json!({"name": "https", "port": 443, "protocol": "TCP", "targetPort": "https"});
    ports.as_array_mut().unwrap().push(more);
    cluster.patch("Service", "web", json!({"spec": {"ports": ports}}));
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);
    let ports = slice("", "", &[WEB_SLICE[0], WEB_SLICE[1], ("https", 8443, "TCP")], &[])["ports"].take();
    cluster.patch("EndpointSlice", "web-1", json!({"ports": ports}));
    let https = "TCP 10.96.1.1:443 rr\n  -> 10.244.0.1:8443 Masq 1 0 0\n  -> 10.244.0.2:8443 Masq 1 0 0\n";
    shows(&cluster, &(web(81, "") + https), &["10.96.1.1"]);
    cluster.patch("Service", "web", json!({"spec": {"ports": web_ports(81)}}));
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);

    cluster.patch(
        "Service",
        "web",
        json!({"spec": {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        }}),
    );
    shows(&cluster, &web(81, " persistent 60"), &["10.96.1.1"]);
    cluster.patch(
        "Service",
        "web",
        json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}}),
    );
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);

    // For a while, the Service belongs to another proxy.
    let label =
        |value: Value| json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}});
    cluster.patch("Service", "web", label("other".into()));
    shows(&cluster, "", &[]);
    cluster.patch("Service", "web", label(Value::Null));
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);
    let external = json!({"spec": {
        "type": "ExternalName", "externalName": "example.org", "clusterIP": null, "clusterIPs": null,
    }});
    cluster.patch("Service", "web", external);
    shows(&cluster, "", &[]);
    let internal = json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": "10.96.1.1"}});
    cluster.patch("Service", "web", internal);
    shows(&cluster, &web(81, ""), &["10.96.1.1"]);

    // Another address requires deletion; the slices exist already.
    cluster.delete("Service", "web");
    cluster.create(service("web", json!({"clusterIP": "10.96.1.2", "ports": web_ports(80)})));
    shows(&cluster, &web(80, "").replace("10.96.1.1", "10.96.1.2"), &["10.96.1.2"]);
    cluster.delete("Service", "web");
    comes_to(&cluster, "", &[]);
    let rules = crate::lab::shell("nft list ruleset");
    assert!(!rules.contains("10.96.1."), "{rules}");
    assert_eq!(proxy.count("kube_ipvs_writes_total", "verdict=\"refused\""), 0, "{}", proxy.log());
}

pub fn slices_decide_who_serves() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    let http = &[("", 8080, "TCP")];
    // The slice comes first.
    cluster.create(slice("a-1", "a", http, &["10.244.0.1", "10.244.0.2"]));
    for (name, address) in [("a", "10.96.1.1"), ("b", "10.96.1.2")] {
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        cluster.create(service(name, json!({"clusterIP": address, "ports": ports})));
    }
    let addresses = ["10.96.1.1", "10.96.1.2"];
    let both =
        "TCP 10.96.1.1:80 rr\n  -> 10.244.0.1:8080 Masq 1 0 0\n  -> 10.244.0.2:8080 Masq 1 0 0\n".to_owned();
    let first = "TCP 10.96.1.1:80 rr\n  -> 10.244.0.1:8080 Masq 1 0 0\n";
    shows(&cluster, &both, &addresses);

    let endpoints = |conditions: [Value; 2]| {
        let [first, second] = conditions;
        json!({"endpoints": [
            {"addresses": ["10.244.0.1"], "conditions": first},
            {"addresses": ["10.244.0.2"], "conditions": second},
        ]})
    };
    let is_ready = || json!({"ready": true});
    let is_not = || json!({"ready": false});
    let ends = |serving: bool| json!({"ready": false, "serving": serving, "terminating": true});
    for (conditions, servers) in [
        ([is_ready(), is_not()], first),
        // Unknown counts as ready.
        ([is_ready(), json!({})], &both),
        ([is_ready(), ends(true)], first),
        // Nobody is ready: an endpoint that terminates and still serves has to do.
        ([ends(true), ends(false)], first),
        ([ends(true), is_not()], first),
        ([is_ready(), is_ready()], &both),
    ] {
        let change = endpoints(conditions);
        cluster.patch("EndpointSlice", "a-1", change);
        shows(&cluster, servers, &addresses);
    }

    let to = |service: &str| json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}});
    cluster.patch("EndpointSlice", "a-1", to("b"));
    comes_to(&cluster, &both.replace("10.96.1.1", "10.96.1.2"), &addresses);
    cluster.patch("EndpointSlice", "a-1", to("a"));
    comes_to(&cluster, &both, &addresses);

    // From one slice to another, as the controller repacks them: no endpoint is missing meanwhile.
    cluster.create(slice("a-2", "a", http, &["10.244.0.1", "10.244.0.2"]));
    cluster.delete("EndpointSlice", "a-1");
    shows(&cluster, &both, &addresses);
    cluster.patch("EndpointSlice", "a-2", json!({"endpoints": ready(&[])}));
    comes_to(&cluster, "", &addresses);
    cluster.patch("EndpointSlice", "a-2", json!({"endpoints": ready(&["10.244.0.1"])}));
    shows(&cluster, first, &addresses);
    let headless = |value: Value| json!({"metadata": {"labels": {"service.kubernetes.io/headless": value}}});
    cluster.patch("EndpointSlice", "a-2", headless("".into()));
    comes_to(&cluster, "", &addresses);
    cluster.patch("EndpointSlice", "a-2", headless(Value::Null));
    shows(&cluster, first, &addresses);
}

pub fn both_families_come_and_go() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = cluster.proxy(&folder, "proxy");
    proxy.wait_synced();
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "sip", "port": 5060, "protocol": "SCTP"},
    ]);
    let pods = &[("http", 8080, "TCP"), ("sip", 5061, "SCTP")];
    cluster.create(service(
        "dual",
        json!({
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIPs": ["10.96.1.1", "fd00:10:96::1:1"], "clusterIP": "10.96.1.1", "ports": ports,
        }),
    ));
    let four = "TCP 10.96.1.1:80 rr\n  -> 10.244.0.1:8080 Masq 1 0 0\n\
                SCTP 10.96.1.1:5060 rr\n  -> 10.244.0.1:5061 Masq 1 0 0\n";
    let six = "TCP [fd00:10:96::1:1]:80 rr\n  -> [fd00:10:244::1]:8080 Masq 1 0 0\n\
               SCTP [fd00:10:96::1:1]:5060 rr\n  -> [fd00:10:244::1]:5061 Masq 1 0 0\n";
    let addresses = ["10.96.1.1", "fd00:10:96::1:1"];
    shows(&cluster, "", &addresses);
    cluster.create(slice("dual-6", "dual", pods, &["fd00:10:244::1"]));
    shows(&cluster, six, &addresses);
    cluster.create(slice("dual-4", "dual", pods, &["10.244.0.1"]));
    shows(&cluster, &format!("{four}{six}"), &addresses);

    // To a single family and back.
    let single = json!({"spec": {
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.1.1"],
    }});
    cluster.patch("Service", "dual", single);
    shows(&cluster, four, &addresses[..1]);
    let dual = json!({"spec": {
        "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
        "clusterIPs": ["10.96.1.1", "fd00:10:96::1:1"],
    }});
    cluster.patch("Service", "dual", dual);
    shows(&cluster, &format!("{four}{six}"), &addresses);
    cluster.delete("EndpointSlice", "dual-4");
    comes_to(&cluster, six, &addresses);
    cluster.delete("Service", "dual");
    comes_to(&cluster, "", &[]);

    cluster.create(slice("six-1", "six", &[("", 8080, "TCP")], &["fd00:10:244::1"]));
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    cluster.create(service(
        "six",
        json!({"ipFamilies": ["IPv6"], "clusterIP": "fd00:10:96::1:2", "ports": ports}),
    ));
    let server = "TCP [fd00:10:96::1:2]:80 rr\n  -> [fd00:10:244::1]:8080 Masq 1 0 0\n";
    shows(&cluster, server, &["fd00:10:96::1:2"]);
    cluster.delete("Service", "six");
    shows(&cluster, "", &[]);
}
