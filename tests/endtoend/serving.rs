//! The answers of the running program.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::lab::shell;
use crate::proxy::{Proxy, get};
use crate::tools::wait_for;
use crate::{put, running};

/// The whole answer; empty where nobody listens, or stops listening before it has answered.
fn ask(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let mut answer = String::new();
    let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    match asked.and_then(|()| stream.read_to_string(&mut answer)) {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            String::new()
        }
        asked => asked.map(|_| answer).expect("an answer"),
    }
}

/// A Service of type `LoadBalancer` with policy `Local`, with an endpoint on this node and one elsewhere.
fn balanced(health_check_port: u16, ready_here: bool) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: balanced, namespace: default}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: {health_check_port}
  clusterIP: 10.96.0.9
  ports: [{{port: 80, nodePort: 30080}}]
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: balanced-1, namespace: default, labels: {{kubernetes.io/service-name: balanced}}}}
addressType: IPv4
ports: [{{name: \"\", port: 8080, protocol: TCP}}]
endpoints:
- {{addresses: [\"10.244.0.8\"], nodeName: node1, conditions: {{ready: {ready_here}}}}}
- {{addresses: [\"10.244.1.8\"], nodeName: node2}}
"
    )
}

pub(crate) fn health_check_ports_follow_their_services() {
    let (folder, proxy) = running();
    let manifests = folder.path().join("manifests");
    put(&manifests, "balanced.yaml", &balanced(32000, true));
    let mut answer = String::new();
    let mut answers = |port: u16, status: &str| {
        wait_for(&format!("{port} answers {status:?}\n{}", proxy.log()), 10, || {
            answer = ask(&format!("127.0.0.1:{port}"), "/");
            if status.is_empty() { answer.is_empty() } else { answer.contains(status) }
        });
        answer.clone()
    };
    let answer = answers(32000, "HTTP/1.1 200 OK\r\n");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 1\r\n"), "{answer}");
    assert!(answer.contains("\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"), "{answer}");
    // Some load balancers check the address to which they send the traffic.
    let answer = ask("203.0.113.1:32000", "/");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(ask("203.0.113.1:10256", "/healthz"), "", "everything else there is refused");
    put(&manifests, "balanced.yaml", &balanced(32000, false));
    answers(32000, "HTTP/1.1 503 Service Unavailable\r\n");
    put(&manifests, "balanced.yaml", &balanced(32001, true));
    answers(32001, "HTTP/1.1 200 OK\r\n");
    answers(32000, "");
    std::fs::remove_file(manifests.join("balanced.yaml")).expect("the manifest");
    answers(32001, "");
    assert!(proxy.log().contains("\"Opening healthcheck\" service=\"default/balanced\" port=32000"));
}

pub(crate) fn a_node_that_is_being_removed_is_unhealthy() {
    let (folder, proxy) = running();
    let manifests = folder.path().join("manifests");
    let node = |taints: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node1}}\nspec: {{taints: [{taints}]}}\n")
    };
    let taint = "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}";
    for (taints, status) in [("", "200 OK"), (taint, "503 Service Unavailable"), ("", "200 OK")] {
        put(&manifests, "node.yaml", &node(taints));
        wait_for(&format!("{status} with {taints:?}\n{}", proxy.log()), 10, || {
            ask("127.0.0.1:10256", "/healthz").starts_with(&format!("HTTP/1.1 {status}\r\n"))
        });
        assert!(ask("127.0.0.1:10256", "/livez").starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

/// A folder with an empty folder of manifests, and the arguments to run on it.
fn empty() -> (tempfile::TempDir, [String; 4]) {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    let words = ["--manifests", &manifests.to_string_lossy(), "--hostname-override", "node1"];
    let arguments = words.map(str::to_owned);
    (folder, arguments)
}

fn start(folder: &tempfile::TempDir, name: &str, common: &[String], more: &[&str]) -> Proxy {
    let arguments: Vec<&str> = common.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Proxy::start(folder.path(), name, &arguments)
}

pub(crate) fn pages_show_what_the_program_was_told() {
    let (folder, common) = empty();
    let more = [
        "--profiling",
        "--ipvs-scheduler",
        "wlc",
        "-v",
        "2",
        "--feature-gates=AllowServiceExternalIPs=false",
    ];
    let mut proxy = start(&folder, "proxy", &common, &more);
    proxy.wait_synced();
    let address = "127.0.0.1:10249";
    let configz: serde_json::Value = serde_json::from_str(&get(address, "/configz")).expect("JSON");
    let shown = &configz["kubeproxy.config.k8s.io"];
    assert_eq!(shown["kind"], "KubeProxyConfiguration", "{configz}");
    assert_eq!(shown["mode"], "ipvs", "{configz}");
    assert_eq!(shown["ipvs"]["scheduler"], "wlc", "{configz}");
    let flags = get(address, "/flagz");
    for flag in ["ipvs-scheduler=wlc", "v=2", "profiling=true"] {
        assert!(flags.lines().any(|line| line == flag), "{flag}\n{flags}");
    }
    assert!(get(address, "/statusz").contains("/debug/pprof/"));
    assert!(get(address, "/debug/pprof/cmdline").contains("--ipvs-scheduler\0wlc"));
    assert_eq!(get(address, "/healthz"), "ok");
    assert!(
        get(address, "/metrics/slis").contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1")
    );
    let feature = "kubernetes_feature_enabled{name=\"AllowServiceExternalIPs\",stage=\"\"} 0\n";
    assert!(get(address, "/metrics").contains(feature));
}

const PAGES: &str = "127.0.0.1:10249";

/// The content of a page, as JSON.
fn page(path: &str) -> serde_json::Value {
    serde_json::from_str(&get(PAGES, path)).expect("JSON")
}

pub(crate) fn a_service_and_an_address_explain_themselves() {
    let (folder, _proxy) = running();
    let manifests = folder.path().join("manifests");
    let told = page("/services/default/web");
    assert_eq!((&told["state"], &told["findings"]), (&"written".into(), &serde_json::json!([])), "{told}");
    let point = &told["entryPoints"][0];
    assert_eq!(point["virtualServer"], "TCP 10.96.0.1:80", "{told}");
    let reals = serde_json::json!([
        {"endpoint": "10.244.0.2:8080", "weight": 1, "state": "written"},
        {"endpoint": "10.244.0.3:8080", "weight": 1, "state": "written"},
    ]);
    assert_eq!(point["realServers"], reals, "{told}");
    assert_eq!(told["addresses"][0]["on"], "kube-ipvs0", "{told}");
    let at = page("/addresses/10.96.0.1");
    assert_eq!(at["services"], serde_json::json!(["default/web"]));
    assert_eq!(at["entryPoints"].as_array().map(Vec::len), Some(2), "{at}");
    assert_eq!(page("/services")["knownServices"], 1);

    let unknown = ask(PAGES, "/services/default/wep");
    assert!(unknown.starts_with("HTTP/1.1 404 Not Found\r\n"), "{unknown}");
    assert!(unknown.contains("No Service \"wep\" in namespace \"default\" is known here."), "{unknown}");

    put(&manifests, "balanced.yaml", &balanced(32000, false));
    wait_for("it is told of a Service that comes", 10, || {
        ask(PAGES, "/services/default/balanced").contains("\"newConnections\": \"are dropped\"")
    });
    std::fs::remove_file(manifests.join("balanced.yaml")).expect("the manifest");
    wait_for("and of one that goes", 10, || {
        ask(PAGES, "/services/default/balanced").starts_with("HTTP/1.1 404 ")
    });
}

/// `-v 2` logs counts, and `-v 3` names.
pub(crate) fn every_write_is_named_in_the_log_for_who_wants_that() {
    let (folder, common) = empty();
    let manifests = folder.path().join("manifests");
    let mut proxy = start(&folder, "proxy", &common, &["-v", "3"]);
    proxy.wait_synced();
    put(&manifests, "balanced.yaml", &balanced(32000, true));
    let real = "service=\"default/balanced\" object=\"virtual server TCP 10.96.0.9:80\" kind=\"add_real_server\" \
                endpoint=\"10.244.0.8:8080\" weight=1 verdict=\"done\"";
    let address =
        "service=\"default/balanced\" object=\"address 203.0.113.1\" kind=\"add_address\" verdict=\"done\"";
    for line in [real, address] {
        wait_for(&format!("{line}\n{}", proxy.log()), 10, || proxy.log().contains(line));
    }

    drop(proxy);
    let (_folder, proxy) = running();
    assert!(proxy.log().contains("\"Wrote to the kernel\" steps="), "{}", proxy.log());
    assert!(!proxy.log().contains("10.244.0.2"), "{}", proxy.log());
}

pub(crate) fn an_address_in_use_is_tried_again_or_ends_the_program() {
    let (folder, common) = empty();
    let holder = TcpListener::bind("0.0.0.0:10256").expect("the port");
    let mut proxy = start(&folder, "strict", &common, &["--bind-address-hard-fail"]);
    assert_eq!(proxy.wait(), Some(1), "{}", proxy.log());
    let log = proxy.log();
    assert!(log.contains("\"command failed\" err=\"cannot serve healthz on 0.0.0.0:10256: "), "{log}");

    let mut proxy = start(&folder, "patient", &common, &[]);
    proxy.wait_synced();
    let log = proxy.log();
    assert!(log.contains("\"Failed to listen, trying again in 5 seconds\" name=\"healthz\""), "{log}");
    drop(holder);
    wait_for("it listens when it can", 10, || ask("127.0.0.1:10256", "/healthz").contains("200 OK"));
}

/// A table that another program owns cannot be changed: the kernel answers EPERM until that program ends.
pub(crate) fn a_kernel_that_keeps_refusing_makes_the_node_unhealthy() {
    let mut owner =
        Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("nft");
    let mut words = owner.stdin.take().expect("a pipe");
    writeln!(words, "add table ip kube-ipvs {{ flags owner; }}").expect("nft listens");
    words.flush().expect("nft listens");
    wait_for("the table is owned", 10, || shell("nft list tables").contains("table ip kube-ipvs"));

    let (folder, common) = empty();
    let mut proxy = start(&folder, "proxy", &common, &["--ipvs-sync-period", "1s"]);
    proxy.wait_synced();
    for path in ["/healthz", "/livez"] {
        wait_for(&format!("{path}: the node is unhealthy\n{}", proxy.log()), 10, || {
            let answer = ask("127.0.0.1:10256", path);
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("a change has been waiting for ")
        });
    }
    let said = |text: &str| wait_for(&format!("{text}\n{}", proxy.log()), 5, || proxy.log().contains(text));
    said(
        "\"Health checks are answered with 503\" paths=\"/healthz, /livez\" reasons=\"IPv4: a change has been ",
    );
    let body = get("127.0.0.1:10256", "/livez");
    assert!(body.contains("\"IPv4\":{\"lastUpdated\":\"0001-01-01T00:00:00Z\",\"healthy\":false}"), "{body}");
    assert!(body.contains("IPv4: a change has been waiting for "), "{body}");
    assert!(body.contains("Operation not permitted"), "it says what the kernel says: {body}");
    assert!(proxy.count("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "IPv4") > 0);

    drop(words);
    owner.wait().expect("nft ends");
    wait_for(&format!("it is healthy again\n{}", proxy.log()), 30, || {
        let answer = ask("127.0.0.1:10256", "/healthz");
        answer.starts_with("HTTP/1.1 200 ") && !answer.contains("reasons")
    });
    said("\"Health checks are answered with 200\" path=\"/livez\" unhealthySeconds=");
}

/// Somebody holds the lock of iptables while FORWARD drops.
pub(crate) fn where_replies_are_dropped_the_node_is_unhealthy_until_they_are_accepted() {
    shell(
        "iptables-legacy -P FORWARD DROP
         mount -t tmpfs tmpfs /usr/local/sbin
         cd /usr/local/sbin
         printf '#!/bin/sh\necho the lock is held >&2\nexit 4\n' >iptables-legacy-restore
         chmod +x iptables-legacy-restore",
    );
    let (_folder, proxy) = running();
    let health = || ask("127.0.0.1:10256", "/healthz");
    let failures = || get("127.0.0.1:10249", "/metrics").contains("\nkube_ipvs_takeover_failures 1\n");
    wait_for(&format!("the node is unhealthy\n{}", proxy.log()), 20, || {
        health().contains(" 503 ") && failures()
    });
    let answer = health();
    for reason in [
        "\"replies of Services are dropped: FORWARD of iptables-legacy accepts none\"",
        "\"takeover: iptables-legacy filter: /usr/local/sbin/iptables-legacy-restore: the lock is held\"",
    ] {
        assert!(answer.contains(reason), "{reason}: {answer}");
    }
    assert!(ask("127.0.0.1:10256", "/livez").contains(" 200 "), "a restart would not help");
    shell("umount /usr/local/sbin");
    // The program tries again each minute.
    wait_for(&format!("the node is healthy\n{}", proxy.log()), 90, || {
        health().contains(" 200 ") && !failures()
    });
    assert!(!health().contains("reasons"), "{}", health());
}
