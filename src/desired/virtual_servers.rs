//! Entry points → virtual servers and real servers (contract 4.4).

use super::entry_points::EntryPoint;
use crate::cluster::topology::Endpoints;
use crate::cluster::types::{Family, Policy, Service};
use crate::options::ProxyOptions;
use crate::state::{RealServer, VirtualServer, Weight};

/// The virtual server of an entry point, with the attributes that kube-proxy gives it. Without real servers it will not
/// be made.
pub(super) fn of_entry_point(
    service: &Service,
    point: EntryPoint,
    chosen: &Endpoints,
    options: &ProxyOptions,
) -> VirtualServer {
    let mut flags = 0;
    if service.affinity_seconds.is_some() {
        flags |= VirtualServer::PERSISTENT;
    }
    if &*options.scheduler == "mh" {
        flags |= VirtualServer::MH_PORT;
    }
    let endpoints = match point.policy {
        Policy::Cluster => &chosen.cluster,
        Policy::Local => &chosen.local,
    };
    VirtualServer {
        scheduler: options.scheduler.clone(),
        flags,
        timeout_seconds: service.affinity_seconds.unwrap_or(0),
        netmask_bits: Family::of(point.server.address).host_prefix(),
        real_servers: endpoints.iter().map(|key| (*key, RealServer::with(Weight::Exactly(1)))).collect(),
    }
}
