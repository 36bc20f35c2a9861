//! What the running program answers others.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::tools::wait_for;
use crate::{put, running};

/// The whole answer; empty where nobody listens.
fn ask(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
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
