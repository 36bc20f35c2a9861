mod listening;
mod node;
mod refused;
mod source;
mod times;
mod told;

use std::time::Duration;

use super::*;
use crate::options::conntrack::ConntrackOptions;
use crate::options::proxy::{LocalDetector, NodePortAddresses};
use crate::options::settings::Level;
use crate::options::{Estimator, file, flags};
use crate::state::InterfaceName;

fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).unwrap()
}

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
        for word in ["--cleanup", "--cleanup-own", "--cleanup-own-stay"] {
            assert!(with_file(&[word], &format!("mode: {mode}")).is_ok(), "{mode} {word}");
            assert!(with_flags(&[word, "--proxy-mode", mode]).is_ok(), "{mode} {word}");
        }
        assert!(with_file(&["--cleanup=false"], &format!("mode: {mode}")).is_err(), "{mode}");
    }
    assert!(with_file(&["--cleanup"], "mode: nonsense").is_err());
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
    // Empty flags mean the default, too.
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
            local_detector: LocalDetector::InterfaceNamePrefix(interface("cali")),
            // Ignored: of another mode.
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
    // An empty flag overrides nothing; -v=0 does.
    let merged = with_file(&["--hostname-override=", "-v=0"], body).unwrap();
    assert_eq!((&*merged.options.node_name, merged.options.verbosity), ("file", 0));
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
    assert_eq!(problems.texts.len(), 2, "{problems}");
}
