//! All settings of the configuration file, most of which flags set too: a `KubeProxyConfiguration` (contract 2.1).
//!
//! It follows the rules of a Go struct, for that is what the contract describes: a missing value, `null` and zero are
//! one and the same, and get the default ([`Configuration::set_defaults`]). Only a field that is a pointer in Go tells
//! "0" from "not set", and is an `Option` here. Types are right, values are not checked: that is the task of
//! [`super::merge`].

mod defaults;
mod value;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::duration::GoDuration;
use super::own::Own;
pub(super) use defaults::{MODE, PROTOBUF};
pub(super) use value::{FromValue, Loose, MERGE, read, section};

/// What every Kubernetes object begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping with apiVersion, kind and settings")]
pub(super) struct Header {
    #[serde(deserialize_with = "read")]
    api_version: String,
    #[serde(deserialize_with = "read")]
    kind: String,
}

/// The group and version of a configuration file.
pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind of a configuration file.
pub(super) const KIND: &str = "KubeProxyConfiguration";

impl Header {
    /// Checks that this is the expected kind of object; if not, the error says what it is.
    pub(super) fn check(&self) -> Result<(), String> {
        for (field, found, wanted) in
            [("apiVersion", &self.api_version, API_VERSION), ("kind", &self.kind, KIND)]
        {
            match found.as_str() {
                "" => return Err(format!("{field}: Required value: must be {wanted:?}")),
                found if found == wanted => {}
                found => return Err(format!("{field}: Invalid value: {found:?}: must be {wanted:?}")),
            }
        }
        Ok(())
    }
}

/// Declares sections, whose fields may all be absent or `null`, and have helpful errors.
macro_rules! sections {
    ($($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default, expecting = "a mapping")]
        pub struct $name {
            $($(#[$field_about])* #[serde(deserialize_with = "read")] pub $field: $type,)*
        }
    )*};
}

/// A `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping")]
pub struct Configuration {
    /// Always `kubeproxy.config.k8s.io/v1alpha1`.
    #[serde(deserialize_with = "read")]
    pub api_version: String,
    /// The address of the node; the unspecified address stands for none.
    #[serde(deserialize_with = "read")]
    pub bind_address: String,
    /// Whether the program ends when a port to listen on is taken.
    #[serde(deserialize_with = "read")]
    pub bind_address_hard_fail: bool,
    /// How the API server is reached.
    #[serde(deserialize_with = "section")]
    pub client_connection: ClientConnection,
    /// The pods' networks, separated by commas.
    #[serde(rename = "clusterCIDR", deserialize_with = "read")]
    pub cluster_cidr: String,
    /// How often kube-proxy's informers process all objects again.
    #[serde(deserialize_with = "read")]
    pub config_sync_period: GoDuration,
    /// Connection tracking.
    #[serde(deserialize_with = "section")]
    pub conntrack: Conntrack,
    /// Settings of single modes of local detection.
    #[serde(deserialize_with = "section")]
    pub detect_local: DetectLocal,
    /// How traffic of pods is told apart from other traffic.
    #[serde(deserialize_with = "read")]
    pub detect_local_mode: String,
    /// Whether `/debug/pprof` answers.
    #[serde(deserialize_with = "read")]
    pub enable_profiling: bool,
    /// Switches of kube-proxy's features.
    #[serde(deserialize_with = "read", skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    /// Where `/healthz` answers.
    #[serde(deserialize_with = "read")]
    pub healthz_bind_address: String,
    /// The name of the node, instead of the host's name.
    #[serde(deserialize_with = "read")]
    pub hostname_override: String,
    /// Settings of mode iptables; two of them apply to mode ipvs, too.
    #[serde(deserialize_with = "section")]
    pub iptables: Iptables,
    /// Settings of mode ipvs.
    #[serde(deserialize_with = "section")]
    pub ipvs: Ipvs,
    /// Always `KubeProxyConfiguration`.
    #[serde(deserialize_with = "read")]
    pub kind: String,
    /// Settings that kube-proxy does not have.
    #[serde(rename = "kubeIPVS", deserialize_with = "section", skip_serializing_if = "Own::is_empty")]
    pub own: Own,
    /// The log.
    #[serde(deserialize_with = "section")]
    pub logging: Logging,
    /// Where `/metrics` answers.
    #[serde(deserialize_with = "read")]
    pub metrics_bind_address: String,
    /// The proxy mode.
    #[serde(deserialize_with = "read")]
    pub mode: String,
    /// Settings of mode nftables.
    #[serde(deserialize_with = "section")]
    pub nftables: Nftables,
    /// Where node ports are served: networks, and the words `primary`, `localhost` and `all`.
    #[serde(deserialize_with = "read")]
    pub node_port_addresses: Option<Vec<String>>,
    /// The OOM score adjustment: how unlikely the kernel is to kill this process when memory is short.
    #[serde(deserialize_with = "read")]
    pub oom_score_adj: Option<i64>,
    /// Without effect in kube-proxy, too.
    #[serde(deserialize_with = "read")]
    pub port_range: String,
    /// The release whose hidden metrics kube-proxy shows.
    #[serde(deserialize_with = "read")]
    pub show_hidden_metrics_for_version: String,
    /// Windows.
    #[serde(deserialize_with = "read", skip_serializing_if = "std::ops::Not::not")]
    pub windows_run_as_service: bool,
    /// Windows.
    #[serde(deserialize_with = "section")]
    pub winkernel: Winkernel,
}

sections! {
    /// `clientConnection`: how the API server is reached.
    ClientConnection {
        /// Which encodings are accepted, the best first.
        accept_content_types: String,
        /// How many requests may exceed the rate at a time.
        burst: i64,
        /// The encoding in which objects are requested, where `acceptContentTypes` is empty.
        content_type: String,
        /// The kubeconfig file; empty: the credentials of the pod are used.
        kubeconfig: String,
        /// Requests per second.
        qps: f32,
    }
    /// `conntrack`: the parameters of connection tracking.
    Conntrack {
        /// Entries for each processor; 0 leaves the limit alone.
        max_per_core: Option<i64>,
        /// The minimum number of entries.
        min: Option<i64>,
        /// Whether TCP packets out of the window are accepted.
        tcp_be_liberal: bool,
        /// The timeout of half-closed TCP connections.
        tcp_close_wait_timeout: Option<GoDuration>,
        /// The timeout of established TCP connections.
        tcp_established_timeout: Option<GoDuration>,
        /// The timeout of UDP flows with answers.
        udp_stream_timeout: GoDuration,
        /// The timeout of UDP flows without answers.
        udp_timeout: GoDuration,
    }
    /// `detectLocal`: settings of single modes of local detection.
    DetectLocal {
        /// The interface of mode `BridgeInterface`.
        bridge_interface: String,
        /// How the names of interfaces begin in mode `InterfaceNamePrefix`.
        interface_name_prefix: String,
    }
    /// `iptables`; what concerns masquerading applies to mode ipvs, too.
    Iptables {
        /// Of use in mode iptables only.
        localhost_node_ports: Option<bool>,
        /// Whether all traffic to cluster IPs is masqueraded.
        masquerade_all: bool,
        /// The bit of the packet mark that stands for masquerading.
        masquerade_bit: Option<i64>,
        /// Of use in mode iptables only.
        min_sync_period: GoDuration,
        /// Of use in mode iptables only.
        sync_period: GoDuration,
    }
    /// `ipvs`.
    Ipvs {
        /// Networks whose virtual servers are left alone.
        #[serde(rename = "excludeCIDRs")]
        exclude_cidrs: Option<Vec<String>>,
        /// The minimum time between two writes.
        min_sync_period: GoDuration,
        /// The scheduler of the virtual servers.
        scheduler: String,
        /// Whether ARP requests for service addresses stay unanswered.
        #[serde(rename = "strictARP")]
        strict_arp: bool,
        /// Half of the time after which a pending change makes the node unhealthy.
        sync_period: GoDuration,
        /// The timeout of TCP connections after a FIN.
        tcp_fin_timeout: GoDuration,
        /// The timeout of established TCP connections.
        tcp_timeout: GoDuration,
        /// The timeout of UDP flows.
        udp_timeout: GoDuration,
    }
    /// `logging.options.text` and `logging.options.json`.
    LogOptions {
        /// How much is buffered before it is written.
        info_buffer_size: value::Quantity,
        /// Whether info lines go to standard output, and errors to standard error.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        split_stream: bool,
    }
    /// One entry of `logging.vmodule`.
    ModuleVerbosity {
        /// The pattern of source file names.
        file_pattern: String,
        /// How much these files log.
        verbosity: i64,
    }
    /// `nftables`: of use in mode nftables only.
    Nftables {
        /// As in `iptables`.
        masquerade_all: bool,
        /// As in `iptables`.
        masquerade_bit: Option<i64>,
        /// As in `iptables`.
        min_sync_period: GoDuration,
        /// As in `iptables`.
        sync_period: GoDuration,
    }
    /// `winkernel`: Windows.
    Winkernel {
        /// Windows.
        #[serde(rename = "enableDSR")]
        enable_dsr: bool,
        /// Windows.
        forward_health_check_vip: bool,
        /// Windows.
        network_name: String,
        /// Windows.
        root_hns_endpoint_name: String,
        /// Windows.
        source_vip: String,
    }
}

/// `logging`: the log.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping")]
pub struct Logging {
    /// How often buffered lines are written.
    #[serde(deserialize_with = "read")]
    pub flush_frequency: value::FlushFrequency,
    /// `text` or `json`.
    #[serde(deserialize_with = "read")]
    pub format: String,
    /// Settings of the formats.
    #[serde(deserialize_with = "section")]
    pub options: LoggingOptions,
    /// How much is logged.
    #[serde(deserialize_with = "read")]
    pub verbosity: i64,
    /// How much single source files log.
    #[serde(deserialize_with = "section", skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<ModuleVerbosity>,
}

/// `logging.options`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping")]
pub struct LoggingOptions {
    /// Settings of format `json`.
    #[serde(deserialize_with = "section")]
    pub json: LogOptions,
    /// Settings of format `text`.
    #[serde(deserialize_with = "section")]
    pub text: LogOptions,
}

#[cfg(test)]
mod tests;
