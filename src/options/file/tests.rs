use super::*;

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn parse_body(body: &str) -> Result<Loaded, FileError> {
    parse(&format!("{HEADER}{body}"))
}

fn settings(body: &str) -> Settings {
    parse_body(body).unwrap_or_else(|error| panic!("{body}: {error}")).settings
}

/// As kubeadm writes it.
const KUBEADM: &str = r#"
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ipvs
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
windowsRunAsService: false
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn what_kubeadm_writes_means_the_defaults() {
    let loaded = parse_body(KUBEADM).unwrap();
    assert_eq!(
        loaded.settings,
        Settings {
            kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
            mode: Some("ipvs".into()),
            cluster_cidr: Some("10.244.0.0/16".into()),
            bind_address: Some("0.0.0.0".into()),
            masquerade_all: Some(false),
            ..Settings::default()
        }
    );
    assert_eq!(loaded.notices, []);
}

#[test]
fn every_setting_is_read() {
    let time = |seconds| Some(GoDuration::from_seconds(seconds));
    let body = r"
clientConnection: {kubeconfig: /k}
hostnameOverride: Node-1
mode: ipvs
ipvs:
  scheduler: lc
  excludeCIDRs: [10.0.0.0/8, 'fd00::/8']
  syncPeriod: 1m
  minSyncPeriod: 2s
  tcpTimeout: 15m0s
  tcpFinTimeout: 3s
  udpTimeout: 4s
iptables: {masqueradeBit: 0, masqueradeAll: yes}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
bindAddress: '::'
healthzBindAddress: 127.0.0.1
metricsBindAddress: 0.0.0.0:1
logging: {verbosity: 3}
";
    let wanted = Settings {
        kubeconfig: Some("/k".into()),
        hostname_override: Some("Node-1".into()),
        mode: Some("ipvs".into()),
        scheduler: Some("lc".into()),
        tcp_timeout: time(900),
        tcp_fin_timeout: time(3),
        udp_timeout: time(4),
        min_sync_period: time(2),
        sync_period: time(60),
        exclude_cidrs: Some(vec!["10.0.0.0/8".into(), "fd00::/8".into()]),
        cluster_cidr: Some("10.244.0.0/16,fd00:10:244::/56".into()),
        masquerade_all: Some(true),
        masquerade_bit: Some(0),
        bind_address: Some("::".into()),
        healthz_bind_address: Some("127.0.0.1".into()),
        metrics_bind_address: Some("0.0.0.0:1".into()),
        verbosity: Some(3),
    };
    assert_eq!(settings(body), wanted);
}

#[test]
fn json_works_as_it_is() {
    let text = "{\n\t\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\",\n\t\"kind\": \"KubeProxyConfiguration\",\n\
                \t\"ipvs\": {\"udpTimeout\": \"5s\", \"scheduler\": null}\n}\n";
    let wanted = Settings { udp_timeout: Some(GoDuration::from_seconds(5)), ..Settings::default() };
    assert_eq!(parse(text).unwrap().settings, wanted);
}

#[test]
fn nothing_is_nothing_however_it_is_said() {
    for body in [
        "",
        "ipvs:",
        "ipvs: null\niptables: ~\nlogging: {}\nclientConnection:\n",
        "mode: null",
        "mode: \"\"",
        "ipvs: {tcpTimeout: 0}",
        "ipvs: {tcpTimeout: \"\"}",
        "ipvs: {tcpTimeout: 0s, syncPeriod: null}",
        "hostnameOverride:",
        "logging: {verbosity: 0}",
        "conntrack: {maxPerCore: 0}",
    ] {
        let loaded = parse_body(body).unwrap();
        assert_eq!((loaded.settings, loaded.notices), (Settings::default(), vec![]), "{body:?}");
    }
}

#[test]
fn yaml_1_1_words_are_truth_values() {
    for (word, wanted) in [("yes", true), ("on", true), ("Y", true), ("true", true), ("True", true)]
        .into_iter()
        .chain([("no", false), ("off", false), ("n", false), ("false", false)])
    {
        let body = format!("iptables: {{masqueradeAll: {word}}}");
        assert_eq!(settings(&body).masquerade_all, Some(wanted), "{word}");
    }
}

#[test]
fn what_is_only_not_strict_is_a_notice() {
    for (body, detail) in [
        ("mod: ipvs", "unknown field \"mod\""),
        ("ipvs: {schedular: rr}\nx: {y: 1}", "unknown field \"ipvs.schedular\", unknown field \"x\""),
        ("conntrack: {maxPerNode: 1}", "unknown field \"conntrack.maxPerNode\""),
    ] {
        let notices = parse_body(body).unwrap().notices;
        let [notice] = notices.as_slice() else { panic!("{body}: {notices:?}") };
        assert_eq!(notice.message, "Using lenient decoding as strict decoding failed", "{body}");
        assert_eq!(notice.detail, detail, "{body}");
    }
}

#[test]
fn the_last_of_duplicates_wins() {
    let loaded =
        parse_body("ipvs: {scheduler: lc, bogus: 1, scheduler: wlc}\nmode: iptables\nmode: ipvs").unwrap();
    assert_eq!(loaded.settings.scheduler.as_deref(), Some("wlc"));
    assert_eq!(loaded.settings.mode.as_deref(), Some("ipvs"));
    assert_eq!(
        loaded.notices[0].detail,
        "ipvs: duplicate field `scheduler` at line 3 column 7, unknown field \"ipvs.bogus\""
    );
}

#[test]
fn fields_without_effect_are_named() {
    let body = "nodePortAddresses: [primary]\nipvs: {strictARP: true}\nconntrack: {min: 5, udpTimeout: 0s}\n\
                detectLocalMode: ClusterCIDR\nnftables: {masqueradeBit: 3}\nconfigSyncPeriod: 15m";
    let notices = parse_body(body).unwrap().notices;
    let [notice] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!(notice.detail, "nodePortAddresses, conntrack.min, configSyncPeriod, ipvs.strictARP");
}

#[test]
fn what_is_wrong_is_named_with_field_and_line() {
    for (body, line) in [
        (
            "hostnameOverride: 5",
            "hostnameOverride: must be a string, found the number 5: write it in quotes at line 3 column 19",
        ),
        ("mode: [ipvs]", "mode: must be a string, found a list at line 3 column 7"),
        ("ipvs: 5", "ipvs: invalid type: integer `5`, expected a mapping at line 3 column 7"),
        (
            "ipvs:\n  tcpTimeout: 30",
            "ipvs.tcpTimeout: Invalid value: 30: a duration needs a unit: write for example 30s at line 4 column 15",
        ),
        (
            "ipvs:\n  tcpTimeout: 1d",
            "ipvs.tcpTimeout: Invalid value: \"1d\": unknown unit in a duration: allowed are ns, us, ms, s, m and h at line 4 column 15",
        ),
        (
            "ipvs:\n  excludeCIDRs: 10.0.0.0/8",
            "ipvs.excludeCIDRs: invalid type: string \"10.0.0.0/8\", expected a sequence at line 4 column 17",
        ),
        (
            "ipvs:\n  excludeCIDRs: [a, 5]",
            "ipvs.excludeCIDRs[1]: must be a string, found the number 5: write it in quotes at line 4 column 21",
        ),
        (
            "iptables:\n  masqueradeBit: \"14\"",
            "iptables.masqueradeBit: must be a whole number, found \"14\" at line 4 column 18",
        ),
        (
            "iptables:\n  masqueradeAll: maybe",
            "iptables.masqueradeAll: must be true or false, found \"maybe\" at line 4 column 18",
        ),
        (
            "logging:\n  verbosity: 1.5",
            "logging.verbosity: must be a whole number, found the number 1.5 at line 4 column 14",
        ),
    ] {
        let error = parse_body(body).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to decode: {line}"), "{body}");
    }
    // Said twice and wrong beside: both are told.
    assert_eq!(
        parse_body("mode: a\nmode: b\niptables:\n  masqueradeAll: maybe").unwrap_err().to_string(),
        "failed lenient decoding: iptables.masqueradeAll: must be true or false, found \"maybe\" (strict: duplicate \
         field `mode`)"
    );
}

#[test]
fn another_kind_of_file_is_refused() {
    for (text, line) in [
        ("", "apiVersion: Required value: must be \"kubeproxy.config.k8s.io/v1alpha1\""),
        ("mode: ipvs", "apiVersion: Required value: must be \"kubeproxy.config.k8s.io/v1alpha1\""),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {ipvs: 5}",
            "apiVersion: Invalid value: \"v1\": must be \"kubeproxy.config.k8s.io/v1alpha1\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: KubeProxyConfiguration",
            "apiVersion: Invalid value: \"kubeproxy.config.k8s.io/v1alpha2\": must be \"kubeproxy.config.k8s.io/v1alpha1\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
            "kind: Required value: must be \"KubeProxyConfiguration\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration",
            "kind: Invalid value: \"KubeletConfiguration\": must be \"KubeProxyConfiguration\"",
        ),
        ("hello", "invalid type: string \"hello\", expected a mapping with apiVersion, kind and settings"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to decode: {line}"), "{text:?}");
    }
}

#[test]
fn a_syntax_error_has_a_line() {
    let error = parse_body("ipvs:\n  scheduler: [rr\nmode: ipvs\n").unwrap_err().to_string();
    assert!(error.starts_with("failed to decode: ") && error.contains("line 5"), "{error}");
}

#[test]
fn only_the_first_document_counts() {
    let text = format!("---\n{HEADER}mode: ipvs\n---\nmode: 5\n");
    assert_eq!(parse(&text).unwrap().settings.mode.as_deref(), Some("ipvs"));
}
