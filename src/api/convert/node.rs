//! Nodes.

use super::{Problem, Rejected, Subject, Texts, label};
use crate::api::objects::{self, ZONE};
use crate::cluster::types::Node;
use crate::sloppy;

/// The cluster autoscaler's taint on a node that it is about to delete: load balancers should leave it (contract 8.2).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

pub(super) fn convert(
    texts: &mut Texts,
    object: &objects::Node<'_>,
) -> Result<(Node, Vec<Problem>), Rejected> {
    let subject = Subject::global("Node", &object.metadata)?;
    let written = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        let of_kind = written.iter().filter(|address| address.type_.as_deref() == Some(kind));
        addresses.extend(of_kind.filter_map(|address| sloppy::parse_ip(address.address.as_deref()?)));
    }
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let spec = object.spec.as_ref();
    let several = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let single = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let pod_cidrs = if several.is_empty() { single.into_iter().collect() } else { texts_of(several) };
    let node = Node {
        name: texts.share(subject.name),
        addresses,
        zone: label(&object.metadata, ZONE).filter(|zone| !zone.is_empty()).map(|zone| texts.share(zone)),
        pod_cidrs: pod_cidrs.into_iter().filter_map(sloppy::parse_cidr).collect(),
        eligible: object.metadata.deletion_timestamp.is_none()
            && !taints.iter().any(|taint| taint.key.as_deref() == Some(TO_BE_DELETED)),
    };
    Ok((node, Vec::new()))
}

fn texts_of<'a>(written: &'a [objects::Text<'_>]) -> Vec<&'a str> {
    written.iter().map(|text| &**text).collect()
}
