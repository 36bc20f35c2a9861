use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::options::conntrack::ConntrackOptions;
use crate::options::proxy::{LocalDetector, NodePortAddresses};
use crate::options::settings::Level;
use crate::options::{Estimator, LogFormat, file, flags};

fn flags(words: &[&str]) -> Flags {
    flags::parse(words.iter().map(std::ffi::OsString::from)).unwrap()
}

fn with_flags(words: &[&str]) -> Result<Merged, Problems> {
    merge(flags(words), None, std::iter::empty(), "Host-1\n")
}

fn with_file(words: &[&str], body: &str) -> Result<Merged, Problems> {
    let text = format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{body}");
    merge(flags(words), Some(file::parse(&text).unwrap()), std::iter::empty(), "Host-1")
}

#[test]
fn cleanup_works_for_a_node_with_another_mode_by_now() {
    for mode in ["iptables", "nftables"] {
        for word in ["--cleanup", "--cleanup-own"] {
            assert!(with_file(&[word], &format!("mode: {mode}")).is_ok(), "{mode} {word}");
            assert!(with_flags(&[word, "--proxy-mode", mode]).is_ok(), "{mode} {word}");
        }
        assert!(with_file(&["--cleanup=false"], &format!("mode: {mode}")).is_err(), "{mode}");
    }
    assert!(with_file(&["--cleanup"], "mode: nonsense").is_err());
}

#[test]
fn ipvs_keeps_idle_connections_as_long_as_connection_tracking_or_as_it_can() {
    for (timeout, wanted) in [
        ("0s", 86_400),
        ("1h", 3_600),
        ("2147483s", 2_147_483),
        ("2147484s", 2_147_483),
        // More than fits into 32 bits.
        ("2000000h", 2_147_483),
    ] {
        let merged = with_flags(&["--conntrack-tcp-timeout-established", timeout]).unwrap();
        assert_eq!(merged.options.proxy.tracked_tcp_seconds, wanted, "{timeout}");
        let merged = with_file(&[], &format!("conntrack: {{tcpEstablishedTimeout: {timeout}}}")).unwrap();
        assert_eq!(merged.options.proxy.tracked_tcp_seconds, wanted, "{timeout}");
    }
}

fn defaults() -> Options {
    Options {
        source: Source::Api { kubeconfig: None, master: None, protobuf: true },
        node_name: "host-1".into(),
        proxy: ProxyOptions {
            scheduler: "rr".into(),
            timeouts: Timeouts::default(),
            tracked_tcp_seconds: 86_400,
            exclude_cidrs: vec![],
            local_detector: LocalDetector::ClusterCidr,
            cluster_cidrs: vec![],
            masquerade_all: false,
            masquerade_mark: 1 << 14,
            node_port_addresses: NodePortAddresses::default(),
            external_ips: true,
            bind_address: None,
            strict_arp: false,
            sloppy_sctp: false,
            watch_all_nodes: false,
            run_estimation: None,
            drain_deadline: Duration::from_mins(15),
        },
        conntrack: ConntrackOptions {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established_seconds: 86_400,
            tcp_close_wait_seconds: 3_600,
            tcp_be_liberal: false,
            udp_seconds: 0,
            udp_stream_seconds: 0,
        },
        estimator: Estimator::Auto,
        oom_score_adjustment: -999,
        min_sync_period: Duration::ZERO,
        sync_period: Duration::from_secs(30),
        healthz_address: "0.0.0.0:10256".parse().ok(),
        metrics_address: "127.0.0.1:10249".parse().ok(),
        bind_address_hard_fail: false,
        profiling: false,
        verbosity: 0,
        log_format: LogFormat::Text,
        config_file: None,
        init_only: false,
    }
}

#[test]
fn nothing_said_is_the_defaults() {
    assert_eq!(with_flags(&[]).unwrap().options, defaults());
    assert_eq!(with_file(&[], "").unwrap().options, defaults());
    // Empty flags that mean the default, too.
    let words = [
        "--proxy-mode=",
        "--ipvs-scheduler=",
        "--cluster-cidr=",
        "--hostname-override=",
        "--kubeconfig=",
        "--bind-address=",
    ];
    assert_eq!(with_flags(&words).unwrap().options, defaults());
    let address =
        with_flags(&["--bind-address=192.0.2.1", "--bind-address="]).unwrap().options.proxy.bind_address;
    assert_eq!(address, "192.0.2.1".parse().ok(), "it takes nothing back");
    assert_eq!(
        with_flags(&[]).unwrap().notices[0].message,
        "IPVS scheduler not specified, use rr by default"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn flags_and_file_say_the_same() {
    let words = [
        "--kubeconfig=/k",
        "--hostname-override= NODE ",
        "--proxy-mode=ipvs",
        "--ipvs-scheduler=lc",
        "--ipvs-tcp-timeout=15m",
        "--ipvs-tcpfin-timeout=2m",
        "--ipvs-udp-timeout=5.9s",
        "--ipvs-min-sync-period=100ms",
        "--ipvs-sync-period=20s",
        "--ipvs-exclude-cidrs=010.1.0.0/16,fd00::1/64",
        "--cluster-cidr=fd00:10::/56,10.244.3.7/16",
        "--masquerade-all",
        "--iptables-masquerade-bit=31",
        "--healthz-bind-address=::",
        "--metrics-bind-address=[::1]:8080",
        "-v=3",
        "--logging-format=json",
        "--detect-local-mode=InterfaceNamePrefix",
        "--pod-interface-name-prefix=cali",
        "--nodeport-addresses=192.0.2.7/24,fd00:2::/64",
        "--bind-address=fd00::7",
        "--bind-address-hard-fail",
        "--profiling",
        "--ipvs-strict-arp",
        "--oom-score-adj=-998",
        "--conntrack-max-per-core=0",
        "--conntrack-min=5",
        "--conntrack-tcp-timeout-established=1h",
        "--conntrack-tcp-timeout-close-wait=1.5s",
        "--conntrack-tcp-be-liberal",
        "--conntrack-udp-timeout=30s",
        "--conntrack-udp-timeout-stream=1m",
    ];
    let body = "
clientConnection: {kubeconfig: /k}
hostnameOverride: ' NODE '
mode: ipvs
ipvs:
  scheduler: lc
  tcpTimeout: 15m
  tcpFinTimeout: 2m
  udpTimeout: 5.9s
  minSyncPeriod: 100ms
  syncPeriod: 20s
  strictARP: true
  excludeCIDRs: ['010.1.0.0/16', 'fd00::1/64']
clusterCIDR: fd00:10::/56,10.244.3.7/16
iptables: {masqueradeAll: true, masqueradeBit: 31}
healthzBindAddress: '::'
metricsBindAddress: '[::1]:8080'
logging: {verbosity: 3, format: json}
detectLocalMode: InterfaceNamePrefix
detectLocal: {interfaceNamePrefix: cali, bridgeInterface: ignored in this mode}
nodePortAddresses: [192.0.2.7/24, 'fd00:2::/64']
bindAddress: fd00::7
bindAddressHardFail: true
enableProfiling: true
oomScoreAdj: -998
conntrack:
  maxPerCore: 0
  min: 5
  tcpEstablishedTimeout: 1h
  tcpCloseWaitTimeout: 1.5s
  tcpBeLiberal: true
  udpTimeout: 30s
  udpStreamTimeout: 1m
";
    let wanted = Options {
        source: Source::Api { kubeconfig: Some("/k".into()), master: None, protobuf: true },
        node_name: "node".into(),
        proxy: ProxyOptions {
            scheduler: "lc".into(),
            timeouts: Timeouts { tcp_seconds: 900, tcp_fin_seconds: 120, udp_seconds: 5 },
            tracked_tcp_seconds: 3_600,
            exclude_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            local_detector: LocalDetector::InterfaceNamePrefix("cali".into()),
            // Of another mode.
            cluster_cidrs: vec![],
            masquerade_all: true,
            masquerade_mark: 1 << 31,
            node_port_addresses: NodePortAddresses {
                networks: vec!["192.0.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()],
                primary: false,
            },
            bind_address: "fd00::7".parse().ok(),
            strict_arp: true,
            ..defaults().proxy
        },
        conntrack: ConntrackOptions {
            max_per_core: 0,
            min: 5,
            tcp_established_seconds: 3_600,
            tcp_close_wait_seconds: 1,
            tcp_be_liberal: true,
            udp_seconds: 30,
            udp_stream_seconds: 60,
        },
        oom_score_adjustment: -998,
        min_sync_period: Duration::from_millis(100),
        sync_period: Duration::from_secs(20),
        healthz_address: "[::]:10256".parse().ok(),
        metrics_address: "[::1]:8080".parse().ok(),
        bind_address_hard_fail: true,
        profiling: true,
        verbosity: 3,
        log_format: LogFormat::Json,
        ..defaults()
    };
    for merged in [with_flags(&words).unwrap(), with_file(&[], body).unwrap()] {
        assert_eq!((merged.options, merged.notices), (wanted.clone(), vec![]));
    }
}

#[test]
fn a_file_replaces_flags_but_for_a_few() {
    let words = [
        "--config=x",
        "--kubeconfig=/flag",
        "--ipvs-scheduler=lc",
        "--masquerade-all",
        "--healthz-bind-address=",
        "--master=https://m",
        "--hostname-override=flag",
        "-v=7",
    ];
    let body = "clientConnection: {kubeconfig: /file}\nhostnameOverride: file\nlogging: {verbosity: 1}\n\
                ipvs: {scheduler: wlc}";
    let merged = with_file(&words, body).unwrap();
    let wanted = Options {
        source: Source::Api {
            kubeconfig: Some("/file".into()),
            master: Some("https://m".into()),
            protobuf: true,
        },
        node_name: "flag".into(),
        proxy: ProxyOptions { scheduler: "wlc".into(), ..defaults().proxy },
        verbosity: 7,
        config_file: Some("x".into()),
        ..defaults()
    };
    assert_eq!(merged.options, wanted);
    let [notice] = merged.notices.as_slice() else { panic!("{:?}", merged.notices) };
    assert_eq!(notice.level, Level::Warning);
    assert_eq!(notice.detail, "--kubeconfig, --ipvs-scheduler, --masquerade-all, --healthz-bind-address");
    // An empty flag is no override, and -v=0 is one.
    let merged = with_file(&["--hostname-override=", "-v=0"], body).unwrap();
    assert_eq!((&*merged.options.node_name, merged.options.verbosity), ("file", 0));
}

#[test]
fn manifests_are_a_source_of_their_own() {
    let wanted = Source::Manifests(vec!["a".into(), "b".into()]);
    assert_eq!(with_flags(&["--manifests=a", "--manifests=b"]).unwrap().options.source, wanted);
    assert_eq!(with_file(&["--manifests=a", "--manifests=b"], "").unwrap().options.source, wanted);
    // The flag does not count beside a file.
    assert_eq!(
        with_file(&["--manifests=a", "--manifests=b", "--kubeconfig=k"], "").unwrap().options.source,
        wanted
    );
}

#[test]
fn addresses_to_listen_on() {
    for (text, healthz, metrics) in [
        ("", None, None),
        ("0.0.0.0", Some("0.0.0.0:10256"), Some("0.0.0.0:10249")),
        ("010.0.0.1", Some("10.0.0.1:10256"), Some("10.0.0.1:10249")),
        ("::", Some("[::]:10256"), Some("[::]:10249")),
        ("[::1]", Some("[::1]:10256"), Some("[::1]:10249")),
        ("1.2.3.4:1", Some("1.2.3.4:1"), Some("1.2.3.4:1")),
        ("[fd00::1]:65535", Some("[fd00::1]:65535"), Some("[fd00::1]:65535")),
    ] {
        let address = |text: Option<&str>| text.map(|text| text.parse::<SocketAddr>().unwrap());
        let words = [format!("--healthz-bind-address={text}"), format!("--metrics-bind-address={text}")];
        let options = with_flags(&[&words[0], &words[1]]).unwrap().options;
        assert_eq!(options.healthz_address, address(healthz), "{text}");
        assert_eq!(options.metrics_address, address(metrics), "{text}");
    }
    // The file's bindAddress moves the defaults to its family.
    let options = with_file(&[], "bindAddress: '::'").unwrap().options;
    assert_eq!(options.healthz_address, "[::]:10256".parse().ok());
    assert_eq!(options.metrics_address, "[::1]:10249".parse().ok());
}

#[test]
fn wrong_flags_are_named() {
    const LISTEN: &str = "must be an IP address with a port from 1 to 65535, such as 0.0.0.0:10256";
    for (words, line) in [
        (&["--proxy-mode=iptables"][..], r#"--proxy-mode: Invalid value: "iptables": must be "ipvs" or empty; for mode iptables use kube-proxy"#.to_owned()),
        (&["--proxy-mode=nftables"], r#"--proxy-mode: Invalid value: "nftables": must be "ipvs" or empty; for mode nftables use kube-proxy"#.into()),
        (&["--proxy-mode=IPVS"], r#"--proxy-mode: Invalid value: "IPVS": must be "ipvs" or empty"#.into()),
        (&["--hostname-override=  "], r#"--hostname-override: Invalid value: "  ": must not be blank"#.into()),
        (&["--ipvs-tcp-timeout=-1s"], r#"--ipvs-tcp-timeout: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--ipvs-udp-timeout=6000h"], r#"--ipvs-udp-timeout: Invalid value: "6000h0m0s": must not be longer than 5965h13m56s, the longest that a kernel takes"#.into()),
        (&["--ipvs-sync-period=0"], r#"--ipvs-sync-period: Invalid value: "0s": must be longer than 0"#.into()),
        (&["--ipvs-min-sync-period=-1s"], r#"--ipvs-min-sync-period: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--ipvs-min-sync-period=31s"], r#"--ipvs-min-sync-period: Invalid value: "31s": must not be longer than --ipvs-sync-period, which is 30s"#.into()),
        (&["--ipvs-exclude-cidrs=10.0.0.0/8,x"], r#"--ipvs-exclude-cidrs[1]: Invalid value: "x": must be a network such as 10.96.0.0/12 or fd00:1::/112"#.into()),
        (&["--cluster-cidr=10.244.0.0"], r#"--cluster-cidr: Invalid value: "10.244.0.0": must be a network such as 10.244.0.0/16, or one of each IP family separated by a comma"#.into()),
        (&["--cluster-cidr=10.1.0.0/16,10.2.0.0/16"], r#"--cluster-cidr: Invalid value: "10.1.0.0/16,10.2.0.0/16": must have at most one network of each IP family"#.into()),
        (&["--iptables-masquerade-bit=32"], r#"--iptables-masquerade-bit: Invalid value: "32": must be within 0 and 31"#.into()),
        (&["--iptables-masquerade-bit=-1"], r#"--iptables-masquerade-bit: Invalid value: "-1": must be within 0 and 31"#.into()),
        (&["--iptables-masquerade-bit=2147483647"], r#"--iptables-masquerade-bit: Invalid value: "2147483647": must be within 0 and 31"#.into()),
        (&["--healthz-bind-address=localhost:1"], format!(r#"--healthz-bind-address: Invalid value: "localhost:1": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:0"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:0": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:65536"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:65536": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:+1"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:+1": {LISTEN}"#)),
        (&["--healthz-bind-address=:10256"], format!(r#"--healthz-bind-address: Invalid value: ":10256": {LISTEN}"#)),
        (&["--healthz-port=65536"], r#"--healthz-port: Invalid value: "65536": must be within 0 and 65535"#.into()),
        (&["--metrics-port=-1"], r#"--metrics-port: Invalid value: "-1": must be within 0 and 65535"#.into()),
        (&["--detect-local-mode=nodecidr"], r#"--detect-local-mode: Invalid value: "nodecidr": must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or empty"#.into()),
        (&["--detect-local-mode=BridgeInterface"], r#"--pod-bridge-interface: Invalid value: "": must not be empty where --detect-local-mode is BridgeInterface"#.into()),
        (&["--detect-local-mode=InterfaceNamePrefix"], r#"--pod-interface-name-prefix: Invalid value: "": must not be empty where --detect-local-mode is InterfaceNamePrefix"#.into()),
        (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=sixteen-letters-"], r#"--pod-bridge-interface: Invalid value: "sixteen-letters-": must not be longer than 15 bytes: no name of an interface of Linux is"#.into()),
        (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=a b"], r#"--pod-bridge-interface: Invalid value: "a b": must not contain a slash or white space: no name of an interface does"#.into()),
        (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=brü0"], r#"--pod-bridge-interface: Invalid value: "brü0": must be of printable ASCII characters without a quotation mark"#.into()),
        (&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=a\"b"], r#"--pod-interface-name-prefix: Invalid value: "a\"b": must be of printable ASCII characters without a quotation mark"#.into()),
        (&["--nodeport-addresses=10.0.0.0/8,x"], r#"--nodeport-addresses[1]: Invalid value: "x": must be a network such as 192.0.2.0/24 or fd00:1::/64, or one of the words primary, localhost and all"#.into()),
        (&["--nodeport-addresses=primary,10.0.0.0/8,primary"], r#"--nodeport-addresses[2]: Invalid value: "primary": must be given once only"#.into()),
        (&["--nodeport-addresses=all", "--nodeport-addresses=all"], r#"--nodeport-addresses[1]: Invalid value: "all": must be given once only"#.into()),
        (&["--bind-address=x"], r#"--bind-address: Invalid value: "x": must be an IP address"#.into()),
        (&["--oom-score-adj=1001"], r#"--oom-score-adj: Invalid value: "1001": must be within -1000 and 1000"#.into()),
        (&["--conntrack-max-per-core=-1"], r#"--conntrack-max-per-core: Invalid value: "-1": must be 0 or more"#.into()),
        (&["--conntrack-min=-1"], r#"--conntrack-min: Invalid value: "-1": must be 0 or more"#.into()),
        (&["--conntrack-tcp-timeout-established=-1s"], r#"--conntrack-tcp-timeout-established: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--conntrack-tcp-timeout-close-wait=-1s"], r#"--conntrack-tcp-timeout-close-wait: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--conntrack-udp-timeout=-1s"], r#"--conntrack-udp-timeout: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--conntrack-udp-timeout-stream=-1s"], r#"--conntrack-udp-timeout-stream: Invalid value: "-1s": must be 0 or longer"#.into()),
        (&["--config-sync-period=0"], r#"--config-sync-period: Invalid value: "0s": must be longer than 0"#.into()),
        (&["--kube-api-burst=-1"], r#"--kube-api-burst: Invalid value: "-1": must be 0 or more"#.into()),
        (&["--logging-format=xml"], r#"--logging-format: Invalid value: "xml": must be text or json"#.into()),
        (&["-v=-1"], r#"--v: Invalid value: "-1": must be 0 or more"#.into()),
        (&["--manifests=a", "--kubeconfig=k"], "--manifests and --kubeconfig cannot be used together: choose either files or an API server".into()),
        (&["--manifests=a", "--master=m"], "--manifests and --master cannot be used together: choose either files or an API server".into()),
        (&["--ipvs-sync-period=0", "--iptables-masquerade-bit=99"], r#"--ipvs-sync-period: Invalid value: "0s": must be longer than 0; --iptables-masquerade-bit: Invalid value: "99": must be within 0 and 31"#.into()),
    ] {
        assert_eq!(with_flags(words).unwrap_err().to_string(), line, "{words:?}");
    }
    assert_eq!(
        merge(Flags::default(), None, std::iter::empty(), "").unwrap_err().to_string(),
        "the host has no name: give one with --hostname-override"
    );
}

#[test]
fn wrong_fields_are_named() {
    for (body, line) in [
        (
            "mode: iptables",
            r#"KubeProxyConfiguration.mode: Invalid value: "iptables": must be "ipvs" or empty; for mode iptables use kube-proxy"#,
        ),
        (
            "ipvs: {tcpTimeout: -1s}",
            r#"KubeProxyConfiguration.ipvs.tcpTimeout: Invalid value: "-1s": must be 0 or longer"#,
        ),
        (
            "ipvs: {minSyncPeriod: 31s}",
            r#"KubeProxyConfiguration.ipvs.minSyncPeriod: Invalid value: "31s": must not be longer than KubeProxyConfiguration.ipvs.syncPeriod, which is 30s"#,
        ),
        (
            "iptables: {masqueradeBit: 32}",
            r#"KubeProxyConfiguration.iptables.masqueradeBit: Invalid value: "32": must be within 0 and 31"#,
        ),
        (
            "bindAddress: x",
            r#"KubeProxyConfiguration.bindAddress: Invalid value: "x": must be an IP address"#,
        ),
        (
            "hostnameOverride: ' '",
            r#"KubeProxyConfiguration.hostnameOverride: Invalid value: " ": must not be blank"#,
        ),
        (
            "metricsBindAddress: x",
            r#"KubeProxyConfiguration.metricsBindAddress: Invalid value: "x": must be an IP address with a port from 1 to 65535, such as 127.0.0.1:10249"#,
        ),
    ] {
        assert_eq!(with_file(&[], body).unwrap_err().to_string(), line, "{body:?}");
    }
    // List items, and what only the file has.
    for (body, line) in [
        (
            "ipvs: {excludeCIDRs: [10.0.0.0/8, x]}",
            r#"ipvs.excludeCIDRs[1]: Invalid value: "x": must be a network such as 10.96.0.0/12 or fd00:1::/112"#,
        ),
        (
            "nodePortAddresses: [x]",
            r#"nodePortAddresses[0]: Invalid value: "x": must be a network such as 192.0.2.0/24 or fd00:1::/64, or one of the words primary, localhost and all"#,
        ),
        (
            "detectLocalMode: BridgeInterface",
            r#"detectLocal.bridgeInterface: Invalid value: "": must not be empty where KubeProxyConfiguration.detectLocalMode is BridgeInterface"#,
        ),
        ("oomScoreAdj: -1001", r#"oomScoreAdj: Invalid value: "-1001": must be within -1000 and 1000"#),
        ("conntrack: {min: -1}", r#"conntrack.min: Invalid value: "-1": must be 0 or more"#),
        ("conntrack: {maxPerCore: -1}", r#"conntrack.maxPerCore: Invalid value: "-1": must be 0 or more"#),
        (
            "conntrack: {tcpEstablishedTimeout: -1s}",
            r#"conntrack.tcpEstablishedTimeout: Invalid value: "-1s": must be 0 or longer"#,
        ),
        ("configSyncPeriod: -1s", r#"configSyncPeriod: Invalid value: "-1s": must be longer than 0"#),
        (
            "clientConnection: {burst: -1}",
            r#"clientConnection.burst: Invalid value: "-1": must be 0 or more"#,
        ),
        ("logging: {format: xml}", r#"logging.format: Invalid value: "xml": must be text or json"#),
        ("logging: {verbosity: -1}", r#"logging.verbosity: Invalid value: "-1": must be 0 or more"#),
        (
            "kubeIPVS: {drainDeadline: -1s}",
            r#"kubeIPVS.drainDeadline: Invalid value: "-1s": must be 0 or longer"#,
        ),
    ] {
        let wanted = format!("KubeProxyConfiguration.{line}");
        assert_eq!(with_file(&[], body).unwrap_err().to_string(), wanted, "{body:?}");
    }
    // The flag is named where it is the flag that is wrong.
    assert_eq!(
        with_file(&["--hostname-override= "], "hostnameOverride: good").unwrap_err().to_string(),
        r#"--hostname-override: Invalid value: " ": must not be blank"#
    );
    assert_eq!(
        with_file(&["--manifests=a"], "clientConnection: {kubeconfig: /k}").unwrap_err().to_string(),
        "--manifests and KubeProxyConfiguration.clientConnection.kubeconfig cannot be used together: choose either \
         files or an API server"
    );
}

#[test]
fn a_timeout_that_the_kernel_cannot_count_is_noticed() {
    let merged = with_flags(&["--ipvs-scheduler=rr", "--ipvs-tcp-timeout=900ms"]).unwrap();
    assert_eq!(merged.options.proxy.timeouts.tcp_seconds, 0);
    let [notice] = merged.notices.as_slice() else { panic!("{:?}", merged.notices) };
    assert_eq!(notice.detail, "--ipvs-tcp-timeout=900ms");
}

#[test]
fn pods_are_known_in_four_ways() {
    for (words, wanted) in [
        (&["--detect-local-mode="][..], LocalDetector::ClusterCidr),
        (&["--detect-local-mode=ClusterCIDR"], LocalDetector::ClusterCidr),
        (&["--detect-local-mode=NodeCIDR"], LocalDetector::NodeCidr),
        // Networks that do not count are not checked, as in kube-proxy.
        (&["--detect-local-mode=NodeCIDR", "--cluster-cidr=x"], LocalDetector::NodeCidr),
        (
            &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
            LocalDetector::BridgeInterface("cni0".into()),
        ),
        (
            &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"],
            LocalDetector::InterfaceNamePrefix("veth".into()),
        ),
    ] {
        assert_eq!(with_flags(words).unwrap().options.proxy.local_detector, wanted, "{words:?}");
    }
    let options = with_flags(&["--cluster-cidr=fd00:10::/56,10.244.3.7/16"]).unwrap().options;
    let wanted = ["fd00:10::/56".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
    assert_eq!(options.proxy.cluster_cidrs, wanted);
}

#[test]
fn node_ports_are_where_it_is_said() {
    for (words, primary, networks) in [
        (&["--nodeport-addresses="][..], false, &[][..]),
        (&["--nodeport-addresses=primary"], true, &[]),
        (
            &["--nodeport-addresses=192.0.2.1/24", "--nodeport-addresses=010.0.0.0/8"],
            false,
            &["192.0.2.0/24", "10.0.0.0/8"],
        ),
        (&["--nodeport-addresses=all"], false, &["0.0.0.0/0", "::/0"]),
        (&["--nodeport-addresses=localhost"], false, &["127.0.0.0/8", "::1/128"]),
        (
            &["--nodeport-addresses=localhost,fd00::/64,primary", "--nodeport-addresses=all"],
            true,
            &["127.0.0.0/8", "::1/128", "fd00::/64", "0.0.0.0/0", "::/0"],
        ),
    ] {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let found = with_flags(words).unwrap().options.proxy.node_port_addresses;
        assert_eq!(found, NodePortAddresses { networks, primary }, "{words:?}");
    }
}

#[test]
fn node_ports_on_loopback_addresses_are_none_and_that_is_said() {
    let told = |merged: Merged| {
        let about = |notice: &&Notice| notice.message == "Node ports are not served on loopback addresses";
        merged.notices.iter().filter(about).map(|notice| notice.detail.clone()).collect::<Vec<_>>()
    };
    for (list, wanted) in [
        ("localhost", Some(" has no other network of IPv4 and IPv6: its node ports are served nowhere")),
        ("127.0.0.1/32,fd00::/64", Some(" has no other network of IPv4: its node ports are served nowhere")),
        ("localhost,192.0.2.0/24", Some(" has no other network of IPv6: its node ports are served nowhere")),
        ("localhost,primary", Some("")),
        ("all,localhost", Some("")),
        ("all,primary", None),
        ("192.0.2.0/24", None),
        ("", None),
    ] {
        let flag = with_flags(&[&format!("--nodeport-addresses={list}")]).unwrap();
        let place = |place: &str| wanted.map(|rest| format!("{place}{rest}")).into_iter().collect::<Vec<_>>();
        assert_eq!(told(flag), place("--nodeport-addresses"), "{list}");
        let items: Vec<_> =
            list.split(',').filter(|item| !item.is_empty()).map(|item| format!("'{item}'")).collect();
        let file = with_file(&[], &format!("nodePortAddresses: [{}]", items.join(", "))).unwrap();
        assert_eq!(told(file), place("KubeProxyConfiguration.nodePortAddresses"), "{list}");
    }
}

#[test]
fn the_least_time_between_writes_is_nothing_unless_somebody_says_so() {
    for (flags, body, shown, used) in [
        (&[][..], None, "1s", Duration::ZERO),
        (&["--ipvs-min-sync-period=1s"], None, "1s", Duration::from_secs(1)),
        (&[], Some(""), "0s", Duration::ZERO),
        (&["--ipvs-min-sync-period=1s"], Some(""), "0s", Duration::ZERO),
        (&[], Some("ipvs: {minSyncPeriod: 2s}"), "2s", Duration::from_secs(2)),
    ] {
        let merged = body.map_or_else(|| with_flags(flags), |body| with_file(flags, body)).unwrap();
        assert_eq!(merged.options.min_sync_period, used, "{flags:?} {body:?}");
        assert_eq!(merged.configuration.ipvs.min_sync_period.to_string(), shown, "{flags:?} {body:?}");
    }
    // A period that is shorter than the default of another mode is no contradiction.
    assert!(with_flags(&["--ipvs-sync-period=500ms"]).is_ok());
}

#[test]
fn deprecated_ports_fill_a_gap_or_switch_off() {
    for (words, healthz, metrics) in [
        (&["--healthz-port=1", "--metrics-port=2"][..], Some("0.0.0.0:10256"), Some("127.0.0.1:10249")),
        (
            &[
                "--healthz-port=1",
                "--healthz-bind-address=1.2.3.4",
                "--metrics-bind-address=::1",
                "--metrics-port=2",
            ],
            Some("1.2.3.4:1"),
            Some("[::1]:2"),
        ),
        (&["--healthz-port=0", "--metrics-port=0"], None, None),
        (&["--bind-address=::"], Some("0.0.0.0:10256"), Some("127.0.0.1:10249")),
    ] {
        let options = with_flags(words).unwrap().options;
        let address = |text: Option<&str>| text.map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(options.healthz_address, address(healthz), "{words:?}");
        assert_eq!(options.metrics_address, address(metrics), "{words:?}");
    }
    // A file knows no such flag.
    assert!(with_file(&["--healthz-port=0"], "").unwrap().options.healthz_address.is_some());
}

#[test]
fn logging_flags_count_beside_a_file() {
    let words = ["-v=2", "--logging-format=json", "--vmodule=a=1", "--log-flush-frequency=1s"];
    let body = "logging: {verbosity: 1, format: text, vmodule: [{filePattern: b, verbosity: 2}]}";
    let logging = with_file(&words, body).unwrap().configuration.logging;
    assert_eq!((logging.verbosity, &*logging.format), (2, "json"));
    assert_eq!(logging.flush_frequency.0, GoDuration::from_seconds(1));
    let patterns: Vec<_> = logging.vmodule.iter().map(|module| &*module.file_pattern).collect();
    assert_eq!(patterns, ["a", "b"]);
    let logging = with_file(&[], body).unwrap().configuration.logging;
    assert_eq!((logging.verbosity, &*logging.format), (1, "text"));
}

#[test]
fn flags_in_vain_are_told_once() {
    let notices =
        with_flags(&["--ipvs-scheduler=rr", "--kube-api-qps=50", "--proxy-port-range=x"]).unwrap().notices;
    let wanted = Notice::detail(
        "Flags have no effect in this program",
        "--kube-api-qps, --proxy-port-range".to_owned(),
    );
    assert_eq!(notices, [wanted]);
}

/// An unknown gate ends kube-proxy. It would end this program at each new release that has one more.
#[test]
fn one_feature_gate_counts_and_the_others_are_told() {
    const GATE: &str = "AllowServiceExternalIPs";
    let off =
        || Notice::info("External IPs of Services are not served", format!("feature gate {GATE} is false"));
    let in_vain =
        |gates: &str| Notice::detail("Feature gates have no effect in this program", gates.to_owned());
    for (written, external_ips, notices) in [
        (&[][..], true, vec![]),
        (&[(GATE, true)], true, vec![]),
        (&[(GATE, false)], false, vec![off()]),
        (&[("AllAlpha", false), ("AllBeta", false)], true, vec![in_vain("AllAlpha, AllBeta")]),
        (&[("X", true), (GATE, false), ("A", false)], false, vec![in_vain("A, X"), off()]),
    ] {
        let list = |between: &str| {
            let items = written.iter().map(|(gate, on)| format!("{gate}{between}{on}"));
            items.collect::<Vec<_>>().join(",")
        };
        let flag = format!("--feature-gates={}", list("="));
        let body = format!("featureGates: {{{}}}\nipvs: {{scheduler: rr}}", list(": "));
        for merged in [with_flags(&["--ipvs-scheduler=rr", &flag]), with_file(&[], &body)] {
            let merged = merged.unwrap();
            assert_eq!((merged.options.proxy.external_ips, merged.notices), (external_ips, notices.clone()));
        }
    }
    // A file says all about gates, as about most else.
    assert!(
        with_file(&["--feature-gates=AllowServiceExternalIPs=false"], "").unwrap().options.proxy.external_ips
    );
}

#[test]
fn fields_in_vain_are_told_once() {
    let detail = |body: &str| {
        let notices = with_file(&[], &format!("ipvs: {{scheduler: rr}}\n{body}")).unwrap().notices;
        notices.first().map(|notice| notice.detail.clone()).unwrap_or_default()
    };
    for (body, fields) in [
        ("", ""),
        ("clientConnection: {qps: 5, burst: 10}\nconfigSyncPeriod: 15m", ""),
        (
            "clientConnection: {contentType: application/json, qps: 50, burst: 100}",
            "clientConnection.qps, clientConnection.burst",
        ),
        ("portRange: x", "portRange"),
        (
            "configSyncPeriod: 1m\nshowHiddenMetricsForVersion: '1.35'",
            "configSyncPeriod, showHiddenMetricsForVersion",
        ),
        (
            "logging: {flushFrequency: 1s, vmodule: [{filePattern: a, verbosity: 1}], options: {text: {splitStream: true}}}",
            "logging.flushFrequency, logging.vmodule, logging.options",
        ),
    ] {
        assert_eq!(detail(body), fields, "{body}");
    }
}

#[test]
fn our_own_options_come_from_the_file_or_the_environment() {
    let body = "ipvs: {scheduler: rr}\nkubeIPVS: {drainDeadline: 1m, estimator: off, sloppySCTP: true}";
    let options = with_file(&[], body).unwrap().options;
    assert_eq!(options.proxy.drain_deadline, Duration::from_mins(1));
    assert_eq!((options.estimator, options.proxy.sloppy_sctp), (Estimator::Off, true));
    let variables = [("KUBE_IPVS_DRAIN_DEADLINE".into(), "2m".into())].into_iter();
    let merged = merge(Flags::default(), None, variables, "h").unwrap();
    assert_eq!(merged.options.proxy.drain_deadline, Duration::from_mins(2));
    let variables = [("KUBE_IPVS_DRAIN_DEADLINE".into(), "2".into())].into_iter();
    let problems = merge(flags(&["-v=-1"]), None, variables, "h").unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
}

#[test]
fn objects_come_in_protocol_buffers_unless_json_is_preferred() {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let warnings = |merged: &Merged| {
        let about = |notice: &&Notice| notice.message.starts_with("Objects come");
        merged.notices.iter().filter(about).map(|notice| notice.detail.clone()).collect::<Vec<_>>()
    };
    let asked = |merged: Merged| {
        let Source::Api { protobuf, .. } = merged.options.source else { panic!("no API server") };
        (protobuf, warnings(&merged))
    };
    for (accepted, named, protobuf) in [
        ("", "", true),
        ("", PROTOBUF, true),
        ("", "application/json", false),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json", true),
        ("text/plain, application/json;q=0.9, application/vnd.kubernetes.protobuf", PROTOBUF, false),
        ("*/*", PROTOBUF, false),
    ] {
        let body = format!("clientConnection: {{acceptContentTypes: '{accepted}', contentType: '{named}'}}");
        assert_eq!(asked(with_file(&[], &body).unwrap()), (protobuf, vec![]), "{body}");
    }
    assert_eq!(asked(with_flags(&["--kube-api-content-type=application/json"]).unwrap()), (false, vec![]));
    let (protobuf, told) = asked(with_flags(&["--kube-api-content-type=application/yaml"]).unwrap());
    assert!(
        protobuf && told[0].starts_with("--kube-api-content-type: \"application/yaml\": allowed"),
        "{told:?}"
    );
    let (protobuf, told) = asked(with_file(&[], "clientConnection: {acceptContentTypes: a}").unwrap());
    assert!(
        protobuf && told[0].starts_with("clientConnection.acceptContentTypes: \"a\": allowed"),
        "{told:?}"
    );
}
