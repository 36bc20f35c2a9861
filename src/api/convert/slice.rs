//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::{PORT_NUMBERS, PROTOCOLS, Problem, Rejected, Subject, Texts, label, port_number, protocol};
use crate::api::objects::{self, HEADLESS, ObjectMeta, SERVICE_NAME, TRIGGER_TIME};
use crate::cluster::types::{Endpoint, EndpointSlice, Family, Hints, ServiceKey, SliceKey, SlicePort};
use crate::sloppy;

pub(super) fn convert(
    texts: &mut Texts,
    object: &objects::EndpointSlice<'_>,
) -> Result<(EndpointSlice, Vec<Problem>), Rejected> {
    let subject = Subject::namespaced("EndpointSlice", &object.metadata)?;
    if label(&object.metadata, HEADLESS).is_some() {
        return Err(Rejected::Ignored);
    }
    let service = match label(&object.metadata, SERVICE_NAME) {
        Some(name) if !name.is_empty() => name,
        _ => return Err(Rejected::Ignored),
    };
    let family = match object.address_type.as_deref().unwrap_or_default() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Err(Rejected::Ignored),
        other => {
            let found = if other.is_empty() { "nothing".to_owned() } else { format!("{other:?}") };
            return Err(Rejected::Refused(subject.problem("addressType", found, "IPv4, IPv6 or FQDN")));
        }
    };
    let namespace = subject.namespace.unwrap_or_default();
    let mut problems = Vec::new();
    let slice = EndpointSlice {
        service: ServiceKey::new(namespace, service),
        key: SliceKey::new(namespace, subject.name),
        family,
        ports: ports(texts, subject, object.ports.as_deref().unwrap_or_default(), &mut problems),
        endpoints: endpoints(
            texts,
            subject,
            family,
            object.endpoints.as_deref().unwrap_or_default(),
            &mut problems,
        ),
        triggered_nanoseconds: triggered(&object.metadata),
    };
    Ok((slice, problems))
}

/// The usable ports. A port without a number means "all ports", which Services have no use for: it is skipped silently,
/// as in kube-proxy. A port without a name is the unnamed one: the API server writes `""` there, but in a file nobody
/// does.
fn ports(
    texts: &mut Texts,
    subject: Subject<'_>,
    written: &[objects::EndpointPort<'_>],
    problems: &mut Vec<Problem>,
) -> Vec<SlicePort> {
    let mut ports = Vec::with_capacity(written.len());
    for (index, port) in written.iter().enumerate() {
        let Some(written_number) = port.port else { continue };
        let Some(number) = port_number(written_number) else {
            problems.push(subject.problem(format!("ports[{index}].port"), written_number, PORT_NUMBERS));
            continue;
        };
        let Some(protocol) = protocol(port.protocol.as_deref()) else {
            let found = format!("{:?}", port.protocol.as_deref().unwrap_or_default());
            problems.push(subject.problem(format!("ports[{index}].protocol"), found, PROTOCOLS));
            continue;
        };
        let name = texts.share(port.name.as_deref().unwrap_or_default());
        ports.push(SlicePort { name, protocol, port: number });
    }
    ports
}

fn endpoints(
    texts: &mut Texts,
    subject: Subject<'_>,
    family: Family,
    written: &[objects::Endpoint<'_>],
    problems: &mut Vec<Problem>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::with_capacity(written.len());
    for (index, endpoint) in written.iter().enumerate() {
        // Only the first address of an endpoint has a meaning (discovery/v1).
        let Some(text) = endpoint.addresses.as_ref().and_then(|addresses| addresses.first()) else {
            problems.push(subject.problem(
                format!("endpoints[{index}].addresses"),
                "nothing",
                "at least one address",
            ));
            continue;
        };
        let address = match address(text, family) {
            Ok(address) => address,
            Err(allowed) => {
                let field = format!("endpoints[{index}].addresses[0]");
                problems.push(subject.problem(field, format!("{:?}", &**text), allowed));
                continue;
            }
        };
        let conditions = endpoint.conditions.as_ref();
        let condition = |value: Option<Option<bool>>, default| value.flatten().unwrap_or(default);
        let node = endpoint.node_name.as_deref().filter(|node| !node.is_empty());
        endpoints.push(Endpoint {
            address,
            ready: condition(conditions.map(|conditions| conditions.ready), true),
            serving: condition(conditions.map(|conditions| conditions.serving), true),
            terminating: condition(conditions.map(|conditions| conditions.terminating), false),
            node: node.map(|node| texts.share(node)),
            hints: endpoint.hints.as_ref().and_then(|written| hints(texts, written)),
        });
    }
    endpoints
}

/// The hints, if there are any.
fn hints(texts: &mut Texts, written: &objects::EndpointHints<'_>) -> Option<Arc<Hints>> {
    let zones = written.for_zones.as_deref().unwrap_or_default();
    let nodes = written.for_nodes.as_deref().unwrap_or_default();
    let hints = Hints {
        zones: zones.iter().map(|zone| texts.share(zone.name.as_deref().unwrap_or_default())).collect(),
        nodes: nodes.iter().map(|node| texts.share(node.name.as_deref().unwrap_or_default())).collect(),
    };
    (hints != Hints::default()).then(|| Arc::new(hints))
}

/// The address of an endpoint, or what is allowed instead.
///
/// The checks are those of the API's validation (`ValidateEndpointIP`), for the same reason: a slice that names the
/// node's loopback address or a link-local metadata service would let anyone who may write slices reach, through the
/// proxy, what no client should. Multicast and broadcast addresses are no endpoints either.
fn address(text: &str, family: Family) -> Result<IpAddr, &'static str> {
    let address = match sloppy::parse_ip(text) {
        Some(address) if Family::of(address) == family => address,
        _ => {
            return Err(match family {
                Family::V4 => "an IPv4 address (addressType is IPv4)",
                Family::V6 => "an IPv6 address (addressType is IPv6)",
            });
        }
    };
    let special = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if special || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err("an address that is not unspecified, loopback, link-local, multicast or broadcast");
    }
    Ok(address)
}

/// When the change behind this slice happened. A value that cannot be read costs one sample of a metric, nothing else.
fn triggered(metadata: &ObjectMeta<'_>) -> Option<i64> {
    let text = metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}
