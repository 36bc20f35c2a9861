//! The Services that everything else needs to start: the API and DNS. A new node is useful once they work, however many
//! Services there are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cluster::types::Service;
use crate::cluster::{Cluster, Touched};

/// `default/kubernetes`, and every Service in `kube-system` with port 53 (DNS goes by several names).
///
/// Also, in any number of steps, the Services that share an address or a node port with one of them: who gets an
/// address or node port is known only from all claimants together.
pub(super) fn services(cluster: &Cluster) -> Touched {
    let mut found = Touched::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let mut node_ports: BTreeSet<u16> = BTreeSet::new();
    loop {
        let before = found.len();
        for service in cluster.services() {
            let concerned = is_needed(service)
                || addresses_of(service).any(|address| addresses.contains(&address))
                || node_ports_of(service).any(|number| node_ports.contains(&number));
            if concerned && found.insert(service.key.clone()) {
                addresses.extend(addresses_of(service));
                node_ports.extend(node_ports_of(service));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn is_needed(service: &Service) -> bool {
    match (service.key.namespace(), service.key.name()) {
        ("default", "kubernetes") => true,
        ("kube-system", _) => service.ports.iter().any(|port| port.port == 53),
        _ => false,
    }
}

fn addresses_of(service: &Service) -> impl Iterator<Item = IpAddr> {
    let external = service.external.as_deref().into_iter();
    let external =
        external.flat_map(|external| external.load_balancer_ips.iter().chain(&external.external_ips));
    service.cluster_ips.iter().chain(external).copied()
}

fn node_ports_of(service: &Service) -> impl Iterator<Item = u16> {
    service.ports.iter().filter_map(|port| port.node_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Change, Event};
    use crate::cluster::examples;
    use crate::cluster::types::{External, Protocol, ServiceKey, ServicePort};

    fn service(key: &str, last: u8, port: u16, node_port: Option<u16>) -> Service {
        let (namespace, name) = key.split_once('/').expect("namespace/name");
        Service {
            cluster_ips: vec![IpAddr::from([10, 96, 0, last])],
            ports: vec![ServicePort { name: "".into(), protocol: Protocol::Udp, port, node_port }],
            ..examples::service(ServiceKey::new(namespace, name))
        }
    }

    #[test]
    fn the_api_and_dns_come_first_and_whoever_is_in_their_way() {
        let mut cluster = Cluster::default();
        for service in [
            service("default/kubernetes", 1, 443, None),
            service("default/other", 2, 443, None),
            service("kube-system/dns", 3, 53, Some(30_053)),
            service("kube-system/metrics", 4, 443, None),
            service("apps/dns", 5, 53, None),
            service("apps/same-node-port", 6, 80, Some(30_053)),
            service("apps/same-address-as-that", 6, 81, None),
        ] {
            cluster.apply(Event::Service(Change::Upsert(service)));
        }
        let found: Vec<String> = services(&cluster).iter().map(ToString::to_string).collect();
        let needed = ["default/kubernetes", "kube-system/dns"];
        let in_the_way = ["apps/same-address-as-that", "apps/same-node-port"];
        assert_eq!(found, [in_the_way, needed].concat());
    }

    #[test]
    fn who_has_an_address_from_outside_of_theirs_is_in_their_way_too() {
        let (balanced, other) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([198, 51, 100, 1]));
        let reached = |service, load_balancer_ips: &[IpAddr], external_ips: &[IpAddr]| Service {
            external: Some(Box::new(External {
                load_balancer_ips: load_balancer_ips.to_vec(),
                external_ips: external_ips.to_vec(),
                ..External::default()
            })),
            ..service
        };
        let mut cluster = Cluster::default();
        for service in [
            reached(service("kube-system/dns", 1, 53, None), &[balanced], &[other]),
            reached(service("apps/balanced", 2, 80, None), &[other], &[]),
            reached(service("apps/external", 3, 80, None), &[], &[balanced]),
            reached(service("apps/elsewhere", 4, 80, None), &[IpAddr::from([203, 0, 113, 2])], &[]),
        ] {
            cluster.apply(Event::Service(Change::Upsert(service)));
        }
        let found: Vec<String> = services(&cluster).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["apps/balanced", "apps/external", "kube-system/dns"]);
    }
}
