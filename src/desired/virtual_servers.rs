//! Entry points → virtual servers and real servers (contract 4.4).

use super::entry_points::EntryPoint;
use crate::cluster::types::{Family, Service, ServicePort};
use crate::options::ProxyOptions;
use crate::state::{RealServer, RealServerKey, RealServers, VirtualServer, Weight};

/// The virtual server of an entry point, with the attributes that kube-proxy gives it. Without real servers it will not
/// be made.
pub(super) fn of_entry_point(
    service: &Service,
    point: EntryPoint,
    real_servers: RealServers,
    options: &ProxyOptions,
) -> VirtualServer {
    let mut flags = 0;
    let at = (point.server.protocol, point.server.port);
    let affinity_seconds = service.affinity_seconds.filter(|_| at != ServicePort::WITHOUT_AFFINITY);
    if affinity_seconds.is_some() {
        flags |= VirtualServer::PERSISTENT;
    }
    if &*options.scheduler == "mh" {
        flags |= VirtualServer::MH_PORT;
    }
    VirtualServer {
        scheduler: options.scheduler.clone(),
        flags,
        timeout_seconds: affinity_seconds.unwrap_or(0),
        netmask_bits: Family::of(point.server.address).host_prefix(),
        real_servers,
    }
}

/// The real servers for these endpoints.
pub(super) fn real_servers(endpoints: &[RealServerKey]) -> RealServers {
    endpoints.iter().map(|key| (*key, RealServer::with(Weight::Exactly(1)))).collect()
}
