//! Services → virtual servers and real servers (contract 4.4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cluster::types::{Family, Service, ServicePort};
use crate::cluster::{Cluster, endpoints};
use crate::options::ProxyOptions;
use crate::state::{RealServer, VirtualServer, VirtualServerKey, Weight};

/// The virtual servers that a Service asks for: one per address and port.
pub(super) fn of(
    cluster: &Cluster,
    service: &Service,
    addresses: &[IpAddr],
    options: &ProxyOptions,
) -> BTreeMap<VirtualServerKey, VirtualServer> {
    let mut servers = BTreeMap::new();
    for &address in addresses {
        for port in &service.ports {
            let key = VirtualServerKey { address, protocol: port.protocol, port: port.port };
            servers
                .entry(key)
                .or_insert_with(|| virtual_server(cluster, service, port, Family::of(address), options));
        }
    }
    servers
}

/// A virtual server with the attributes that kube-proxy gives it.
fn virtual_server(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    options: &ProxyOptions,
) -> VirtualServer {
    let mut flags = 0;
    if service.affinity_seconds.is_some() {
        flags |= VirtualServer::PERSISTENT;
    }
    if &*options.scheduler == "mh" {
        flags |= VirtualServer::MH_PORT;
    }
    VirtualServer {
        scheduler: options.scheduler.clone(),
        flags,
        timeout_seconds: service.affinity_seconds.unwrap_or(0),
        netmask_bits: family.host_prefix(),
        real_servers: endpoints::usable(cluster, service, port, family)
            .into_iter()
            .map(|key| (key, RealServer::with(Weight::Exactly(1))))
            .collect(),
    }
}
