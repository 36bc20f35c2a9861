//! What is out of the ordinary, in sentences.

use std::net::IpAddr;

use super::super::super::explain::{Object, Port, ServiceExplained, Standing};
use super::super::Reconciler;
use crate::cluster::types::{Family, Policy, Service, ServiceKey};

/// So many objects are named in one sentence; all are listed elsewhere.
const NAMED: usize = 3;

/// What becomes of new connections to an entry point without an endpoint that its policy would have.
pub(super) const DROPPED: &str = "are dropped";

/// Before the facts are complete nothing is written.
pub(super) const INCOMPLETE: &str =
    "The lists of Services, EndpointSlices and Nodes have not all come yet, and nothing is written before.";

/// What is said of a Service that is not known.
pub(super) fn unknown(reconciler: &Reconciler, key: &ServiceKey) -> String {
    let unknown = format!(
        "No Service {:?} in namespace {:?} is known here. Not known are those without a cluster IP (headless, or of type \
         ExternalName), those with the label service.kubernetes.io/service-proxy-name, and those that make no sense, which \
         the log names.",
        key.name(),
        key.namespace()
    );
    let mut sentences = vec![unknown];
    let slices = reconciler.cluster.slices(key).count();
    if slices > 0 {
        sentences.push(format!("EndpointSlices of it that are known: {slices}."));
    }
    if !reconciler.cluster.is_complete() {
        sentences.push(INCOMPLETE.to_owned());
    }
    sentences.join(" ")
}

/// The sentences about a Service.
pub(super) fn of(
    reconciler: &Reconciler,
    service: &Service,
    is_looked_at: bool,
    explained: &ServiceExplained,
) -> Vec<String> {
    let mut findings = Vec::new();
    if !reconciler.cluster.is_complete() {
        findings.push(INCOMPLETE.to_owned());
    } else if !is_looked_at {
        findings.push("It was not looked at yet: others are written first.".to_owned());
    }
    let unserved = |address: &&IpAddr| !reconciler.families.contains(&Family::of(**address));
    for address in service.cluster_ips.iter().filter(unserved) {
        let family = Family::of(*address);
        findings.push(format!("{address} is not served: this node's kernel has no {family}."));
    }
    let served = reconciler.desired.served(service);
    if *served != *service {
        let addresses = explained.facts.external_ips.join(", ");
        findings.push(format!(
            "The external IPs ({addresses}) are not served: the feature gate AllowServiceExternalIPs is false."
        ));
    }
    findings.extend(explained.ports.iter().filter_map(|port| port_without(&served, explained, port)));
    for point in &explained.entry_points {
        if let Some(owner) = &point.belongs_to {
            let server = &point.virtual_server;
            findings
                .push(format!("{server} belongs to Service {owner}, which is older and asks for it too."));
        }
        if !point.allowed_sources.is_empty() {
            let (server, sources) = (&point.virtual_server, point.allowed_sources.join(", "));
            findings.push(format!("{server} is for clients in {sources} only."));
        }
    }
    for address in explained.addresses.iter().filter(|address| address.on != crate::state::DEVICE) {
        let (address, on) = (&address.address, &address.on);
        findings.push(format!("{address} is not put on kube-ipvs0: it belongs to {on}."));
    }
    for (state, what) in [
        (Standing::Refused, "The kernel refused, and is asked again:"),
        (Standing::Uncertain, "What the kernel has is uncertain, and is about to be read:"),
        (Standing::Waiting, "Not written yet:"),
    ] {
        let objects: Vec<_> = explained.not_as_wanted.iter().filter(|object| object.state == state).collect();
        if let Some(named) = named(&objects) {
            findings.push(format!("{what} {named}."));
        }
    }
    findings
}

/// The first objects with their reasons, and how many more there are.
fn named(objects: &[&Object]) -> Option<String> {
    let one = |object: &&Object| match &object.reason {
        Some(reason) => format!("{} ({reason})", object.object),
        None => object.object.clone(),
    };
    let first: Vec<_> = objects.iter().take(NAMED).map(one).collect();
    let more = objects.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!first.is_empty()).then(|| first.join("; ") + &more)
}

/// Why a port has no endpoint for new connections.
fn port_without(service: &Service, explained: &ServiceExplained, port: &Port) -> Option<String> {
    let Port { name, family, protocol, port: number, .. } = port;
    let of = format!("Port {number} {protocol} ({family})");
    let slices = || explained.endpoint_slices.iter().filter(|slice| slice.family == *family);
    let is_external_local = service
        .external
        .as_deref()
        .is_some_and(|external| external.policy == Policy::Local && external.is_reached(service));
    let is_local = service.internal_policy == Policy::Local || is_external_local;
    if port.endpoints.is_empty() {
        let why = if slices().next().is_none() {
            "the Service has no EndpointSlice of that family".to_owned()
        } else if slices().all(|slice| slice.endpoints == 0) {
            "the EndpointSlices have no endpoints: no pod matches the selector, or none has an address"
                .to_owned()
        } else {
            format!("no EndpointSlice with endpoints has a port with the name {name:?} and this protocol")
        };
        return Some(format!("{of} has no endpoints: {why}."));
    }
    let all = port.endpoints.len();
    if port.used_with_policy_cluster == 0 {
        return Some(format!("{of} has no endpoint that is ready, of {all}."));
    }
    (is_local && port.used_with_policy_local == 0).then(|| {
        let are_dropped = explained.entry_points.iter().any(|point| point.new_connections == DROPPED);
        let what = if are_dropped {
            "new connections are dropped"
        } else {
            "new connections go to other nodes, since pods cannot be told from clients outside"
        };
        format!("{of} has no endpoint that is ready on this node: where the policy is Local, {what}.")
    })
}
