//! What makes a Service reachable besides its cluster IPs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::seen::Seen;
use super::service::{can_be_service_address, policy};
use super::{PORT_NUMBERS, Problem, Rejected, Subject, limit, port_number};
use crate::api::objects::{self, SOURCE_RANGES};
use crate::cluster::types::{External, Policy, ServicePort};
use crate::sloppy;

const ALLOWED_ADDRESS: &str = "an IP address that can be a service address; the others are served";

/// The entry points besides the cluster IPs; `None` if there are none.
pub(super) fn convert(
    subject: Subject<'_>,
    object: &objects::Service<'_>,
    spec: &objects::ServiceSpec<'_>,
    ports: &[ServicePort],
    problems: &mut Vec<Problem>,
) -> Result<Option<External>, Rejected> {
    let mut external_ips = Vec::new();
    for (index, text) in spec.external_ips.as_deref().unwrap_or_default().iter().enumerate() {
        put(text, &format!("spec.externalIPs[{index}]"), subject, &mut external_ips, problems);
    }
    let mut load_balancer_ips = Vec::new();
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    for (index, point) in ingress.iter().enumerate() {
        // With ipMode Proxy, the load balancer wants to see all traffic itself, even from inside the cluster.
        if point.ip_mode.as_deref().unwrap_or("VIP") == "VIP"
            && let Some(text) = point.ip.as_deref().filter(|text| !text.is_empty())
        {
            let field = format!("status.loadBalancer.ingress[{index}].ip");
            put(text, &field, subject, &mut load_balancer_ips, problems);
        }
    }
    for addresses in [&mut external_ips, &mut load_balancer_ips] {
        let mut seen = Seen::nothing();
        addresses.retain(|address| seen.is_new(*address));
    }
    let policy = policy(subject, "spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?;
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let (mut health_check_node_port, mut lacks_health_check_node_port) = (None, false);
    if balanced && policy == Policy::Local {
        match spec.health_check_node_port {
            None | Some(0) => lacks_health_check_node_port = true,
            Some(written) => {
                health_check_node_port = port_number(written);
                if health_check_node_port.is_none() {
                    problems.push(subject.problem("spec.healthCheckNodePort", written, PORT_NUMBERS));
                }
            }
        }
    }
    // A load balancer that has no address yet, or none that we serve, may still ask for the node's health.
    if external_ips.is_empty()
        && load_balancer_ips.is_empty()
        && ports.iter().all(|port| port.node_port.is_none())
        && health_check_node_port.is_none()
    {
        return Ok(None);
    }
    // For a Service of type ClusterIP, the policy applies to its external IPs only.
    let has_policy = balanced || spec.type_.as_deref() == Some("NodePort") || !external_ips.is_empty();
    let mut external = External {
        external_ips,
        load_balancer_ips,
        policy: if has_policy { policy } else { Policy::Cluster },
        source_ranges: Vec::new(),
        health_check_node_port,
        lacks_health_check_node_port,
    };
    match source_ranges(subject, object, spec) {
        Ok(written) => {
            let ranges = restrictions(&written);
            // Ranges of both families are usual even if the load balancer has addresses of only one.
            let addresses = &external.load_balancer_ips;
            let is_about =
                |range: &IpNet| addresses.iter().any(|address| address.is_ipv4() == range.addr().is_ipv4());
            if let Some(range) = ranges.first()
                && !addresses.is_empty()
                && !written.iter().any(is_about)
            {
                let outcome = "restricts nothing: the load balancer has no address of this IP family";
                problems.push(subject.unserved("spec.loadBalancerSourceRanges", range, outcome));
            }
            external.source_ranges = ranges;
        }
        Err(problem) => {
            let closed = std::mem::take(&mut external.load_balancer_ips);
            limit::take_out(closed, &mut external.external_ips);
            problems.push(problem);
        }
    }
    limit::apply(&mut external, ports.len(), subject, problems);
    Ok(Some(external))
}

/// Adds an address, or the problem with it.
fn put(
    text: &str,
    field: &str,
    subject: Subject<'_>,
    addresses: &mut Vec<IpAddr>,
    problems: &mut Vec<Problem>,
) {
    match sloppy::parse_ip(text).filter(|address| can_be_service_address(*address)) {
        Some(address) => addresses.push(address),
        None => problems.push(subject.problem(field, format!("{text:?}"), ALLOWED_ADDRESS)),
    }
}

/// The networks that may use the load balancer's addresses, as they are written.
fn source_ranges(
    subject: Subject<'_>,
    object: &objects::Service<'_>,
    spec: &objects::ServiceSpec<'_>,
) -> Result<Vec<IpNet>, Problem> {
    let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let mut texts: Vec<(String, &str)> = written
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("spec.loadBalancerSourceRanges[{index}]"), text.trim()))
        .collect();
    let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    if let (true, Some(annotation)) = (texts.is_empty(), annotation) {
        let entries = annotation.split(',').map(str::trim).filter(|text| !text.is_empty());
        texts = entries.map(|text| (format!("metadata.annotations[{SOURCE_RANGES}]"), text)).collect();
    }
    let range = |(field, text): (String, &str)| {
        sloppy::parse_cidr(text).ok_or_else(|| {
            let allowed = "a CIDR (until it is corrected, the load balancer's addresses are not served)";
            subject.problem(field, format!("{text:?}"), allowed)
        })
    };
    texts.into_iter().map(range).collect()
}

/// What is left of the ranges: if one of a family holds everything, that family is not restricted (contract 4.3).
fn restrictions(written: &[IpNet]) -> Vec<IpNet> {
    let everything: BTreeSet<bool> =
        written.iter().filter(|range| range.prefix_len() == 0).map(|range| range.addr().is_ipv4()).collect();
    let others = written.iter().filter(|range| !everything.contains(&range.addr().is_ipv4()));
    IpNet::aggregate(&others.copied().collect())
}
