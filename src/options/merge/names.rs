//! The settings that errors can be about, each under both its names.

use crate::options::settings::Name;

const fn name(flag: &'static str, field: &'static str) -> Name {
    Name { flag, field }
}

pub(super) const KUBECONFIG: Name = name("kubeconfig", "clientConnection.kubeconfig");
pub(super) const CONTENT_TYPE: Name = name("kube-api-content-type", "clientConnection.contentType");
pub(super) const BURST: Name = name("kube-api-burst", "clientConnection.burst");
pub(super) const HOSTNAME_OVERRIDE: Name = name("hostname-override", "hostnameOverride");
pub(super) const MODE: Name = name("proxy-mode", "mode");
pub(super) const SCHEDULER: Name = name("ipvs-scheduler", "ipvs.scheduler");
pub(super) const TCP_TIMEOUT: Name = name("ipvs-tcp-timeout", "ipvs.tcpTimeout");
pub(super) const TCP_FIN_TIMEOUT: Name = name("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout");
pub(super) const UDP_TIMEOUT: Name = name("ipvs-udp-timeout", "ipvs.udpTimeout");
pub(super) const SYNC_PERIOD: Name = name("ipvs-sync-period", "ipvs.syncPeriod");
pub(super) const MIN_SYNC_PERIOD: Name = name("ipvs-min-sync-period", "ipvs.minSyncPeriod");
pub(super) const EXCLUDE_CIDRS: Name = name("ipvs-exclude-cidrs", "ipvs.excludeCIDRs");
pub(super) const CLUSTER_CIDR: Name = name("cluster-cidr", "clusterCIDR");
pub(super) const DETECT_LOCAL_MODE: Name = name("detect-local-mode", "detectLocalMode");
pub(super) const BRIDGE_INTERFACE: Name = name("pod-bridge-interface", "detectLocal.bridgeInterface");
pub(super) const INTERFACE_NAME_PREFIX: Name =
    name("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix");
pub(super) const NODE_PORT_ADDRESSES: Name = name("nodeport-addresses", "nodePortAddresses");
pub(super) const MASQUERADE_BIT: Name = name("iptables-masquerade-bit", "iptables.masqueradeBit");
pub(super) const BIND_ADDRESS: Name = name("bind-address", "bindAddress");
pub(super) const HEALTHZ_ADDRESS: Name = name("healthz-bind-address", "healthzBindAddress");
pub(super) const METRICS_ADDRESS: Name = name("metrics-bind-address", "metricsBindAddress");
pub(super) const OOM_SCORE_ADJ: Name = name("oom-score-adj", "oomScoreAdj");
pub(super) const CONNTRACK_MAX_PER_CORE: Name = name("conntrack-max-per-core", "conntrack.maxPerCore");
pub(super) const CONNTRACK_MIN: Name = name("conntrack-min", "conntrack.min");
pub(super) const CONNTRACK_TCP_ESTABLISHED: Name =
    name("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout");
pub(super) const CONNTRACK_TCP_CLOSE_WAIT: Name =
    name("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout");
pub(super) const CONNTRACK_UDP: Name = name("conntrack-udp-timeout", "conntrack.udpTimeout");
pub(super) const CONNTRACK_UDP_STREAM: Name =
    name("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout");
pub(super) const CONFIG_SYNC_PERIOD: Name = name("config-sync-period", "configSyncPeriod");
pub(super) const VERBOSITY: Name = name("v", "logging.verbosity");
pub(super) const LOG_FORMAT: Name = name("logging-format", "logging.format");
