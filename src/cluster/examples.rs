//! Facts for tests, those outside the library too: what a test does not speak of is as in most clusters.

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

/// An endpoint that is ready, on no node that is known.
pub(crate) fn endpoint(address: IpAddr) -> Endpoint {
    Endpoint { address, ready: true, serving: true, terminating: false, node: None, hints: None }
}
