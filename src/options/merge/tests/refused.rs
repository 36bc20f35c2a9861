//! Errors name what is wrong, and what is allowed.

use super::*;

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
        (&["--healthz-bind-address=1:2:3:4:5:6:7:8:9"], format!(r#"--healthz-bind-address: Invalid value: "1:2:3:4:5:6:7:8:9": {LISTEN}"#)),
        (&["--healthz-bind-address=:10256"], format!(r#"--healthz-bind-address: Invalid value: ":10256": {LISTEN}"#)),
        (&["--healthz-port=65536"], r#"--healthz-port: Invalid value: "65536": must be within 0 and 65535"#.into()),
        (&["--metrics-port=-1"], r#"--metrics-port: Invalid value: "-1": must be within 0 and 65535"#.into()),
        (&["--detect-local-mode=nodecidr"], r#"--detect-local-mode: Invalid value: "nodecidr": must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or empty"#.into()),
        (&["--detect-local-mode=BridgeInterface"], r#"--pod-bridge-interface: Invalid value: "": must not be empty where --detect-local-mode is BridgeInterface"#.into()),
        (&["--detect-local-mode=InterfaceNamePrefix"], r#"--pod-interface-name-prefix: Invalid value: "": must not be empty where --detect-local-mode is InterfaceNamePrefix"#.into()),
        (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=sixteen-letters-"], r#"--pod-bridge-interface: Invalid value: "sixteen-letters-": must be at most 15 bytes long, as all interface names of Linux are"#.into()),
        (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=a b"], r#"--pod-bridge-interface: Invalid value: "a b": must not contain a slash or white space, which interface names cannot have"#.into()),
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
    // List items, and fields that only the file has.
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
    // The flag is named where the flag is wrong.
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
fn a_scheduler_has_a_name_that_a_kernel_can_have_it_by() {
    let longest = "fifteen-letters";
    assert_eq!(
        &*with_flags(&[&format!("--ipvs-scheduler={longest}")]).unwrap().options.proxy.scheduler,
        longest
    );
    let allowed = "must be at most 15 bytes long, without a zero byte, as the names of all schedulers are";
    assert_eq!(
        with_flags(&[&format!("--ipvs-scheduler={longest}-")]).unwrap_err().to_string(),
        format!("--ipvs-scheduler: Invalid value: \"fifteen-letters-\": {allowed}")
    );
    assert_eq!(
        with_file(&[], r#"ipvs: {scheduler: "r\0r"}"#).unwrap_err().to_string(),
        format!(r#"KubeProxyConfiguration.ipvs.scheduler: Invalid value: "r\0r": {allowed}"#)
    );
}
