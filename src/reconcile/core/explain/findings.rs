//! What is out of the ordinary, in sentences.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::super::explanation::{
    EntryPoint, EntryPointKind, NewConnections, Object, Port, ServiceExplained, Standing,
};
use super::super::Reconciler;
use crate::cluster::types::{Family, Policy, Service, ServiceKey};
use crate::desired::claims::ORDER;
use crate::options::proxy::EXTERNAL_IPS_GATE;

/// At most this many objects are named in one sentence; all are listed elsewhere.
const NAMED: usize = 3;

/// Said until the facts are complete: nothing is written before.
pub(super) const INCOMPLETE: &str =
    "The lists of Services, EndpointSlices and Nodes have not all come yet, and nothing is written before.";

/// What to say of a Service that is not known.
pub(super) fn unknown(reconciler: &Reconciler, key: &ServiceKey) -> String {
    let unknown = format!(
        "No Service {:?} in namespace {:?} is known here. Not known are those without a cluster IP (headless, or of type \
         ExternalName), those with the label service.kubernetes.io/service-proxy-name, and invalid ones, which the log \
         names.",
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
        findings.push("It is not processed yet: other Services are written first.".to_owned());
    }
    findings.extend(service.remarks.iter().map(|remarks| format!("{remarks}.")));
    let unserved = |address: &&IpAddr| !reconciler.families.contains(&Family::of(**address));
    for address in service.cluster_ips.iter().filter(unserved) {
        let family = Family::of(*address);
        findings.push(format!("{address} is not served: this node's kernel has no {family}."));
    }
    if *reconciler.desired.served(service) != *service {
        let addresses = explained.facts.external_ips.join(", ");
        findings.push(format!(
            "The external IPs ({addresses}) are not served: the feature gate {EXTERNAL_IPS_GATE} is false."
        ));
    }
    findings.extend(explained.ports.iter().filter_map(|port| port_without(explained, is_looked_at, port)));
    for point in &explained.entry_points {
        if let Some(owner) = &point.belongs_to {
            let server = &point.virtual_server;
            findings.push(format!(
                "{server} belongs to Service {owner}, which asks for it too and keeps it: {ORDER}."
            ));
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
        (Standing::Uncertain, "The kernel's state is not known; it is being read back:"),
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
fn port_without(explained: &ServiceExplained, is_looked_at: bool, port: &Port) -> Option<String> {
    let Port { name, family, protocol, port: number, .. } = port;
    let of = format!("Port {number} {protocol} ({family})");
    let slices = || explained.endpoint_slices.iter().filter(|slice| slice.family == *family);
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
    // What is asked for at the entry points follows from the last look.
    if port.used_with_policy_local > 0 || !is_looked_at {
        return None;
    }
    let becomes = without_local_endpoint(explained, port)?;
    Some(format!("{of} has no endpoint that is ready on this node: where the policy is Local, {becomes}."))
}

/// What becomes of new connections to a port's entry points with policy `Local`, where no endpoint is on this node;
/// `None`: the Service has no such entry points.
fn without_local_endpoint(explained: &ServiceExplained, port: &Port) -> Option<String> {
    const ELSEWHERE: &str = "go to other nodes, since pods cannot be told from clients outside";
    let is_local = |point: &&EntryPoint| point.policy == Some(Policy::Local) && point.belongs_to.is_none();
    let points = explained.entry_points.iter().filter(|point| is_of(point, port)).filter(is_local);
    let (dropped, elsewhere): (Vec<_>, Vec<_>) =
        points.partition(|point| point.new_connections == NewConnections::Dropped);
    match (&dropped[..], &elsewhere[..]) {
        ([], []) => None,
        (_, []) => Some("new connections are dropped".to_owned()),
        ([], _) => Some(format!("new connections {ELSEWHERE}")),
        _ => {
            let (dropped, elsewhere) = (kinds(&dropped), kinds(&elsewhere));
            Some(format!(
                "new connections to the {dropped} are dropped, those to the {elsewhere} {ELSEWHERE}"
            ))
        }
    }
}

/// Whether an entry point is one of a port, in its family.
fn is_of(point: &EntryPoint, port: &Port) -> bool {
    let server = point.virtual_server;
    let number = if point.kind == EntryPointKind::NodePort { port.node_port } else { Some(port.port) };
    Family::of(server.address) == port.family
        && server.protocol == port.protocol
        && Some(server.port) == number
}

/// What kinds there are among entry points.
fn kinds(points: &[&EntryPoint]) -> String {
    let kinds: BTreeSet<EntryPointKind> = points.iter().map(|point| point.kind).collect();
    kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
