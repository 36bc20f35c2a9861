//! What makes a Service reachable besides its cluster IPs.

use super::*;
use crate::cluster::types::External;

#[test]
fn entry_points_besides_the_cluster_ip() {
    let converted = service(
        r#"
metadata:
  name: web
  annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "192.0.2.0/24"}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  externalIPs: [198.51.100.1, 198.51.100.1]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [" 10.0.0.0/9 ", 10.128.0.0/9, "fd00::/8"]
  ports: [{port: 80, nodePort: 30080}]
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: a.example}, {ip: "fd00::1"}]
"#,
    );
    let service = kept(converted);
    assert_eq!(service.internal_policy, Policy::Local);
    assert_eq!(service.ports[0].node_port, Some(30080));
    let wanted = External {
        external_ips: ips(&["198.51.100.1"]),
        load_balancer_ips: ips(&["203.0.113.1", "203.0.113.2", "fd00::1"]),
        policy: Policy::Local,
        source_ranges: nets(&["10.0.0.0/8", "fd00::/8"]),
        health_check_node_port: Some(31000),
        lacks_health_check_node_port: false,
    };
    assert_eq!(service.external.as_deref(), Some(&wanted));
}

/// A Service of a load balancer that is reached at these points.
fn balanced_at(ingress: &str) -> Converted<Service> {
    service(&format!(
        "{{metadata: {{name: web}}, spec: {{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}, \
         status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
    ))
}

#[test]
fn points_of_a_load_balancer() {
    let addresses =
        |ingress: &str| kept(balanced_at(ingress)).external.expect("an address").load_balancer_ips;
    let wanted = ips(&["203.0.113.1"]);
    assert_eq!(addresses("{ip: 203.0.113.1}, {ip: 203.0.113.1}"), wanted, "each address once");
    assert_eq!(addresses("{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: Tunnel}"), wanted, "an unknown mode");
    // In protocol buffers, an absent text may be an empty one.
    assert_eq!(addresses("{ip: '', hostname: lb.example}, {ip: 203.0.113.1, hostname: ''}"), wanted);
    let Converted::Kept { object, problems } = balanced_at("{ip: 203.0.113.1}, {ip: 127.0.0.1}") else {
        panic!("not kept")
    };
    assert_eq!(object.external.expect("an address").load_balancer_ips, wanted);
    let fields: Vec<&str> = problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["status.loadBalancer.ingress[1].ip"]);
}

#[test]
fn one_node_port_is_enough() {
    let ports = "ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: 30081}]";
    assert!(kept(spec(&format!("clusterIP: 10.0.0.1, type: NodePort, {ports}"))).external.is_some());
}

#[test]
fn policies_and_health_checks_have_a_meaning_for_some_types() {
    let external = |fields: &str| kept(with_port(&format!("clusterIP: 10.0.0.1, {fields}"))).external;
    assert_eq!(external("externalTrafficPolicy: Local, healthCheckNodePort: 31000"), None);
    let local =
        "externalTrafficPolicy: Local, healthCheckNodePort: 31000, ports: [{port: 80, nodePort: 30080}]";
    let kept_with = |kind: &str| {
        let fields = format!("clusterIP: 10.0.0.1, type: {kind}, {local}");
        *kept(spec(&fields)).external.expect("a node port")
    };
    assert_eq!(kept_with("ClusterIP").policy, Policy::Cluster, "without external IPs");
    let with_addresses = external("externalIPs: [198.51.100.1], externalTrafficPolicy: Local");
    assert_eq!(with_addresses.expect("an external IP").policy, Policy::Local);
    assert_eq!(kept_with("NodePort").policy, Policy::Local);
    assert_eq!(kept_with("NodePort").health_check_node_port, None);
    assert_eq!(kept_with("LoadBalancer").health_check_node_port, Some(31000));
    let lacks = |port: &str, kind: &str| {
        let local = local.replace("healthCheckNodePort: 31000, ", port);
        let service = kept(spec(&format!("clusterIP: 10.0.0.1, type: {kind}, {local}")));
        service.external.expect("a node port").lacks_health_check_node_port
    };
    assert!(lacks("", "LoadBalancer") && lacks("healthCheckNodePort: 0, ", "LoadBalancer"));
    assert!(!lacks("healthCheckNodePort: 31000, ", "LoadBalancer") && !lacks("", "NodePort"));
    // A change of the policy to Cluster may leave the port behind.
    let of_all_nodes = kept(spec(&format!(
        "clusterIP: 10.0.0.1, type: LoadBalancer, {}",
        local.replace("Local", "Cluster")
    )));
    let of_all_nodes = of_all_nodes.external.expect("a node port");
    assert_eq!((of_all_nodes.policy, of_all_nodes.health_check_node_port), (Policy::Cluster, None));
    assert_eq!(
        refused(with_port("clusterIP: 10.0.0.1, internalTrafficPolicy: local")),
        "Service default/web: spec.internalTrafficPolicy: found \"local\", allowed Cluster or Local"
    );
    assert_eq!(
        refused(with_port("clusterIP: 10.0.0.1, externalTrafficPolicy: local")),
        "Service default/web: spec.externalTrafficPolicy: found \"local\", allowed Cluster or Local"
    );
    assert_eq!(
        refused(spec("clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 70000}]")),
        "Service default/web: spec.ports[0].nodePort: found 70000, allowed 1 to 65535"
    );
}

/// A Service with a load balancer's address and these fields.
fn balanced(fields: &str) -> (External, Vec<String>) {
    let yaml = format!(
        "{{metadata: {{name: web}}, spec: {{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{{port: 80}}], {fields}}}, \
         status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}}}}}"
    );
    let Converted::Kept { object, problems } = service(&yaml) else { panic!("not kept") };
    let problems = problems.iter().map(ToString::to_string).collect();
    (object.external.map_or_else(External::default, |external| *external), problems)
}

#[test]
fn a_load_balancer_without_an_address_may_ask_for_the_nodes_health() {
    let yaml = "{metadata: {name: web}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80}], \
                externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false, healthCheckNodePort: 32000}, \
                status: {loadBalancer: {ingress: [{hostname: lb.example}, {ip: 203.0.113.1, ipMode: Proxy}]}}}";
    for yaml in [yaml.to_owned(), yaml.split(", status").next().map(|spec| format!("{spec}}}")).unwrap()] {
        let Converted::Kept { object, problems } = service(&yaml) else { panic!("not kept") };
        assert_eq!(problems, []);
        let external = object.external.expect("a way from outside");
        assert_eq!((external.policy, external.health_check_node_port), (Policy::Local, Some(32_000)));
        assert_eq!((external.load_balancer_ips, external.external_ips), (ips(&[]), ips(&[])));
    }
}

#[test]
fn source_ranges() {
    assert_eq!(balanced("loadBalancerSourceRanges: [0.0.0.0/0, 10.0.0.0/8]").0.source_ranges, []);
    let (external, problems) = balanced("loadBalancerSourceRanges: [0.0.0.0/0, 'fd00::/8']");
    assert_eq!(external.source_ranges, nets(&["fd00::/8"]), "the other family stays restricted");
    assert_eq!(problems, Vec::<String>::new(), "the address is opened by a range of its family");
    let (external, problems) = balanced("loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.0/33]");
    assert_eq!(external.load_balancer_ips, ips(&[]), "half of a restriction is none");
    assert_eq!(
        problems,
        ["Service default/web: spec.loadBalancerSourceRanges[1]: found \"10.0.0.0/33\", \
          allowed a CIDR (until it is corrected, the load balancer's addresses are not served)"]
    );
    let (external, problems) = balanced("loadBalancerSourceRanges: ['fd00::/8', 10.0.0.0/8]");
    assert_eq!(external.source_ranges.len(), 2, "ranges of both families are usual");
    assert_eq!(problems, Vec::<String>::new());
    let (external, problems) = balanced("loadBalancerSourceRanges: ['fd00::/8']");
    assert_eq!(external.load_balancer_ips, ips(&["203.0.113.1"]));
    assert_eq!(
        problems,
        [
            "Service default/web: spec.loadBalancerSourceRanges: fd00::/8 restricts nothing: the load balancer \
         has no address of this IP family"
        ]
    );
    // Before the load balancer has an address, nothing can be said about it.
    kept(with_port(
        "clusterIP: 10.0.0.1, type: LoadBalancer, externalIPs: [198.51.100.1], \
         loadBalancerSourceRanges: [10.0.0.0/8]",
    ));
    let (external, problems) = balanced("externalIPs: [127.0.0.1, 198.51.100.1]");
    assert_eq!(external.external_ips, ips(&["198.51.100.1"]));
    assert!(problems[0].contains("spec.externalIPs[0]: found \"127.0.0.1\""), "{}", problems[0]);
}

/// An external IP is open to everybody, so listing an address there must not open what is closed.
#[test]
fn an_address_that_is_closed_is_no_external_ip_either() {
    let fields = |range: &str| {
        format!("externalIPs: [203.0.113.1, 198.51.100.1], loadBalancerSourceRanges: [{range}]")
    };
    let (external, problems) = balanced(&fields("10.0.0.0/33"));
    assert_eq!((external.load_balancer_ips, external.external_ips), (ips(&[]), ips(&["198.51.100.1"])));
    assert_eq!(problems.len(), 1, "{problems:?}");
    let (external, _) = balanced(&fields("10.0.0.0/8"));
    assert_eq!(external.load_balancer_ips, ips(&["203.0.113.1"]));
    assert_eq!(
        external.external_ips,
        ips(&["203.0.113.1", "198.51.100.1"]),
        "the ranges are about it in any case"
    );
}

#[test]
fn the_annotation_for_source_ranges_counts_where_there_is_no_field() {
    let annotated = |annotation: &str, spec: &str| {
        let yaml = format!(
            "{{metadata: {{name: web, annotations: {{service.beta.kubernetes.io/load-balancer-source-ranges: '{annotation}'}}}}, \
             spec: {{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{{port: 80}}]{spec}}}, status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}}}}}"
        );
        kept(service(&yaml)).external.expect("an address").source_ranges
    };
    let two = "192.0.2.0/24, 198.51.100.7/32";
    assert_eq!(annotated(two, ""), nets(&["192.0.2.0/24", "198.51.100.7/32"]));
    assert_eq!(annotated(two, ", loadBalancerSourceRanges: [10.0.0.0/8]"), nets(&["10.0.0.0/8"]));
    assert_eq!(annotated("192.0.2.0/24,", ""), nets(&["192.0.2.0/24"]));
    assert_eq!(annotated("", ""), nets(&[]), "a text without ranges restricts nothing");
}

/// An object of 58 KB that would be 2,000,000 virtual servers.
#[test]
fn a_service_with_many_ports_at_many_addresses() {
    let ports: Vec<String> = (1..=1_000).map(|port| format!("{{port: {port}, name: p{port}}}")).collect();
    let addresses: Vec<String> = (0..2_000).map(|n| format!("198.51.{}.{}", n / 250, n % 250)).collect();
    let fields = format!(
        "clusterIP: 10.0.0.1, ports: [{}], externalIPs: [{}]",
        ports.join(", "),
        addresses.join(", ")
    );
    let Converted::Kept { object, problems } = spec(&fields) else { panic!("not kept") };
    assert_eq!(object.ports.len(), 1_000);
    assert_eq!(object.external.expect("addresses").external_ips.len(), 65);
    let [problem] = &problems[..] else { panic!("{} problems", problems.len()) };
    assert_eq!(
        problem.to_string(),
        "Service default/web: spec.externalIPs: 2000 addresses with 1000 ports are too many: only the first 65 \
         are served (external addresses × ports, × source ranges if there are any, are at most 65536)"
    );
    assert!(!problem.is_invalid(), "the API has no such limit");
}
