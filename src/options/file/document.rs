//! The shape of the configuration file (contract 2.1).
//!
//! Every field is optional, because `null` and absence are one. Fields that are known but of no use to this program
//! yet are [`Loose`]: any value is accepted.

use serde::Deserialize;

use super::scalar::{Loose, Number, Switch, Text, Time};

/// What every Kubernetes object begins with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping with apiVersion, kind and settings")]
pub(super) struct Header {
    api_version: Option<Text>,
    kind: Option<Text>,
}

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

impl Header {
    /// Whether it is the object that is wanted here; if not, a line that says what it is.
    pub(super) fn check(&self) -> Result<(), String> {
        for (field, found, wanted) in
            [("apiVersion", &self.api_version, API_VERSION), ("kind", &self.kind, KIND)]
        {
            match found.as_ref().map(|text| text.0.as_str()) {
                Some(found) if found == wanted => {}
                Some(found) => return Err(format!("{field}: Invalid value: {found:?}: must be {wanted:?}")),
                None => return Err(format!("{field}: Required value: must be {wanted:?}")),
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
pub(super) struct Document {
    #[expect(dead_code, reason = "checked in the header; here only to be known")]
    api_version: Option<Text>,
    #[expect(dead_code, reason = "checked in the header; here only to be known")]
    kind: Option<Text>,
    feature_gates: Option<Loose>,
    pub(super) client_connection: Option<ClientConnection>,
    pub(super) logging: Option<Logging>,
    pub(super) hostname_override: Option<Text>,
    pub(super) bind_address: Option<Text>,
    pub(super) healthz_bind_address: Option<Text>,
    pub(super) metrics_bind_address: Option<Text>,
    bind_address_hard_fail: Option<Loose>,
    enable_profiling: Option<Loose>,
    show_hidden_metrics_for_version: Option<Loose>,
    pub(super) mode: Option<Text>,
    pub(super) iptables: Option<Iptables>,
    pub(super) ipvs: Option<Ipvs>,
    /// For another mode.
    #[expect(dead_code, reason = "known, and of no use in ipvs mode")]
    nftables: Option<Loose>,
    /// For another system.
    #[expect(dead_code, reason = "known, and of no use on Linux")]
    winkernel: Option<Loose>,
    /// For another system.
    #[expect(dead_code, reason = "known, and of no use on Linux")]
    windows_run_as_service: Option<Loose>,
    detect_local_mode: Option<Loose>,
    detect_local: Option<DetectLocal>,
    #[serde(rename = "clusterCIDR")]
    pub(super) cluster_cidr: Option<Text>,
    node_port_addresses: Option<Loose>,
    oom_score_adj: Option<Loose>,
    conntrack: Option<Conntrack>,
    config_sync_period: Option<Loose>,
    /// Of no use in kube-proxy either.
    #[expect(dead_code, reason = "known, and of no use in any mode")]
    port_range: Option<Loose>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
pub(super) struct ClientConnection {
    pub(super) kubeconfig: Option<Text>,
    accept_content_types: Option<Loose>,
    content_type: Option<Loose>,
    qps: Option<Loose>,
    burst: Option<Loose>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
pub(super) struct Logging {
    pub(super) verbosity: Option<Number>,
    format: Option<Loose>,
    flush_frequency: Option<Loose>,
    vmodule: Option<Loose>,
    options: Option<Loose>,
}

/// `masqueradeBit` and `masqueradeAll` hold for ipvs mode too.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
pub(super) struct Iptables {
    pub(super) masquerade_bit: Option<Number>,
    pub(super) masquerade_all: Option<Switch>,
    #[expect(dead_code, reason = "known, and of no use in ipvs mode")]
    #[serde(rename = "localhostNodePorts")]
    localhost_node_ports: Option<Loose>,
    #[expect(dead_code, reason = "known, and of no use in ipvs mode")]
    sync_period: Option<Loose>,
    #[expect(dead_code, reason = "known, and of no use in ipvs mode")]
    min_sync_period: Option<Loose>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
pub(super) struct Ipvs {
    pub(super) sync_period: Option<Time>,
    pub(super) min_sync_period: Option<Time>,
    pub(super) scheduler: Option<Text>,
    #[serde(rename = "excludeCIDRs")]
    pub(super) exclude_cidrs: Option<Vec<Text>>,
    #[serde(rename = "strictARP")]
    strict_arp: Option<Switch>,
    pub(super) tcp_timeout: Option<Time>,
    pub(super) tcp_fin_timeout: Option<Time>,
    pub(super) udp_timeout: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
struct DetectLocal {
    bridge_interface: Option<Loose>,
    interface_name_prefix: Option<Loose>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a mapping")]
struct Conntrack {
    max_per_core: Option<Loose>,
    min: Option<Loose>,
    tcp_established_timeout: Option<Loose>,
    tcp_close_wait_timeout: Option<Loose>,
    tcp_be_liberal: Option<Loose>,
    udp_timeout: Option<Loose>,
    udp_stream_timeout: Option<Loose>,
}

impl Document {
    /// The paths of fields that have a meaning for kube-proxy in ipvs mode, are set to something other than the
    /// default, and have no effect in this program.
    pub(super) fn said_but_unused(&self) -> Vec<&'static str> {
        let connection = self.client_connection.as_ref();
        let logging = self.logging.as_ref();
        let detect = self.detect_local.as_ref();
        let conntrack = self.conntrack.as_ref();
        let strict_arp = self.ipvs.as_ref().and_then(|ipvs| ipvs.strict_arp.as_ref());
        let loose = [
            ("featureGates", self.feature_gates.as_ref()),
            (
                "clientConnection.acceptContentTypes",
                connection.and_then(|it| it.accept_content_types.as_ref()),
            ),
            ("clientConnection.contentType", connection.and_then(|it| it.content_type.as_ref())),
            ("clientConnection.qps", connection.and_then(|it| it.qps.as_ref())),
            ("clientConnection.burst", connection.and_then(|it| it.burst.as_ref())),
            ("logging.format", logging.and_then(|it| it.format.as_ref())),
            ("logging.flushFrequency", logging.and_then(|it| it.flush_frequency.as_ref())),
            ("logging.vmodule", logging.and_then(|it| it.vmodule.as_ref())),
            ("logging.options", logging.and_then(|it| it.options.as_ref())),
            ("bindAddressHardFail", self.bind_address_hard_fail.as_ref()),
            ("enableProfiling", self.enable_profiling.as_ref()),
            ("showHiddenMetricsForVersion", self.show_hidden_metrics_for_version.as_ref()),
            ("detectLocalMode", self.detect_local_mode.as_ref()),
            ("detectLocal.bridgeInterface", detect.and_then(|it| it.bridge_interface.as_ref())),
            ("detectLocal.interfaceNamePrefix", detect.and_then(|it| it.interface_name_prefix.as_ref())),
            ("nodePortAddresses", self.node_port_addresses.as_ref()),
            ("oomScoreAdj", self.oom_score_adj.as_ref()),
            ("conntrack.maxPerCore", conntrack.and_then(|it| it.max_per_core.as_ref())),
            ("conntrack.min", conntrack.and_then(|it| it.min.as_ref())),
            ("conntrack.tcpEstablishedTimeout", conntrack.and_then(|it| it.tcp_established_timeout.as_ref())),
            ("conntrack.tcpCloseWaitTimeout", conntrack.and_then(|it| it.tcp_close_wait_timeout.as_ref())),
            ("conntrack.tcpBeLiberal", conntrack.and_then(|it| it.tcp_be_liberal.as_ref())),
            ("conntrack.udpTimeout", conntrack.and_then(|it| it.udp_timeout.as_ref())),
            ("conntrack.udpStreamTimeout", conntrack.and_then(|it| it.udp_stream_timeout.as_ref())),
            ("configSyncPeriod", self.config_sync_period.as_ref()),
        ];
        // What they are when nobody says anything else, beside null, 0 and "".
        let is_default = |path: &str, value: &Loose| {
            matches!(
                (path, value.text()),
                ("detectLocalMode", Some("ClusterCIDR"))
                    | ("logging.format", Some("text"))
                    | ("logging.flushFrequency", Some("5s"))
            )
        };
        let said = loose.into_iter().filter_map(|(path, value)| {
            let value = value?;
            (!value.is_nothing() && !is_default(path, value)).then_some(path)
        });
        said.chain(strict_arp.is_some_and(|switch| switch.0).then_some("ipvs.strictARP")).collect()
    }
}
