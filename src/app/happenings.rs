//! What the API server is told of as Events (contract 10.1), in kube-proxy's words.
//!
//! One of kube-proxy's is missing: `IPVSDeprecation`. It is about kube-proxy's own ipvs mode.

use crate::api::events::{Happening, Regarding};
use crate::serve::service_health::Failed;

const START: &str = "StartKubeProxy";

/// The program starts.
pub(super) fn starting() -> Happening {
    Happening {
        regarding: Regarding::Node,
        warning: false,
        reason: "Starting",
        action: START,
        note: concat!("kube-ipvs v", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// A server could not listen, and the program ends because of that.
pub(super) fn server_failed(server: &str, reason: String) -> Happening {
    let name =
        if server == "healthz" { "FailedToStartProxierHealthcheck" } else { "FailedToStartMetricServer" };
    Happening { regarding: Regarding::Node, warning: true, reason: name, action: START, note: reason }
}

/// A health check port of a Service cannot be listened on.
pub(super) fn health_check_failed(node_name: &str, failed: &Failed<'_>) -> Happening {
    let Failed { service, address, error } = failed;
    Happening {
        regarding: Regarding::Service((*service).clone()),
        warning: true,
        reason: "FailedToStartServiceHealthcheck",
        action: "Listen",
        note: format!(
            "node {node_name} failed to start healthcheck \"{service}\" on port {}: {address}: {error}",
            address.port()
        ),
    }
}
