//! Facts for tests, also for those outside the library: whatever a test does not specify is as in most clusters.

use std::net::IpAddr;

use kube_ipvs::cluster::types::{Endpoint, Policy, Service, ServiceKey};

/// A Service without addresses and ports.
pub(crate) fn service(key: ServiceKey) -> Service {
    Service {
        key,
        uid: None,
        created_seconds: 0,
        cluster_ips: Vec::new(),
        ports: Vec::new(),
        affinity_seconds: None,
        internal_policy: Policy::Cluster,
        external: None,
        remarks: None,
    }
}

/// A ready endpoint, on no known node.
pub(crate) fn endpoint(address: IpAddr) -> Endpoint {
    Endpoint { address, ready: true, serving: true, terminating: false, node: None, hints: None }
}
