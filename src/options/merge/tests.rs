use super::*;
use crate::options::{file, flags};

fn flags(words: &[&str]) -> Flags {
    flags::parse(words.iter().map(std::ffi::OsString::from)).unwrap()
}

fn with_flags(words: &[&str]) -> Result<Merged, Problems> {
    merge(flags(words), None, "Host-1\n")
}

fn with_file(words: &[&str], body: &str) -> Result<Merged, Problems> {
    let text = format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{body}");
    merge(flags(words), Some(file::parse(&text).unwrap()), "Host-1")
}

fn defaults() -> Options {
    Options {
        source: Source::Api { kubeconfig: None, master: None },
        node_name: "host-1".into(),
        proxy: ProxyOptions {
            scheduler: "rr".into(),
            timeouts: Timeouts::default(),
            exclude_cidrs: vec![],
            cluster_cidrs: vec![],
            masquerade_all: false,
            masquerade_mark: 1 << 14,
            ..ProxyOptions::default()
        },
        min_sync_period: Duration::ZERO,
        sync_period: Duration::from_secs(30),
        healthz_address: "0.0.0.0:10256".parse().ok(),
        metrics_address: "127.0.0.1:10249".parse().ok(),
        verbosity: 0,
    }
}

#[test]
fn nothing_said_is_the_defaults() {
    assert_eq!(with_flags(&[]).unwrap().options, defaults());
    assert_eq!(with_file(&[], "").unwrap().options, defaults());
    // Empty flags that mean the default, too.
    let words =
        ["--proxy-mode=", "--ipvs-scheduler=", "--cluster-cidr=", "--hostname-override=", "--kubeconfig="];
    assert_eq!(with_flags(&words).unwrap().options, defaults());
    assert_eq!(
        with_flags(&[]).unwrap().notices[0].message,
        "IPVS scheduler not specified, use rr by default"
    );
}

#[test]
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
  excludeCIDRs: ['010.1.0.0/16', 'fd00::1/64']
clusterCIDR: fd00:10::/56,10.244.3.7/16
iptables: {masqueradeAll: true, masqueradeBit: 31}
healthzBindAddress: '::'
metricsBindAddress: '[::1]:8080'
logging: {verbosity: 3}
";
    let wanted = Options {
        source: Source::Api { kubeconfig: Some("/k".into()), master: None },
        node_name: "node".into(),
        proxy: ProxyOptions {
            scheduler: "lc".into(),
            timeouts: Timeouts { tcp_seconds: 900, tcp_fin_seconds: 120, udp_seconds: 5 },
            exclude_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            cluster_cidrs: vec!["fd00:10::/56".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
            masquerade_all: true,
            masquerade_mark: 1 << 31,
            ..ProxyOptions::default()
        },
        min_sync_period: Duration::from_millis(100),
        sync_period: Duration::from_secs(20),
        healthz_address: "[::]:10256".parse().ok(),
        metrics_address: "[::1]:8080".parse().ok(),
        verbosity: 3,
    };
    assert_eq!(with_flags(&words).unwrap(), Merged { options: wanted.clone(), notices: vec![] });
    assert_eq!(with_file(&[], body).unwrap(), Merged { options: wanted, notices: vec![] });
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
        source: Source::Api { kubeconfig: Some("/file".into()), master: Some("https://m".into()) },
        node_name: "flag".into(),
        proxy: ProxyOptions { scheduler: "wlc".into(), ..defaults().proxy },
        verbosity: 7,
        ..defaults()
    };
    assert_eq!(merged.options, wanted);
    let [notice] = merged.notices.as_slice() else { panic!("{:?}", merged.notices) };
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
        (&["--ipvs-exclude-cidrs=10.0.0.0/8,x"], r#"--ipvs-exclude-cidrs: Invalid value: "x": must be networks such as 10.96.0.0/12 or fd00:1::/112"#.into()),
        (&["--cluster-cidr=10.244.0.0"], r#"--cluster-cidr: Invalid value: "10.244.0.0": must be a network such as 10.244.0.0/16, or one of each IP family separated by a comma"#.into()),
        (&["--cluster-cidr=10.1.0.0/16,10.2.0.0/16"], r#"--cluster-cidr: Invalid value: "10.1.0.0/16,10.2.0.0/16": must have at most one network of each IP family"#.into()),
        (&["--iptables-masquerade-bit=32"], r#"--iptables-masquerade-bit: Invalid value: "32": must be within 0 and 31"#.into()),
        (&["--iptables-masquerade-bit=-1"], r#"--iptables-masquerade-bit: Invalid value: "-1": must be within 0 and 31"#.into()),
        (&["--iptables-masquerade-bit=4294967296"], r#"--iptables-masquerade-bit: Invalid value: "4294967296": must be within 0 and 31"#.into()),
        (&["--healthz-bind-address=localhost:1"], format!(r#"--healthz-bind-address: Invalid value: "localhost:1": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:0"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:0": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:65536"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:65536": {LISTEN}"#)),
        (&["--healthz-bind-address=1.2.3.4:+1"], format!(r#"--healthz-bind-address: Invalid value: "1.2.3.4:+1": {LISTEN}"#)),
        (&["--healthz-bind-address=:10256"], format!(r#"--healthz-bind-address: Invalid value: ":10256": {LISTEN}"#)),
        (&["-v=-1"], r#"--v: Invalid value: "-1": must be 0 or more"#.into()),
        (&["--manifests=a", "--kubeconfig=k"], "--manifests and --kubeconfig cannot be used together: choose either files or an API server".into()),
        (&["--manifests=a", "--master=m"], "--manifests and --master cannot be used together: choose either files or an API server".into()),
        (&["--ipvs-sync-period=0", "--iptables-masquerade-bit=99"], r#"--ipvs-sync-period: Invalid value: "0s": must be longer than 0; --iptables-masquerade-bit: Invalid value: "99": must be within 0 and 31"#.into()),
    ] {
        assert_eq!(with_flags(words).unwrap_err().to_string(), line, "{words:?}");
    }
    assert_eq!(
        merge(Flags::default(), None, "").unwrap_err().to_string(),
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
