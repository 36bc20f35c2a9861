mod external;

use k8s_openapi::serde::Deserialize;

use super::*;
use crate::cluster::types::{
    Endpoint, Family, Hints, Policy, ServiceKey, ServicePort, SliceKey, SlicePort, Uid,
};

fn read<'a, T: Deserialize<'a>>(yaml: &'a str) -> T {
    serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{error} in:\n{yaml}"))
}

fn service(yaml: &str) -> Converted<Service> {
    Converter::new().service(&read(yaml))
}

fn slice(yaml: &str) -> Converted<EndpointSlice> {
    Converter::new().slice(&read(yaml))
}

/// A Service `default/web` with this spec.
fn spec(spec: &str) -> Converted<Service> {
    service(&format!("{{metadata: {{name: web}}, spec: {{{spec}}}}}"))
}

/// A Service with a port 80 and these fields.
fn with_port(fields: &str) -> Converted<Service> {
    spec(&format!("ports: [{{port: 80}}], {fields}"))
}

#[track_caller]
fn kept<T>(converted: Converted<T>) -> T {
    match converted {
        Converted::Kept { object, problems } if problems.is_empty() => object,
        Converted::Kept { problems, .. } => panic!("{}", problems[0]),
        Converted::Ignored => panic!("ignored"),
        Converted::Refused(problem) => panic!("{problem}"),
    }
}

#[track_caller]
fn refused<T>(converted: Converted<T>) -> String {
    match converted {
        Converted::Refused(problem) => problem.to_string(),
        Converted::Kept { .. } => panic!("kept"),
        Converted::Ignored => panic!("ignored"),
    }
}

#[track_caller]
fn assert_ignored<T>(converted: Converted<T>) {
    match converted {
        Converted::Ignored => {}
        Converted::Kept { .. } => panic!("kept"),
        Converted::Refused(problem) => panic!("{problem}"),
    }
}

fn ips(texts: &[&str]) -> Vec<std::net::IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_whole_service() {
    let converted = service(
        r#"
metadata:
  {namespace: shop, name: web, uid: 0c5a7bde-f012-4034-8967-89abcdef0100, creationTimestamp: "2026-03-01T00:00:05Z"}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, "fd00::7"]
  ipFamilies: [IPv4, IPv6]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns}
  - {name: sig, port: 65535, protocol: SCTP}
"#,
    );
    assert_eq!(
        kept(converted),
        Service {
            key: ServiceKey::new("shop", "web"),
            uid: Uid::parse("0c5a7bde-f012-4034-8967-89abcdef0100"),
            created_seconds: 1_772_323_205,
            cluster_ips: ips(&["10.96.0.7", "fd00::7"]),
            ports: vec![
                ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None },
                ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: None },
                ServicePort { name: "sig".into(), protocol: Protocol::Sctp, port: 65535, node_port: None },
            ],
            affinity_seconds: Some(600),
            internal_policy: Policy::Cluster,
            external: None,
            remarks: None,
        }
    );
}

#[test]
fn defaults_of_a_service() {
    let service = kept(with_port("clusterIP: 10.96.0.7"));
    assert_eq!(service.key, ServiceKey::new("default", "web"));
    assert_eq!((service.uid, service.created_seconds), (None, 0));
    let strange =
        "{metadata: {name: web, uid: the-first}, spec: {ports: [{port: 80}], clusterIP: 10.96.0.7}}";
    assert_eq!(kept(self::service(strange)), service, "a uid that is none is as good as none");
    assert_eq!(service.affinity_seconds, None);
    assert_eq!(
        service.ports,
        [ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }]
    );
    // In protocol buffers, an absent text may be an empty one.
    let empty = kept(spec("clusterIP: 10.96.0.7, ports: [{port: 80, name: '', protocol: ''}]"));
    assert_eq!(empty.ports, service.ports);
    let empty = kept(fields("addressType: IPv4, ports: [{port: 80, name: '', protocol: ''}]"));
    assert_eq!(empty.ports, [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }]);
    assert_eq!(
        kept(with_port("clusterIP: 10.0.0.1, sessionAffinity: ClientIP")).affinity_seconds,
        Some(10_800)
    );
}

/// An API server writes the defaults into an object, and in protocol buffers an absent text may be an empty one, and an
/// absent number a 0.
#[test]
fn defaults_that_are_written_out() {
    let absent = kept(with_port("clusterIP: 10.96.0.7"));
    for written in [
        "type: '', sessionAffinity: '', internalTrafficPolicy: '', externalTrafficPolicy: ''",
        "type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster",
    ] {
        let written = format!("clusterIP: 10.96.0.7, {written}, ports: [{{port: 80, nodePort: 0}}]");
        assert_eq!(kept(spec(&written)), absent, "{written}");
    }
    let nowhere = "{metadata: {name: web, namespace: ''}, spec: {ports: [{port: 80}], clusterIP: 10.96.0.7}}";
    assert_eq!(kept(service(nowhere)), absent);
}

#[test]
fn services_that_are_none_of_ours() {
    assert_ignored(with_port("clusterIP: None"));
    assert_ignored(with_port("clusterIPs: [None]"));
    assert_ignored(with_port("clusterIPs: [10.96.0.7, None]"));
    assert_ignored(with_port(""));
    assert_ignored(with_port("clusterIP: ''"));
    assert_ignored(with_port("type: ExternalName, externalName: example.org, clusterIP: 10.96.0.7"));
    for value in ["''", "other"] {
        let converted = service(&format!(
            "{{metadata: {{name: a, labels: {{service.kubernetes.io/service-proxy-name: {value}}}}}, \
             spec: {{clusterIP: nonsense}}}}"
        ));
        assert_ignored(converted);
    }
}

#[test]
fn cluster_ips_by_family() {
    let addresses = |fields: &str| kept(with_port(fields)).cluster_ips;
    assert_eq!(addresses("clusterIP: 10.96.0.7"), ips(&["10.96.0.7"]));
    assert_eq!(addresses("clusterIP: 010.096.0.07"), ips(&["10.96.0.7"]));
    assert_eq!(addresses("clusterIP: '::ffff:10.96.0.7'"), ips(&["10.96.0.7"]));
    assert_eq!(addresses("clusterIP: 010.96.0.7, clusterIPs: [10.96.0.7]"), ips(&["10.96.0.7"]));
    assert_eq!(addresses("clusterIPs: ['fd00::7', 10.96.0.7]"), ips(&["fd00::7", "10.96.0.7"]));
    // An address left behind by a change to a single family.
    assert_eq!(addresses("clusterIPs: [10.96.0.7, 'fd00::7'], ipFamilies: [IPv4]"), ips(&["10.96.0.7"]));

    let line = |fields: &str| refused(with_port(fields));
    assert_eq!(
        line("clusterIP: 10.96.0.256"),
        "Service default/web: spec.clusterIP: found \"10.96.0.256\", \
         allowed an IP address that can be a service address, or None"
    );
    assert!(line("clusterIPs: [10.0.0.1, x]").contains("spec.clusterIPs[1]: found \"x\""));
    assert!(line("clusterIPs: [10.0.0.1, 10.0.0.2]").ends_with("allowed at most one address of each family"));
    assert!(line("clusterIP: 10.0.0.9, clusterIPs: [10.0.0.1]").ends_with("spec.clusterIP, \"10.0.0.9\""));
    assert!(line("clusterIPs: [10.0.0.1], ipFamilies: [IPv6]").ends_with("spec.ipFamilies[0], \"IPv6\""));
    for special in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
        assert!(line(&format!("clusterIP: '{special}'")).contains(special));
    }
}

#[test]
fn ports_of_services() {
    let line = |ports: &str| refused(spec(&format!("clusterIP: 10.0.0.1, ports: [{ports}]")));
    let head = "Service default/web: spec.ports";
    assert_eq!(line(""), format!("{head}: found nothing, allowed at least one port"));
    assert_eq!(line("{}"), format!("{head}[0].port: found 0, allowed 1 to 65535"));
    assert_eq!(line("{port: 0}"), format!("{head}[0].port: found 0, allowed 1 to 65535"));
    assert_eq!(line("{port: -1}"), format!("{head}[0].port: found -1, allowed 1 to 65535"));
    assert_eq!(
        line("{name: a, port: 1}, {name: b, port: 65536}"),
        format!("{head}[1].port: found 65536, allowed 1 to 65535")
    );
    assert_eq!(
        line("{port: 80, protocol: tcp}"),
        format!("{head}[0].protocol: found \"tcp\", allowed TCP, UDP or SCTP")
    );
    assert_eq!(
        line("{name: a, port: 80}, {name: b, port: 80}"),
        format!("{head}[1].port: found 80 (TCP) again, allowed each port once")
    );
    assert_eq!(
        line("{port: 80}, {port: 81}"),
        format!("{head}[1].name: found \"\" again, allowed a name of its own for each of several ports")
    );
    // The same number, or the same name, for two protocols is no conflict.
    let dns = "clusterIP: 10.0.0.1, ports: [{port: 53}, {port: 53, protocol: UDP}]";
    assert_eq!(kept(spec(dns)).ports.len(), 2);
}

#[test]
fn affinity_of_services() {
    let with = |fields: &str| with_port(&format!("clusterIP: 10.0.0.1, {fields}"));
    assert!(
        refused(with("sessionAffinity: ClientIp")).ends_with("found \"ClientIp\", allowed ClientIP or None")
    );
    for (seconds, wanted) in
        [("1", Some(1)), ("86400", Some(86400)), ("0", None), ("-1", None), ("86401", None)]
    {
        let converted = with(&format!(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        ));
        match wanted {
            Some(wanted) => assert_eq!(kept(converted).affinity_seconds, Some(wanted)),
            None => assert!(refused(converted).ends_with(&format!("found {seconds}, allowed 1 to 86400"))),
        }
    }
    // At a port where IPVS would do other things with affinity, the Service is served without it.
    for (port, is_told) in [
        ("port: 21", true),
        ("port: 2121, nodePort: 21", true),
        ("name: web, port: 80}, {name: ftp, port: 21", true),
        ("port: 21, protocol: UDP", false),
        ("port: 22", false),
    ] {
        let text = format!(
            "{{metadata: {{name: web}}, spec: {{clusterIP: 10.0.0.1, ports: [{{{port}}}], sessionAffinity: ClientIP}}}}"
        );
        let Converted::Kept { object, problems } = service(&text) else { panic!("{port} is served") };
        assert_eq!(object.affinity_seconds, Some(10_800));
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let start = "Service default/web: spec.sessionAffinity: \"ClientIP\" is not served at TCP port 21: ";
        assert_eq!(lines.len(), usize::from(is_told), "{port}: {lines:?}");
        assert!(!problems.iter().any(Problem::is_invalid), "the API allows it: {lines:?}");
        assert!(lines.iter().all(|line| line.starts_with(start)), "{lines:?}");
        assert_eq!(object.remarks.as_deref(), lines.first().map(String::as_str));
    }
    // Without affinity, the timeout has no meaning, and no limits.
    assert_eq!(kept(with("sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}")).affinity_seconds, None);
}

#[test]
fn a_service_without_a_name_or_of_a_new_type() {
    let line = refused(service("{metadata: {namespace: shop}, spec: {clusterIP: 10.0.0.1}}"));
    assert_eq!(line, "Service shop/(no name): metadata.name: found nothing, allowed a name");

    let Converted::Kept { object, problems } = with_port("clusterIP: 10.0.0.1, type: Anycast") else {
        panic!("a cluster IP must not go because of a type from the future");
    };
    assert_eq!(object.cluster_ips, ips(&["10.0.0.1"]));
    assert!(
        problems[0].to_string().starts_with("Service default/web: spec.type: found \"Anycast\", allowed ")
    );
}

#[test]
fn a_whole_slice() {
    let converted = slice(
        r#"
metadata:
  namespace: shop
  name: web-x7k
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2026-03-01T00:00:05.000000007Z"}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
- {port: 5353, protocol: UDP}
- {name: all}
endpoints:
- {addresses: [10.1.0.1, nonsense], nodeName: a}
- {addresses: ["::ffff:10.1.0.02"], conditions: {}, nodeName: ""}
- {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}, nodeName: a}
- {addresses: [10.1.0.4], conditions: {ready: false}}
- {addresses: [10.1.0.5], conditions: {ready: true, serving: false}}
"#,
    );
    let endpoint = |address: &str, ready, serving, terminating, node: Option<&str>| Endpoint {
        address: address.parse().unwrap(),
        ready,
        serving,
        terminating,
        node: node.map(Into::into),
        hints: None,
    };
    assert_eq!(
        kept(converted),
        EndpointSlice {
            key: SliceKey::new("shop", "web-x7k"),
            service: ServiceKey::new("shop", "web"),
            family: Family::V4,
            ports: vec![
                SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 },
                SlicePort { name: "".into(), protocol: Protocol::Udp, port: 5353 },
            ],
            endpoints: vec![
                endpoint("10.1.0.1", true, true, false, Some("a")),
                endpoint("10.1.0.2", true, true, false, None),
                endpoint("10.1.0.3", false, true, true, Some("a")),
                endpoint("10.1.0.4", false, true, false, None),
                endpoint("10.1.0.5", true, false, false, None),
            ],
            triggered_nanoseconds: Some(1_772_323_205_000_000_007),
        }
    );
}

/// A slice `default/s` of Service `web`.
fn fields(fields: &str) -> Converted<EndpointSlice> {
    slice(&format!("{{metadata: {{name: s, labels: {{kubernetes.io/service-name: web}}}}, {fields}}}"))
}

#[test]
fn hints_of_endpoints() {
    let slice = kept(fields(
        "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n}]}}, \
         {addresses: [10.0.0.2], hints: {}}, {addresses: [10.0.0.3], hints: {forNodes: [{name: n}]}}]",
    ));
    let hints = Hints { zones: vec!["a".into(), "b".into()], nodes: vec!["n".into()] };
    assert_eq!(slice.endpoints[0].hints.as_deref(), Some(&hints));
    assert_eq!(slice.endpoints[1].hints, None);
    let hints = Hints { zones: Vec::new(), nodes: vec!["n".into()] };
    assert_eq!(slice.endpoints[2].hints.as_deref(), Some(&hints));
}

#[test]
fn slices_that_are_none_of_ours() {
    assert_ignored(fields("addressType: FQDN"));
    assert_ignored(slice("{metadata: {name: s}, addressType: IPv4}"));
    for label in ["kubernetes.io/service-name: ''", "other: web"] {
        let yaml = format!("{{metadata: {{name: s, labels: {{{label}}}}}, addressType: IPv4}}");
        assert_ignored(slice(&yaml));
    }
    let headless = "{metadata: {name: s, labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}}}";
    assert_ignored(slice(headless));
}

#[test]
fn a_bad_endpoint_or_port_leaves_the_others() {
    let Converted::Kept { object, problems } = fields(
        "addressType: IPv4, \
         ports: [{port: 0}, {name: b, port: 70000}, {name: c, port: 80, protocol: QUIC}, {name: d, port: 80}], \
         endpoints: [{addresses: [10.0.0.300]}, {addresses: []}, {addresses: ['fd00::1']}, {addresses: [10.0.0.1]}]",
    ) else {
        panic!("not kept")
    };
    assert_eq!(object.ports.len(), 1);
    assert_eq!(&*object.ports[0].name, "d");
    assert_eq!(object.endpoints.len(), 1);
    assert_eq!(object.endpoints[0].address.to_string(), "10.0.0.1");
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "EndpointSlice default/s: ports[0].port: found 0, allowed 1 to 65535",
            "EndpointSlice default/s: ports[1].port: found 70000, allowed 1 to 65535",
            "EndpointSlice default/s: ports[2].protocol: found \"QUIC\", allowed TCP, UDP or SCTP",
            "EndpointSlice default/s: endpoints[0].addresses[0]: found \"10.0.0.300\", \
             allowed an IPv4 address (addressType is IPv4)",
            "EndpointSlice default/s: endpoints[1].addresses: found nothing, allowed at least one address",
            "EndpointSlice default/s: endpoints[2].addresses[0]: found \"fd00::1\", \
             allowed an IPv4 address (addressType is IPv4)",
        ]
    );
}

#[test]
fn special_endpoint_addresses() {
    for (family, address) in [
        ("IPv4", "0.0.0.0"),
        ("IPv4", "127.0.0.1"),
        ("IPv4", "169.254.169.254"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "239.1.2.3"),
        ("IPv4", "255.255.255.255"),
        ("IPv4", "::ffff:127.0.0.1"),
        ("IPv6", "::"),
        ("IPv6", "::1"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
    ] {
        let converted = fields(&format!("addressType: {family}, endpoints: [{{addresses: ['{address}']}}]"));
        let Converted::Kept { object, problems } = converted else { panic!("not kept") };
        assert_eq!(object.endpoints, [], "{address}");
        let is_said =
            matches!(&problems[0].judgement, Judgement::Invalid(allowed) if allowed.contains("loopback"));
        assert!(is_said, "{address}: {}", problems[0]);
    }
}

#[test]
fn unknown_address_types() {
    let head = "EndpointSlice default/s: addressType: found ";
    assert_eq!(refused(fields("endpoints: []")), format!("{head}nothing, allowed IPv4, IPv6 or FQDN"));
    assert_eq!(refused(fields("addressType: ipv4")), format!("{head}\"ipv4\", allowed IPv4, IPv6 or FQDN"));
}

#[test]
fn trigger_times() {
    let time = |text: &str| {
        let labels = "labels: {kubernetes.io/service-name: web}";
        let annotations =
            format!("annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{text}'}}");
        kept(slice(&format!("{{metadata: {{name: s, {labels}, {annotations}}}, addressType: IPv4}}")))
            .triggered_nanoseconds
    };
    assert_eq!(time("1970-01-01T00:00:01Z"), Some(1_000_000_000));
    assert_eq!(time("1970-01-01T01:00:01.5+01:00"), Some(1_500_000_000));
    assert_eq!(time("yesterday"), None);
    assert_eq!(time("9999-12-30T00:00:00Z"), None);
}

#[test]
fn nodes() {
    let node = |yaml: &str| kept(Converter::new().node(&read(yaml)));
    let whole = node(
        "
metadata: {name: a, labels: {topology.kubernetes.io/zone: west}}
spec: {taints: [{key: other, effect: NoSchedule}], podCIDR: 10.9.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
status:
  addresses:
  - {type: Hostname, address: 192.0.2.9}
  - {type: ExternalIP, address: 198.51.100.1}
  - {type: InternalIP, address: host.example}
  - {type: InternalIP}
  - {type: InternalIP, address: 192.0.2.01}
  - {type: InternalIP, address: 'fd00::1'}
",
    );
    let wanted = Node {
        name: "a".into(),
        addresses: ips(&["192.0.2.1", "fd00::1", "198.51.100.1"]),
        zone: Some("west".into()),
        pod_cidrs: nets(&["10.1.0.0/24", "fd00:1::/64"]),
        eligible: true,
    };
    assert_eq!(whole, wanted);
    assert!(node("metadata: {name: a}").eligible);
    assert_eq!(node("{metadata: {name: a}, spec: {podCIDR: 10.9.0.0/24}}").pod_cidrs, nets(&["10.9.0.0/24"]));
    assert!(!node("metadata: {name: a, deletionTimestamp: '2026-03-01T00:00:05Z'}").eligible);
    let tainted = "{metadata: {name: a}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: X}]}}";
    assert!(!node(tainted).eligible);
    let among_others = tainted.replace("[{key", "[{key: first}, {key").replace("}]", "}, {key: last}]");
    assert!(!node(&among_others).eligible);
    assert_eq!(node("{metadata: {name: a, labels: {topology.kubernetes.io/zone: ''}}}").zone, None);
    assert_eq!(
        refused(Converter::new().node(&read("{}"))),
        "Node (no name): metadata.name: found nothing, allowed a name"
    );
}

#[test]
fn text_that_repeats_is_held_once_and_not_for_ever() {
    let mut texts = Texts::default();
    let first = texts.share("default");
    assert!(Arc::ptr_eq(&first, &texts.share("default")));
    for number in 0..100 * Texts::FEW {
        texts.share(&number.to_string());
    }
    assert!(texts.held.len() <= 2 * Texts::FEW, "{}", texts.held.len());
    assert!(Arc::ptr_eq(&first, &texts.share("default")), "in use, so not forgotten");
}

/// To go through all texts for each new one would take time that grows with the square of their number.
#[test]
fn texts_in_use_are_gone_through_once_in_a_while() {
    let mut texts = Texts::default();
    let in_use: Vec<_> = (0..=Texts::FEW).map(|number| texts.share(&number.to_string())).collect();
    for number in 1..Texts::FEW {
        texts.share(&format!("unused {number}"));
        assert_eq!(texts.held.len(), in_use.len() + number);
    }
    texts.share("one more than twice as many");
    assert_eq!(texts.held.len(), in_use.len() + 1);
}

#[test]
fn what_is_short_is_said_in_full() {
    let said = |count: usize, length: usize| {
        let wrong = format!("{}, ", "x".repeat(length)).repeat(count);
        let converted = with_port(&format!("clusterIP: 10.0.0.1, externalIPs: [{wrong}]"));
        let Converted::Kept { object, .. } = converted else { panic!("not kept") };
        object.remarks.expect("a problem")
    };
    assert!(!said(10, 1).contains(" more"), "ten are all said: {}", said(10, 1));
    let eleven = said(11, 1);
    assert!(eleven.ends_with("; and 1 more") && !eleven.contains("externalIPs[10]"), "{eleven}");
    // With the quotation marks, as much as is quoted.
    assert!(!said(1, 254).contains('…') && said(1, 255).contains('…'), "{}", said(1, 254));
}

/// An object may have as many problems as fit into it, and as long ones.
#[test]
fn of_many_problems_the_first_are_said_and_the_others_counted() {
    let wrong = format!("\"{}\", ", "ä".repeat(1000)).repeat(500);
    let Converted::Kept { object, problems } =
        with_port(&format!("clusterIP: 10.0.0.1, externalIPs: [{wrong}]"))
    else {
        panic!("not kept");
    };
    assert_eq!(problems.len(), 500);
    let said = object.remarks.unwrap();
    assert!(said.ends_with("; and 490 more") && said.contains("spec.externalIPs[9]"), "{said}");
    assert!(said.contains("ä…") && said.len() < 10_000, "{} bytes", said.len());
}
