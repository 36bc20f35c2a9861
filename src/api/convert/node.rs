//! Nodes.

use k8s_openapi::api::core::v1 as core;

use super::{Not, Problem, Subject, Texts};
use crate::cluster::types::Node;
use crate::sloppy;

/// The cluster autoscaler is about to delete the node: load balancers should leave it (contract 8.2).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

pub(super) fn convert(texts: &mut Texts, object: &core::Node) -> Result<(Node, Vec<Problem>), Not> {
    let subject = Subject::global("Node", &object.metadata)?;
    let written = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        let of_kind = written.iter().filter(|address| address.type_ == kind);
        addresses.extend(of_kind.filter_map(|address| sloppy::parse_ip(&address.address)));
    }
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let node = Node {
        name: texts.share(subject.name),
        addresses,
        eligible: object.metadata.deletion_timestamp.is_none()
            && !taints.iter().any(|taint| taint.key == TO_BE_DELETED),
    };
    Ok((node, Vec::new()))
}
