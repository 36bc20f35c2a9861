//! How many ways from outside one Service may have.

use super::{Problem, Subject};
use crate::cluster::types::External;

/// Each port at each address is an entry point with a virtual server of its own, and the API limits neither: an object of
/// 58 KB with 1,000 ports and 2,000 addresses would take more than 1 GB on each node. So many is what each of kube-proxy's
/// ipsets holds, of all Services together (contract 12.7).
const MOST_ENTRY_POINTS: usize = 65_536;

/// Leaves out the last addresses of a Service with so many ports, where there are too many: first `externalIPs`, which
/// whoever writes the Service writes, too, then the load balancer's.
pub(super) fn apply(
    external: &mut External,
    port_count: usize,
    subject: Subject<'_>,
    problems: &mut Vec<Problem>,
) {
    let mut left = MOST_ENTRY_POINTS / port_count.max(1);
    for (field, addresses) in [
        ("status.loadBalancer.ingress", &mut external.load_balancer_ips),
        ("spec.externalIPs", &mut external.external_ips),
    ] {
        let count = addresses.len();
        if count > left {
            problems.push(subject.problem(
                field,
                format!("{count} addresses with {port_count} ports"),
                format!(
                    "{left} addresses: those from outside times ports are at most {MOST_ENTRY_POINTS}; \
                     the ones behind are not served"
                ),
            ));
            addresses.truncate(left);
            addresses.shrink_to_fit();
        }
        left -= addresses.len();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn addresses(network: u8, count: u32) -> Vec<IpAddr> {
        let first = Ipv4Addr::new(198, network, 0, 0).to_bits();
        (0..count).map(|number| Ipv4Addr::from_bits(first + number).into()).collect()
    }

    #[test]
    fn the_last_addresses_are_left_out_and_those_of_the_load_balancer_last() {
        let subject = Subject { kind: "Service", namespace: Some("default"), name: "web" };
        for (ports, balanced, others, kept, lines) in [
            (16, 4_000, 96, (4_000, 96), &[][..]),
            (
                1_000,
                0,
                2_000,
                (0, 65),
                &[
                    "Service default/web: spec.externalIPs: found 2000 addresses with 1000 ports, allowed 65 addresses: \
                 those from outside times ports are at most 65536; the ones behind are not served",
                ],
            ),
            (
                16,
                4_000,
                97,
                (4_000, 96),
                &[
                    "Service default/web: spec.externalIPs: found 97 addresses with 16 ports, allowed 96 addresses: \
                 those from outside times ports are at most 65536; the ones behind are not served",
                ],
            ),
            (
                65_537,
                1,
                1,
                (0, 0),
                &[
                    "Service default/web: status.loadBalancer.ingress: found 1 addresses with 65537 ports, allowed 0 addresses: \
                 those from outside times ports are at most 65536; the ones behind are not served",
                    "Service default/web: spec.externalIPs: found 1 addresses with 65537 ports, allowed 0 addresses: \
                 those from outside times ports are at most 65536; the ones behind are not served",
                ],
            ),
        ] {
            let mut external = External {
                load_balancer_ips: addresses(18, balanced),
                external_ips: addresses(51, others),
                ..External::default()
            };
            let mut problems = Vec::new();
            apply(&mut external, ports, subject, &mut problems);
            assert_eq!(external.load_balancer_ips, addresses(18, kept.0));
            assert_eq!(external.external_ips, addresses(51, kept.1));
            assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), lines);
        }
    }
}
