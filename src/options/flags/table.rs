//! All flags: the name of each, its help, and what it sets.

use super::value::{Set, truth};
use super::{Flags, VersionForm};

/// One flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    /// The name of its value in the help; empty for flags that need no value.
    pub(super) value: &'static str,
    /// The default, as pflag prints it.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) set: Set,
    /// Whether a configuration file replaces the flag, so that it is ignored on the command line (contract 1.3).
    pub(super) replaced_by_file: bool,
    /// Whether the flag does something; otherwise it is only accepted so that kube-proxy's command lines work.
    pub(super) has_effect: bool,
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
    set: Set,
) -> Flag {
    Flag { name, value, default, help, set, replaced_by_file: true, has_effect: true }
}

const fn switch(name: &'static str, help: &'static str, set: fn(&mut Flags, bool)) -> Flag {
    flag(name, "", "false", help, Set::Switch(set))
}

impl Flag {
    /// The flag counts beside a configuration file.
    const fn beside_file(mut self) -> Self {
        self.replaced_by_file = false;
        self
    }

    /// The flag is only accepted; its help says why.
    const fn without_effect(mut self) -> Self {
        self.has_effect = false;
        self
    }
}

/// The setter of a flag without effect that has no field.
fn ignore<T>(_: &mut Flags, _: T) {}

/// Why flags have no effect here.
mod because {
    pub(super) const IPTABLES_MODE: &str = "No effect: for mode iptables only";
    pub(super) const NO_INFORMERS: &str =
        "No effect: there is no periodic resync, since only changes are processed";
    pub(super) const NO_LIMIT: &str = "No effect: requests to the API server are not rate-limited";
    pub(super) const NO_CADVISOR: &str = "No effect: for the machine information of kube-proxy";
    pub(super) const NO_BUFFER: &str = "No effect: log lines are written at once, to standard error";
    pub(super) const NO_FILES: &str = "No effect: the log has one level for all";
    pub(super) const NO_PORTS: &str = "No effect: ports are not opened since Kubernetes 1.23";
    pub(super) const NO_HIDDEN: &str = "No effect: no metric is hidden";
}

/// All flags, in the order of the help.
pub(super) static FLAGS: &[Flag] = &[
    flag(
        "config",
        "file",
        "",
        "A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), YAML or JSON. Its settings replace their flags. \
         When the file is written to or renamed, the program exits with status 1, to be started anew",
        Set::Path(|flags, path| flags.config = (!path.as_os_str().is_empty()).then_some(path)),
    )
    .beside_file(),
    flag(
        "write-config-to",
        "file",
        "",
        "Write all settings, with their defaults, to this file, and exit",
        Set::Path(|flags, path| flags.write_config_to = (!path.as_os_str().is_empty()).then_some(path)),
    )
    .beside_file(),
    switch("cleanup", "Remove everything of this program and of kube-proxy in all its modes from the kernel, say what, and exit. \
         Virtual servers in --ipvs-exclude-cidrs stay; an address that they have on kube-ipvs0 alone goes with it. While the \
         program runs on the node, nothing is removed", |flags, on| {
        flags.cleanup = on;
    })
    .beside_file(),
    switch(
        "cleanup-own",
        "The way back: wait until this program has ended on the node and kube-proxy has its own rules (15 minutes at most), \
         remove what only this program has (its nftables tables, its accept in FORWARD), say what, and exit. Virtual \
         servers and kube-ipvs0 stay for the kube-proxy that runs now",
        |flags, on| flags.cleanup_own = on,
    )
    .beside_file(),
    switch(
        "cleanup-own-stay",
        "As --cleanup-own, but stay afterwards, and do the same again whenever this program has run on the node and ended. For \
         a pod that remains while nodes may still go either way. SIGTERM ends it",
        |flags, on| flags.cleanup_own_stay = on,
    )
    .beside_file(),
    switch("init-only", "Set kernel parameters and other things that need privileges, and exit", |flags, on| flags.init_only = on).beside_file(),
    switch(
        "dry-run",
        "Say on standard output what a start with the same settings would change on this node, change nothing, and exit. A \
         running kube-proxy, or another one of this program, is not disturbed",
        |flags, on| flags.dry_run = on,
    )
    .beside_file(),
    flag(
        "kubeconfig",
        "file",
        "",
        "The kubeconfig file that says how to reach the API server. Without it and --master: the credentials of the \
         pod",
        Set::Text(|flags, text| flags.configuration.client_connection.kubeconfig = text),
    ),
    flag(
        "master",
        "url",
        "",
        "The URL of the API server, instead of the one in the kubeconfig",
        Set::Text(|flags, text| flags.master = (!text.is_empty()).then_some(text)),
    )
    .beside_file(),
    flag(
        "manifests",
        "path",
        "",
        "A file, or a folder of files, with Services, EndpointSlices and Nodes in YAML or JSON, watched for changes; no \
         API server is used. May be given several times",
        Set::AddPath(|flags, path| flags.manifests.push(path)),
    )
    .beside_file(),
    flag(
        "hostname-override",
        "name",
        "",
        "The name of this node, instead of the host's name",
        Set::Text(|flags, text| flags.configuration.hostname_override = text),
    )
    .beside_file(),
    flag(
        "bind-address",
        "ip",
        "0.0.0.0",
        "The address of this node, if it is not the one that the Node object says; nothing listens on it",
        Set::Text(|flags, text| {
            // An empty value means "not set", as in kube-proxy: scripts write it where they have no address.
            if !text.is_empty() {
                flags.configuration.bind_address = text;
            }
        }),
    ),
    flag(
        "proxy-mode",
        "mode",
        "ipvs",
        "ipvs is the only mode of this program",
        Set::Text(|flags, text| flags.configuration.mode = text),
    ),
    flag(
        "ipvs-scheduler",
        "name",
        "",
        "The scheduler of all virtual servers: any that the kernel has (rr, wrr, lc, wlc, sh, mh, ...); empty: rr",
        Set::Text(|flags, text| flags.configuration.ipvs.scheduler = text),
    ),
    flag(
        "ipvs-tcp-timeout",
        "duration",
        "0s",
        "How long an idle TCP connection is kept; 0: as long as connection tracking keeps it",
        Set::Duration(|flags, time| flags.configuration.ipvs.tcp_timeout = time),
    ),
    flag(
        "ipvs-tcpfin-timeout",
        "duration",
        "0s",
        "How long a TCP connection is kept after a FIN; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.ipvs.tcp_fin_timeout = time),
    ),
    flag(
        "ipvs-udp-timeout",
        "duration",
        "0s",
        "How long a UDP flow is kept after its last packet; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.ipvs.udp_timeout = time),
    ),
    flag(
        "ipvs-min-sync-period",
        "duration",
        "1s",
        "Minimum time between writes to the kernel. If not set, changes are written at once; the default shown is \
         kube-proxy's and is not applied",
        Set::Duration(|flags, time| flags.configuration.ipvs.min_sync_period = time),
    ),
    flag(
        "ipvs-sync-period",
        "duration",
        "30s",
        "A change that is not in the kernel after twice this time makes the node unhealthy",
        Set::Duration(|flags, time| flags.configuration.ipvs.sync_period = time),
    ),
    flag(
        "ipvs-exclude-cidrs",
        "cidr,...",
        "",
        "Virtual servers with addresses in these networks that no Service asks for are never deleted, whoever made them",
        Set::List(|flags, list| flags.configuration.ipvs.exclude_cidrs.get_or_insert_default().extend(list)),
    ),
    switch(
        "ipvs-strict-arp",
        "Answer an ARP request only for an address of the interface that it comes in by, and so for no service \
         address",
        |flags, on| flags.configuration.ipvs.strict_arp = on,
    ),
    flag(
        "cluster-cidr",
        "cidr[,cidr]",
        "",
        "The network of the pods, at most one per IP family; other sources are masqueraded",
        Set::Text(|flags, text| flags.configuration.cluster_cidr = text),
    ),
    flag(
        "detect-local-mode",
        "mode",
        "ClusterCIDR",
        "What counts as traffic of pods, which is not masqueraded on its way to a cluster IP: what comes from the \
         network of the pods (ClusterCIDR) or from this node's part of it (NodeCIDR), or comes in by a bridge \
         (BridgeInterface) or by interfaces with a common beginning of their names (InterfaceNamePrefix)",
        Set::Text(|flags, text| flags.configuration.detect_local_mode = text),
    ),
    flag(
        "pod-bridge-interface",
        "name",
        "",
        "The bridge of --detect-local-mode=BridgeInterface",
        Set::Text(|flags, text| flags.configuration.detect_local.bridge_interface = text),
    ),
    flag(
        "pod-interface-name-prefix",
        "text",
        "",
        "How the names of interfaces begin for --detect-local-mode=InterfaceNamePrefix",
        Set::Text(|flags, text| flags.configuration.detect_local.interface_name_prefix = text),
    ),
    flag(
        "nodeport-addresses",
        "cidr,...",
        "",
        "Node ports are served on the addresses of this node in these networks, never on loopback ones. The words primary \
         (the addresses in the Node object, one per IP family), localhost (127.0.0.0/8,::1/128: on none) and all \
         (0.0.0.0/0,::/0) may be among them. An IP family without an entry is served on all addresses",
        Set::List(|flags, list| flags.configuration.node_port_addresses.get_or_insert_default().extend(list)),
    ),
    switch("masquerade-all", "Masquerade all traffic to cluster IPs", |flags, on| {
        flags.configuration.iptables.masquerade_all = on;
    }),
    flag(
        "iptables-masquerade-bit",
        "bit",
        "14",
        "The bit of the packet mark (0 to 31) that stands for masquerading",
        Set::Integer(|flags, bit| flags.configuration.iptables.masquerade_bit = Some(bit)),
    ),
    flag(
        "healthz-bind-address",
        "ip:port",
        "0.0.0.0:10256",
        "Where /healthz and /livez answer; empty: nowhere",
        Set::Text(|flags, text| flags.configuration.healthz_bind_address = text),
    ),
    flag(
        "healthz-port",
        "port",
        "10256",
        "The port of a --healthz-bind-address without one; 0: nowhere. Deprecated",
        Set::Integer(|flags, port| flags.healthz_port = Some(port)),
    ),
    flag(
        "metrics-bind-address",
        "ip:port",
        "127.0.0.1:10249",
        "Where /metrics, /metrics/slis, /proxyMode, /configz, /flagz, /statusz, /services and /addresses answer, to whoever asks; empty: \
         nowhere",
        Set::Text(|flags, text| flags.configuration.metrics_bind_address = text),
    ),
    flag(
        "metrics-port",
        "port",
        "10249",
        "The port of a --metrics-bind-address without one; 0: nowhere. Deprecated",
        Set::Integer(|flags, port| flags.metrics_port = Some(port)),
    ),
    switch("bind-address-hard-fail", "Exit with status 1 if a listen port is in use, instead of retrying", |flags, on| {
        flags.configuration.bind_address_hard_fail = on;
    }),
    switch("profiling", "Answer /debug/pprof and /debug/flags/v beside /metrics", |flags, on| {
        flags.configuration.enable_profiling = on;
    }),
    flag(
        "oom-score-adj",
        "number",
        "-999",
        "How unlikely the kernel is to end this process when memory is short: -1000 (never) to 1000",
        Set::Integer(|flags, number| flags.configuration.oom_score_adj = Some(number)),
    ),
    flag(
        "conntrack-max-per-core",
        "number",
        "32768",
        "How many connections are tracked for each processor; 0 leaves the kernel's limit alone",
        Set::Integer(|flags, number| flags.configuration.conntrack.max_per_core = Some(number)),
    ),
    flag(
        "conntrack-min",
        "number",
        "131072",
        "How many connections are tracked at least, however few processors there are",
        Set::Integer(|flags, number| flags.configuration.conntrack.min = Some(number)),
    ),
    flag(
        "conntrack-tcp-timeout-established",
        "duration",
        "24h0m0s",
        "How long an idle TCP connection is tracked; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.conntrack.tcp_established_timeout = Some(time)),
    ),
    flag(
        "conntrack-tcp-timeout-close-wait",
        "duration",
        "1h0m0s",
        "How long a TCP connection is tracked that the other side has closed; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.conntrack.tcp_close_wait_timeout = Some(time)),
    ),
    switch("conntrack-tcp-be-liberal", "Track TCP packets out of the window as parts of their connection", |flags, on| {
        flags.configuration.conntrack.tcp_be_liberal = on;
    }),
    flag(
        "conntrack-udp-timeout",
        "duration",
        "0s",
        "How long a UDP flow without an answer is tracked; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.conntrack.udp_timeout = time),
    ),
    flag(
        "conntrack-udp-timeout-stream",
        "duration",
        "0s",
        "How long a UDP flow with answers is tracked; 0 leaves the kernel's value",
        Set::Duration(|flags, time| flags.configuration.conntrack.udp_stream_timeout = time),
    ),
    flag(
        "v",
        "level",
        "0",
        "How much is logged",
        Set::Level(|flags, level| flags.configuration.logging.verbosity = level),
    )
    .beside_file(),
    flag(
        "logging-format",
        "format",
        "text",
        "How the log is written: text or json",
        Set::Text(|flags, text| flags.configuration.logging.format = text),
    )
    .beside_file(),
    flag(
        "version",
        "",
        "false",
        "Print the version and exit; --version=raw prints all that is known of the build",
        Set::Choice("true|false|raw", |flags, word| {
            flags.version = match word {
                "raw" => Some(VersionForm::Raw),
                word => {
                    let on = truth(word).map_err(|_| "must be true, false or raw")?;
                    on.then_some(VersionForm::Plain)
                }
            };
            Ok(())
        }),
    )
    .beside_file(),
    switch("help", "Print this text and exit", |flags, on| flags.help = on).beside_file(),
    flag(
        "feature-gates",
        "name=bool,...",
        "",
        "AllowServiceExternalIPs=false leaves the external IPs of Services alone. Other features of kube-proxy cannot be \
         switched: their gates have no effect",
        Set::Gates(|flags, gates| flags.configuration.feature_gates.extend(gates)),
    ),
    flag(
        "kube-api-content-type",
        "type",
        "application/vnd.kubernetes.protobuf",
        "How objects come from the API server: application/vnd.kubernetes.protobuf or application/json",
        Set::Text(|flags, text| flags.configuration.client_connection.content_type = text),
    ),
    flag(
        "kube-api-qps",
        "number",
        "5",
        because::NO_LIMIT,
        Set::Float(|flags, number| flags.configuration.client_connection.qps = number),
    )
    .without_effect(),
    flag(
        "kube-api-burst",
        "number",
        "10",
        because::NO_LIMIT,
        Set::Integer(|flags, number| flags.configuration.client_connection.burst = number),
    )
    .without_effect(),
    flag(
        "config-sync-period",
        "duration",
        "15m0s",
        because::NO_INFORMERS,
        Set::Duration(|flags, time| flags.configuration.config_sync_period = time),
    )
    .without_effect(),
    flag(
        "show-hidden-metrics-for-version",
        "version",
        "",
        because::NO_HIDDEN,
        Set::Text(|flags, text| flags.configuration.show_hidden_metrics_for_version = text),
    )
    .without_effect(),
    Flag {
        default: "true",
        ..switch("iptables-localhost-nodeports", because::IPTABLES_MODE, |flags, on| {
            flags.configuration.iptables.localhost_node_ports = Some(on);
        })
        .without_effect()
    },
    flag(
        "iptables-sync-period",
        "duration",
        "30s",
        because::IPTABLES_MODE,
        Set::Duration(|flags, time| flags.configuration.iptables.sync_period = time),
    )
    .without_effect(),
    flag(
        "iptables-min-sync-period",
        "duration",
        "1s",
        because::IPTABLES_MODE,
        Set::Duration(|flags, time| flags.configuration.iptables.min_sync_period = time),
    )
    .without_effect(),
    flag(
        "vmodule",
        "pattern=level,...",
        "",
        because::NO_FILES,
        Set::Modules(|flags, modules| flags.configuration.logging.vmodule.extend(modules)),
    )
    .beside_file()
    .without_effect(),
    flag(
        "log-flush-frequency",
        "duration",
        "5s",
        because::NO_BUFFER,
        Set::Duration(|flags, time| flags.configuration.logging.flush_frequency.0 = time),
    )
    .beside_file()
    .without_effect(),
    switch("log-text-split-stream", because::NO_BUFFER, |flags, on| {
        flags.configuration.logging.options.text.split_stream = on;
    })
    .beside_file()
    .without_effect(),
    flag(
        "log-text-info-buffer-size",
        "quantity",
        "0",
        because::NO_BUFFER,
        Set::Text(|flags, text| flags.configuration.logging.options.text.info_buffer_size.0 = text),
    )
    .beside_file()
    .without_effect(),
    switch("log-json-split-stream", because::NO_BUFFER, |flags, on| {
        flags.configuration.logging.options.json.split_stream = on;
    })
    .beside_file()
    .without_effect(),
    flag(
        "log-json-info-buffer-size",
        "quantity",
        "0",
        because::NO_BUFFER,
        Set::Text(|flags, text| flags.configuration.logging.options.json.info_buffer_size.0 = text),
    )
    .beside_file()
    .without_effect(),
    flag("boot-id-file", "file", "/proc/sys/kernel/random/boot_id", because::NO_CADVISOR, Set::Path(ignore))
        .without_effect(),
    flag(
        "machine-id-file",
        "file",
        "/etc/machine-id,/var/lib/dbus/machine-id",
        because::NO_CADVISOR,
        Set::Path(ignore),
    )
    .without_effect(),
    flag(
        "proxy-port-range",
        "range",
        "",
        because::NO_PORTS,
        Set::Text(|flags, text| flags.configuration.port_range = text),
    )
    .without_effect(),
];
