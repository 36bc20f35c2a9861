//! The limit on the external addresses of one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Problem, Subject};
use crate::cluster::types::External;

/// How many entries the external addresses of one Service may need.
///
/// Each port at each address is an entry point with a virtual server of its own, and each source range is an element of
/// a set for each entry point of the load balancer's addresses. The API limits none of them: an object of 58 KB with
/// 1,000 ports and 2,000 addresses would take more than 1 GB on each node. This number is what each of kube-proxy's
/// ipsets holds, for all Services together (contract 12.7).
const MOST_ENTRIES: usize = 65_536;

/// Leaves out the last addresses of a Service if it has too many for its number of ports: first those of `externalIPs`,
/// which also come from the author of the Service, then the load balancer's.
///
/// Ranges are never left out: half a restriction is none. For the same reason, an address that is left out of the load
/// balancer's is not served as an external IP either.
pub(super) fn apply(
    external: &mut External,
    port_count: usize,
    subject: Subject<'_>,
    problems: &mut Vec<Problem>,
) {
    let ranges_of = |is_ipv4| {
        external.source_ranges.iter().filter(|range| range.addr().is_ipv4() == is_ipv4).count().max(1)
    };
    let (of_ipv4, of_ipv6) = (ranges_of(true), ranges_of(false));
    let restricted = |address: &IpAddr| port_count * if address.is_ipv4() { of_ipv4 } else { of_ipv6 };
    let open = |_: &IpAddr| port_count;
    let mut left = MOST_ENTRIES;
    let mut shorten = |addresses: &mut Vec<IpAddr>, entries: &dyn Fn(&IpAddr) -> usize, field| {
        let fits = |address: &&IpAddr| {
            let rest = left.checked_sub(entries(address));
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let (found, kept) = (addresses.len(), addresses.iter().take_while(fits).count());
        if kept == found {
            return Vec::new();
        }
        problems.push(subject.unserved(
            field,
            format!("{found} addresses with {port_count} ports"),
            format!(
                "are too many: only the first {kept} are served (external addresses × ports, × source ranges if there \
                 are any, are at most {MOST_ENTRIES})"
            ),
        ));
        let left_out = addresses.split_off(kept);
        addresses.shrink_to_fit();
        left_out
    };
    let left_out = shorten(&mut external.load_balancer_ips, &restricted, "status.loadBalancer.ingress");
    take_out(left_out, &mut external.external_ips);
    shorten(&mut external.external_ips, &open, "spec.externalIPs");
}

/// Removes from the external IPs the addresses of the load balancer that are not served: external IPs are open to
/// everybody, but the source ranges are about the address, whichever list it is in.
pub(super) fn take_out(unserved: Vec<IpAddr>, external_ips: &mut Vec<IpAddr>) {
    let unserved: BTreeSet<IpAddr> = unserved.into_iter().collect();
    external_ips.retain(|address| !unserved.contains(address));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::IpNet;

    use super::*;

    fn addresses(network: u8, count: u32) -> Vec<IpAddr> {
        let first = Ipv4Addr::new(198, network, 0, 0).to_bits();
        (0..count).map(|number| Ipv4Addr::from_bits(first + number).into()).collect()
    }

    /// What is left of the load balancer's addresses and of the external IPs, and the problems that are reported.
    fn left(ports: usize, balanced: u32, others: u32, ranges: &[IpNet]) -> (usize, usize, Vec<String>) {
        let subject = Subject { kind: "Service", namespace: Some("default"), name: "web" };
        let mut external = External {
            load_balancer_ips: addresses(18, balanced),
            external_ips: addresses(51, others),
            source_ranges: ranges.to_vec(),
            ..External::default()
        };
        let mut problems = Vec::new();
        apply(&mut external, ports, subject, &mut problems);
        let (balanced, others) = (external.load_balancer_ips.len(), external.external_ips.len());
        assert_eq!(external.load_balancer_ips[..], addresses(18, 10_000)[..balanced], "the first ones");
        assert_eq!(external.external_ips[..], addresses(51, 10_000)[..others], "the first ones");
        assert_eq!(external.source_ranges, ranges);
        let said = |problem: &Problem| format!("{}: {}", problem.field, problem.found);
        (balanced, others, problems.iter().map(said).collect())
    }

    #[test]
    fn external_ips_are_left_out_before_addresses_of_the_load_balancer() {
        let nothing: Vec<String> = Vec::new();
        assert_eq!(left(16, 4_000, 96, &[]), (4_000, 96, nothing));
        let others = "spec.externalIPs: 97 addresses with 16 ports".to_owned();
        assert_eq!(left(16, 4_000, 97, &[]), (4_000, 96, vec![others]));
        let balanced = "status.loadBalancer.ingress: 4097 addresses with 16 ports".to_owned();
        let others = "spec.externalIPs: 1 addresses with 16 ports".to_owned();
        assert_eq!(left(16, 4_097, 1, &[]), (4_096, 0, vec![balanced, others]));
        assert_eq!(left(65_537, 1, 0, &[]).0, 0, "not even one fits");
    }

    #[test]
    fn ranges_count_at_each_port_of_a_load_balancers_address_of_their_family() {
        let range = |number: u16| IpNet::from(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]));
        let range4 = |number: u16| {
            let [high, low] = number.to_be_bytes();
            IpNet::from(IpAddr::from([10, 0, high, low]))
        };
        let other_family: Vec<IpNet> = (0..100).map(range).collect();
        assert_eq!(left(64, 1_000, 24, &other_family), (1_000, 24, vec![]));
        let ranges: Vec<IpNet> = (0..512).map(range4).chain(other_family).collect();
        assert_eq!(left(64, 1, 512, &ranges), (1, 512, vec![]));
        let said = "status.loadBalancer.ingress: 3 addresses with 64 ports".to_owned();
        assert_eq!(left(64, 3, 0, &ranges), (2, 0, vec![said]));
    }

    #[test]
    fn ranges_of_ipv6_count_at_addresses_of_ipv6() {
        let subject = Subject { kind: "Service", namespace: Some("default"), name: "web" };
        let balanced: Vec<IpAddr> =
            (1..=3).map(|number| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])).collect();
        let mut external = External {
            load_balancer_ips: balanced.clone(),
            source_ranges: ["fd00::/16", "fd02::/16"].map(|range| range.parse().expect("a range")).into(),
            ..External::default()
        };
        apply(&mut external, MOST_ENTRIES / 5, subject, &mut Vec::new());
        assert_eq!(external.load_balancer_ips, balanced[..2], "two entries for each");
    }

    /// Served as an external IP, it would be open to everybody, whatever the ranges.
    #[test]
    fn what_is_left_out_of_the_load_balancers_addresses_is_no_external_ip_either() {
        let subject = Subject { kind: "Service", namespace: Some("default"), name: "web" };
        let (balanced, other) = (addresses(18, 4), addresses(51, 1)[0]);
        let mut external = External {
            load_balancer_ips: balanced.clone(),
            external_ips: vec![balanced[3], other],
            source_ranges: ["10.0.0.0/8", "192.168.0.0/16"]
                .map(|range| range.parse().expect("a range"))
                .into(),
            ..External::default()
        };
        let mut problems = Vec::new();
        // Two entries for each address of the load balancer leave one for an external IP.
        apply(&mut external, MOST_ENTRIES / 7, subject, &mut problems);
        assert_eq!(external.load_balancer_ips, balanced[..3]);
        assert_eq!(external.external_ips, [other]);
        let fields: Vec<_> = problems.iter().map(|problem| &*problem.field).collect();
        assert_eq!(fields, ["status.loadBalancer.ingress"]);
    }
}
