//! Services.

use std::net::IpAddr;

use super::seen::Seen;
use super::{
    PORT_NUMBERS, PROTOCOLS, Problem, Rejected, Subject, Texts, external, in_words, label, port_number,
    protocol,
};
use crate::api::objects::{self, PROXY_NAME};
use crate::cluster::types::{Family, Policy, Service, ServiceKey, ServicePort, Uid};
use crate::sloppy;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not given: three hours.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
const LONGEST_AFFINITY_SECONDS: i32 = 86_400;

pub(super) fn convert(
    texts: &mut Texts,
    object: &objects::Service<'_>,
) -> Result<(Service, Vec<Problem>), Rejected> {
    let subject = Subject::namespaced("Service", &object.metadata)?;
    let none = objects::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&none);

    if label(&object.metadata, PROXY_NAME).is_some() {
        return Err(Rejected::Ignored);
    }
    let mut problems = Vec::new();
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some("ExternalName") => return Err(Rejected::Ignored),
        // A problem, but no reason to withdraw a cluster IP: whatever the type will mean, this part of it is known.
        Some(other) => problems.push(subject.problem(
            "spec.type",
            format!("{other:?}"),
            "ClusterIP, NodePort, LoadBalancer or ExternalName; its cluster IP is served",
        )),
    }
    // These come first: a Service without a cluster IP is not ours, whatever its ports.
    let cluster_ips = cluster_ips(subject, spec)?;
    let ports = ports(texts, subject, spec)?;
    let affinity_seconds = affinity(subject, spec)?;
    if affinity_seconds.is_some() && ports.iter().any(ServicePort::lacks_affinity) {
        let (protocol, port) = ServicePort::WITHOUT_AFFINITY;
        problems.push(subject.unserved(
            "spec.sessionAffinity",
            "\"ClientIP\"",
            format!("is not served at {protocol} port {port}: IPVS would open port 20 and all from 1024 on"),
        ));
    }
    let external = external::convert(subject, object, spec, &ports, &mut problems)?;
    let service = Service {
        cluster_ips,
        affinity_seconds,
        internal_policy: policy(
            subject,
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
        )?,
        external: external.map(Box::new),
        remarks: in_words(&problems).map(String::into_boxed_str),
        ports,
        uid: object.metadata.uid.as_deref().and_then(Uid::parse),
        created_seconds: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        key: ServiceKey::new(subject.namespace.unwrap_or_default(), subject.name),
    };
    Ok((service, problems))
}

/// The addresses, primary first: `clusterIPs`, or else `clusterIP`; if `ipFamilies` is given, only those that it has a
/// family for (contract 4.3).
fn cluster_ips(subject: Subject<'_>, spec: &objects::ServiceSpec<'_>) -> Result<Vec<IpAddr>, Rejected> {
    const ALLOWED: &str = "an IP address that can be a service address, or None";
    let single = spec.cluster_ip.as_deref().unwrap_or_default();
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    if single == "None" || several.iter().any(|address| &**address == "None") {
        return Err(Rejected::Ignored);
    }
    let written: Vec<(String, &str)> = if several.is_empty() {
        if single.is_empty() {
            return Err(Rejected::Ignored);
        }
        vec![("spec.clusterIP".to_owned(), single)]
    } else {
        several
            .iter()
            .enumerate()
            .map(|(index, address)| (format!("spec.clusterIPs[{index}]"), &**address))
            .collect()
    };
    let families = spec.ip_families.as_deref().unwrap_or_default();

    let mut addresses: Vec<IpAddr> = Vec::with_capacity(written.len());
    for (index, (field, text)) in written.into_iter().enumerate() {
        let refuse = |allowed: String| {
            Rejected::Refused(subject.problem(field.as_str(), format!("{text:?}"), allowed))
        };
        let address = sloppy::parse_ip(text)
            .filter(|address| can_be_service_address(*address))
            .ok_or_else(|| refuse(ALLOWED.to_owned()))?;
        let family = Family::of(address);
        if index == 0 && !single.is_empty() && sloppy::parse_ip(single) != Some(address) {
            return Err(refuse(format!("the address of spec.clusterIP, {single:?}")));
        }
        if !families.is_empty() {
            // An address beyond the families was left behind by a change from two families to one.
            let Some(wanted) = families.get(index) else { continue };
            if **wanted != *family.to_string() {
                return Err(refuse(format!("an address of spec.ipFamilies[{index}], {:?}", &**wanted)));
            }
        }
        if addresses.iter().any(|other| Family::of(*other) == family) {
            return Err(refuse("at most one address of each family".to_owned()));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Whether the address may be put on a device of the node. A loopback address would take over the node's own; the
/// others are no host's address. The API server never assigns such an address, but a file can have one.
pub(super) fn can_be_service_address(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// The ports. Of the API's validation, what is enforced here is what keeps a port from meaning two things: slices refer
/// to a port by name and protocol, and clients by number and protocol.
fn ports(
    texts: &mut Texts,
    subject: Subject<'_>,
    spec: &objects::ServiceSpec<'_>,
) -> Result<Vec<ServicePort>, Rejected> {
    let written = spec.ports.as_deref().unwrap_or_default();
    let refuse = |field: String, found: String, allowed: &str| {
        Rejected::Refused(subject.problem(field, found, allowed))
    };
    if written.is_empty() {
        return Err(refuse("spec.ports".to_owned(), "nothing".to_owned(), "at least one port"));
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(written.len());
    let (mut numbers, mut names) = (Seen::nothing(), Seen::nothing());
    for (index, port) in written.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let written = port.port.unwrap_or_default();
        let number =
            port_number(written).ok_or_else(|| refuse(at("port"), written.to_string(), PORT_NUMBERS))?;
        let protocol = protocol(port.protocol.as_deref()).ok_or_else(|| {
            refuse(at("protocol"), format!("{:?}", port.protocol.as_deref().unwrap_or_default()), PROTOCOLS)
        })?;
        let name = port.name.as_deref().unwrap_or_default();
        if !numbers.is_new((protocol, number)) {
            return Err(refuse(at("port"), format!("{number} ({protocol}) again"), "each port once"));
        }
        if !names.is_new((protocol, name)) {
            let allowed = "a name of its own for each of several ports";
            return Err(refuse(at("name"), format!("{name:?} again"), allowed));
        }
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(written) => Some(
                port_number(written)
                    .ok_or_else(|| refuse(at("nodePort"), written.to_string(), PORT_NUMBERS))?,
            ),
        };
        ports.push(ServicePort { name: texts.share(name), protocol, port: number, node_port });
    }
    Ok(ports)
}

/// A traffic policy; `Cluster` is the API's default.
pub(super) fn policy(subject: Subject<'_>, field: &str, text: Option<&str>) -> Result<Policy, Rejected> {
    match text {
        None | Some("" | "Cluster") => Ok(Policy::Cluster),
        Some("Local") => Ok(Policy::Local),
        Some(other) => {
            Err(Rejected::Refused(subject.problem(field, format!("{other:?}"), "Cluster or Local")))
        }
    }
}

fn affinity(subject: Subject<'_>, spec: &objects::ServiceSpec<'_>) -> Result<Option<u32>, Rejected> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Ok(None),
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds =
                config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
            match u32::try_from(seconds) {
                Ok(seconds @ 1..) if seconds <= LONGEST_AFFINITY_SECONDS.unsigned_abs() => Ok(Some(seconds)),
                _ => Err(Rejected::Refused(subject.problem(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    seconds,
                    format!("1 to {LONGEST_AFFINITY_SECONDS}"),
                ))),
            }
        }
        Some(other) => Err(Rejected::Refused(subject.problem(
            "spec.sessionAffinity",
            format!("{other:?}"),
            "ClientIP or None",
        ))),
    }
}
