//! The Events for the API server (contract 10.1): kube-proxy's, in its words, and `AddressConflict`, which is ours.
//!
//! One of kube-proxy's Events is missing: `IPVSDeprecation`, which is about kube-proxy's own ipvs mode.

use crate::api::events::{Happening, Regarding};
use crate::desired::claims::ORDER;
use crate::serve::service_health::Failed;

const START: &str = "StartKubeProxy";

/// The program starts.
pub(crate) fn starting() -> Happening {
    Happening {
        regarding: Regarding::Node,
        warning: false,
        reason: "Starting",
        action: START,
        note: concat!("kube-ipvs v", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// The servers of the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnServer {
    Healthz,
    Metrics,
}

impl OwnServer {
    /// Its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Metrics => "metrics",
        }
    }
}

/// A server could not listen, and the program ends because of that.
pub(crate) fn server_failed(server: OwnServer, why: String) -> Happening {
    let reason = match server {
        OwnServer::Healthz => "FailedToStartProxierHealthcheck",
        OwnServer::Metrics => "FailedToStartMetricServer",
    };
    Happening { regarding: Regarding::Node, warning: true, reason, action: START, note: why }
}

/// Somebody else has addresses of a Service too: `notes` says which addresses, and who.
pub(crate) fn address_conflict(service: Regarding, notes: &[String]) -> Happening {
    let note = notes.join("; ");
    Happening { regarding: service, warning: true, reason: "AddressConflict", action: "ServeAddress", note }
}

/// Other Services have what a Service asks for: `held` lists protocol, address and port of each, and who has it.
pub(crate) fn held_by_others(held: &str) -> String {
    format!("other Services have what this one asks for, and keep it ({ORDER}): {held}")
}

/// External IPs of a Service are addresses of this node.
pub(crate) fn of_node(addresses: &str, is_one: bool, node_name: &str) -> String {
    let (ips, are, they_stay) = if is_one { ("IP", "is", "it stays") } else { ("IPs", "are", "they stay") };
    format!(
        "external {ips} {addresses} {are} node {node_name}'s own: there {they_stay} the node's, but for the Service's ports"
    )
}

/// A health check port of a Service cannot be listened on.
pub(crate) fn health_check_failed(node_name: &str, failed: &Failed<'_>) -> Happening {
    let Failed { service, uid, address, error } = failed;
    Happening {
        regarding: Regarding::Service { key: (*service).clone(), uid: *uid },
        warning: true,
        reason: "FailedToStartServiceHealthcheck",
        action: "Listen",
        note: format!(
            "node {node_name} failed to start healthcheck \"{service}\" on port {}: {address}: {error}",
            address.port()
        ),
    }
}
