//! IP families: which one is primary, and what in the configuration does not fit it (contract 3.6).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::bail;
use ipnet::IpNet;

use crate::cluster::node_ips::NodeIps;
use crate::cluster::types::Family;
use crate::options::ProxyOptions;
use crate::options::proxy::{LocalDetector, NodePortAddresses};

/// The addresses to listen on, by the names of their settings; `None`: nowhere.
pub(super) type Listening = [(&'static str, Option<SocketAddr>); 2];

/// Logs the addresses of the node, the families, and what does not fit.
///
/// # Errors
/// The kernel lacks the primary family, or nothing could be forwarded.
pub(super) fn check(
    ips: &NodeIps,
    supported: &BTreeSet<Family>,
    pod_cidrs: &[IpNet],
    options: &ProxyOptions,
    listening: &Listening,
) -> anyhow::Result<()> {
    tracing::info!(NodeIPs = ?of_both(ips), "Successfully retrieved NodeIPs");
    if ips.primary().is_loopback() {
        tracing::info!("The node has loopback addresses only; name its address with --bind-address");
    }
    let primary = ips.primary;
    if !supported.contains(&primary) {
        bail!("no support for primary IP family {primary}");
    }
    if supported.len() > 1 {
        tracing::info!("primary ipFamily" = %primary, "kube-proxy running in dual-stack mode");
    } else {
        tracing::info!(ipFamily = %primary, "kube-proxy running in single-stack mode");
    }
    let dual_stack = supported.len() > 1;
    let mut findings = findings(ips, dual_stack, pod_cidrs, options);
    if !dual_stack {
        findings.told.extend(listens_in_vain(primary, listening));
    }
    for finding in &findings.told {
        tracing::error!(err = finding, "Kube-proxy configuration may be incomplete or incorrect");
    }
    if let Some(fatal) = findings.fatal {
        bail!(fatal);
    }
    if options.local_detector == LocalDetector::ClusterCidr
        && !options.cluster_cidrs.iter().any(|network| Family::of_network(network) == primary)
    {
        tracing::info!(
            "Detect-local-mode set to ClusterCIDR, but no cluster CIDR specified for primary IP family"
        );
        tracing::warn!(
            "Pods cannot be told apart from outside clients: where externalTrafficPolicy is Local, a node without a \
             local endpoint forwards all clients to endpoints on other nodes, as kube-proxy does in ipvs mode; set \
             --cluster-cidr to avoid this"
        );
    }
    Ok(())
}

/// The addresses as the log shows them: the primary one first.
fn of_both(ips: &NodeIps) -> Vec<String> {
    let mut families = Family::ALL;
    families.sort_by_key(|family| *family != ips.primary);
    families.into_iter().map(|family| ips.of(family).to_string()).collect()
}

/// What does not fit: findings that are only logged, and one that ends the program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    told: Vec<String>,
    fatal: Option<String>,
}

fn findings(ips: &NodeIps, dual_stack: bool, pod_cidrs: &[IpNet], options: &ProxyOptions) -> Findings {
    let primary = ips.primary;
    let (mut told, mut fatal) = (Vec::new(), None);
    // There are networks, and all of them are of the other family.
    let misses = |networks: &[IpNet]| {
        !networks.is_empty() && networks.iter().all(|network| Family::of_network(network) != primary)
    };
    let wrong = |what: &str, networks: &[IpNet]| {
        misses(networks).then(|| {
            format!("the primary IP family is {primary}, but {what} has only networks of the other family")
        })
    };
    match options.local_detector {
        LocalDetector::ClusterCidr if dual_stack => told.extend(wrong("clusterCIDR", &options.cluster_cidrs)),
        LocalDetector::ClusterCidr => fatal = wrong("clusterCIDR", &options.cluster_cidrs),
        LocalDetector::NodeCidr => fatal = wrong("spec.podCIDRs of the Node", pod_cidrs),
        LocalDetector::BridgeInterface(_) | LocalDetector::InterfaceNamePrefix(_) => {}
    }
    // With two families, either one may have virtual servers of others.
    if !dual_stack {
        told.extend(wrong("ipvs.excludeCIDRs", &options.exclude_cidrs));
    }
    // With `primary`, a family without an address in the Node object is served everywhere: the user asked for that.
    if let NodePortAddresses { networks, primary: false } = &options.node_port_addresses {
        let families: BTreeSet<_> = networks.iter().map(Family::of_network).collect();
        let cluster: BTreeSet<_> = options.cluster_cidrs.iter().map(Family::of_network).collect();
        if families.is_empty() {
            told.push(
                "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. Consider using \
                 `--nodeport-addresses primary`"
                    .to_owned(),
            );
        } else if families.len() == 1 && cluster.len() == 2 {
            told.push(
                "nodePortAddresses has networks of only one IP family, but the cluster has two: node ports of the \
                 other family are served on all addresses"
                    .to_owned(),
            );
        } else {
            told.extend(wrong("nodePortAddresses", networks));
        }
    }
    Findings { told, fatal }
}

/// The addresses to listen on that are not of the node's only family.
fn listens_in_vain(family: Family, listening: &Listening) -> impl Iterator<Item = String> {
    listening.iter().filter_map(move |(setting, address)| {
        let address = address.filter(|address| !address.ip().is_unspecified())?;
        let other = Family::of(address.ip());
        (other != family).then(|| format!("this node has only {family}, but {setting} is {other}: {address}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Listening = [("healthzBindAddress", None), ("metricsBindAddress", None)];

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn primary(address: &str) -> NodeIps {
        NodeIps::new(&[address.parse().unwrap()], None).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_or_fatal() {
        const V4: &str = "192.0.2.1";
        const V6: &str = "fd00::1";
        // Local traffic is detected by cluster CIDR, or by pod CIDRs where some are given. Last: findings logged,
        // whether fatal.
        for (address, dual_stack, cluster, pods, told, fatal) in [
            (V4, true, &["10.244.0.0/16"][..], &[][..], 0, false),
            (V4, true, &[], &[], 0, false),
            (V4, true, &["fd00:10::/56"], &[], 1, false),
            (V4, false, &["fd00:10::/56"], &[], 0, true),
            (V6, false, &["10.244.0.0/16"], &[], 0, true),
            (V4, false, &["10.244.0.0/16", "fd00:10::/56"], &[], 0, false),
            (V4, true, &[], &["10.244.1.0/24"], 0, false),
            (V4, true, &[], &["fd00:10:1::/64"], 0, true),
            (V4, false, &[], &["fd00:10:1::/64"], 0, true),
        ] {
            let options = ProxyOptions {
                local_detector: if pods.is_empty() {
                    LocalDetector::ClusterCidr
                } else {
                    LocalDetector::NodeCidr
                },
                cluster_cidrs: networks(cluster),
                node_port_addresses: NodePortAddresses { networks: vec![], primary: true },
                ..ProxyOptions::default()
            };
            let found = findings(&primary(address), dual_stack, &networks(pods), &options);
            let case = format!("{address} {dual_stack} {cluster:?} {pods:?}: {found:?}");
            assert_eq!((found.told.len(), found.fatal.is_some()), (told, fatal), "{case}");
        }
    }

    /// With two families, networks to leave alone and addresses to listen on may be of either one.
    #[test]
    fn the_other_family_does_not_fit_where_there_is_one_only() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let told = || log.lines_with("Kube-proxy configuration may be incomplete or incorrect");
        let options = |exclude: &[&str]| ProxyOptions {
            exclude_cidrs: networks(exclude),
            node_port_addresses: NodePortAddresses { networks: vec![], primary: true },
            ..ProxyOptions::default()
        };
        let at = |healthz: &str, metrics: &str| {
            [("healthzBindAddress", healthz.parse().ok()), ("metricsBindAddress", metrics.parse().ok())]
        };
        let v4 = [Family::V4].into();
        let both = Family::ALL.into();
        for (supported, exclude, listening, wanted) in [
            (&both, &["fd00::/64"][..], at("[::1]:1", "[fd00::1]:2"), &[][..]),
            (
                &v4,
                &["fd00::/64"],
                at("[::]:1", ""),
                &["ipvs.excludeCIDRs has only networks of the other family"],
            ),
            (&v4, &["fd00::/64", "10.0.0.0/8"], at("0.0.0.0:1", "127.0.0.1:2"), &[]),
            (
                &v4,
                &[],
                at("[::1]:1", "[fd00::1]:2"),
                &[
                    "this node has only IPv4, but healthzBindAddress is IPv6: [::1]:1",
                    "this node has only IPv4, but metricsBindAddress is IPv6: [fd00::1]:2",
                ],
            ),
        ] {
            let before = told().len();
            check(&primary("192.0.2.1"), supported, &[], &options(exclude), &listening).unwrap();
            let lines = told().split_off(before);
            assert_eq!(lines.len(), wanted.len(), "{lines:?}");
            for (line, wanted) in lines.iter().zip(wanted) {
                assert!(line.starts_with('E') && line.contains(wanted), "{line}");
            }
        }
    }

    #[test]
    fn node_port_addresses_are_looked_at() {
        let both = &["10.244.0.0/16", "fd00:10::/56"][..];
        for (cluster, given, wanted) in [
            (&[][..], &[][..], Some("nodePortAddresses is unset; ")),
            (both, &["192.0.2.0/24"], Some("nodePortAddresses has networks of only one IP family")),
            (both, &["192.0.2.0/24", "fd00::/64"], None),
            (&["10.244.0.0/16"], &["192.0.2.0/24"], None),
            (
                &["10.244.0.0/16"],
                &["fd00::/64"],
                Some("the primary IP family is IPv4, but nodePortAddresses"),
            ),
        ] {
            let options = ProxyOptions {
                cluster_cidrs: networks(cluster),
                node_port_addresses: NodePortAddresses { networks: networks(given), primary: false },
                ..ProxyOptions::default()
            };
            let found = findings(&primary("192.0.2.1"), true, &[], &options);
            assert_eq!(found.fatal, None);
            match (found.told.as_slice(), wanted) {
                ([], None) => {}
                ([told], Some(wanted)) if told.starts_with(wanted) => {}
                other => panic!("{cluster:?} {given:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_family_that_the_kernel_lacks_cannot_be_the_primary_one() {
        let options = ProxyOptions::default();
        let only_v4 = [Family::V4].into();
        let check = |address, supported| check(&primary(address), supported, &[], &options, &NOWHERE);
        let error = check("fd00::1", &only_v4).unwrap_err();
        assert_eq!(error.to_string(), "no support for primary IP family IPv6");
        check("192.0.2.1", &only_v4).unwrap();
        check("fd00::1", &Family::ALL.into()).unwrap();
    }
}
