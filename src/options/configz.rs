//! What `/configz` shows: the settings under the names of kube-proxy's internal type (contract 8.3).

use serde_json::{Value, json};

use super::configuration::Configuration;

/// The value of the key `kubeproxy.config.k8s.io`; durations are texts.
pub fn configz(configuration: &Configuration) -> Value {
    let Configuration { client_connection, conntrack, detect_local, iptables, ipvs, .. } = configuration;
    let cluster_cidrs: Vec<_> =
        configuration.cluster_cidr.split(',').map(str::trim).filter(|cidr| !cidr.is_empty()).collect();
    let winkernel = &configuration.winkernel;
    json!({
        "FeatureGates": configuration.feature_gates,
        "ClientConnection": {
            "Kubeconfig": client_connection.kubeconfig,
            "AcceptContentTypes": client_connection.accept_content_types,
            "ContentType": client_connection.content_type,
            "QPS": client_connection.qps,
            "Burst": client_connection.burst,
        },
        "Logging": configuration.logging,
        "HostnameOverride": configuration.hostname_override,
        "BindAddress": configuration.bind_address,
        "HealthzBindAddress": configuration.healthz_bind_address,
        "MetricsBindAddress": configuration.metrics_bind_address,
        "BindAddressHardFail": configuration.bind_address_hard_fail,
        "EnableProfiling": configuration.enable_profiling,
        "ShowHiddenMetricsForVersion": configuration.show_hidden_metrics_for_version,
        "Mode": configuration.mode,
        "IPTables": {
            "MasqueradeBit": iptables.masquerade_bit,
            "LocalhostNodePorts": iptables.localhost_node_ports,
        },
        "IPVS": {
            "MasqueradeBit": iptables.masquerade_bit,
            "Scheduler": ipvs.scheduler,
            "ExcludeCIDRs": ipvs.exclude_cidrs,
            "StrictARP": ipvs.strict_arp,
            "TCPTimeout": ipvs.tcp_timeout,
            "TCPFinTimeout": ipvs.tcp_fin_timeout,
            "UDPTimeout": ipvs.udp_timeout,
        },
        "NFTables": { "MasqueradeBit": configuration.nftables.masquerade_bit },
        "Winkernel": {
            "NetworkName": winkernel.network_name,
            "SourceVip": winkernel.source_vip,
            "EnableDSR": winkernel.enable_dsr,
            "RootHnsEndpointName": winkernel.root_hns_endpoint_name,
            "ForwardHealthCheckVip": winkernel.forward_health_check_vip,
        },
        "DetectLocalMode": configuration.detect_local_mode,
        "DetectLocal": {
            "BridgeInterface": detect_local.bridge_interface,
            "ClusterCIDRs": cluster_cidrs,
            "InterfaceNamePrefix": detect_local.interface_name_prefix,
        },
        "NodePortAddresses": configuration.node_port_addresses,
        "SyncPeriod": ipvs.sync_period,
        "MinSyncPeriod": ipvs.min_sync_period,
        "ConfigSyncPeriod": configuration.config_sync_period,
        "Linux": {
            "Conntrack": {
                "MaxPerCore": conntrack.max_per_core,
                "Min": conntrack.min,
                "TCPEstablishedTimeout": conntrack.tcp_established_timeout,
                "TCPCloseWaitTimeout": conntrack.tcp_close_wait_timeout,
                "TCPBeLiberal": conntrack.tcp_be_liberal,
                "UDPTimeout": conntrack.udp_timeout,
                "UDPStreamTimeout": conntrack.udp_stream_timeout,
            },
            "MasqueradeAll": iptables.masquerade_all,
            "OOMScoreAdj": configuration.oom_score_adj,
        },
        "Windows": { "RunAsService": configuration.windows_run_as_service },
        "KubeIPVS": configuration.own,
    })
}
