//! The names that kube-proxy uses, in all its modes. Pure.
//!
//! Everything is recognized by its exact name, never by `KUBE-` alone: kubelet has chains of its own (`KUBE-FIREWALL`
//! in filter, `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT`, `KUBE-HOSTPORTS`), and so have network plugins
//! (`KUBE-ROUTER-INPUT`, `KUBE-POD-FW-...`, `KUBE-NWPLCY-...` and their sets are kube-router's).

/// The name of the tables of kube-proxy's nftables mode, one of family `ip`, one of `ip6`.
pub(super) const NFTABLES_TABLE: &str = "kube-proxy";

/// The chain in table nat that masquerades, in the modes ipvs and iptables. A sync fills it, whatever Services there
/// are; kubelet before 1.27 filled it too, at its start.
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";

/// The chain in table nat that connections reach first, in the modes ipvs and iptables. Nobody else makes it, and a
/// sync fills it, whatever Services there are: the rule for node ports always exists.
pub(super) const SERVICES: &str = "KUBE-SERVICES";

/// The chain in table nat with which others mark what is to be masqueraded, in the modes ipvs and iptables.
pub(super) const MARK: &str = "KUBE-MARK-MASQ";

/// Chains in table filter: of the modes ipvs (contract 6.2), iptables and userspace.
const FILTER_CHAINS: [&str; 11] = [
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-NODE-PORT",
    "KUBE-NODEPORT-NON-LOCAL",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-CANARY",
    "KUBE-PROXY-FIREWALL",
    SERVICES,
    "KUBE-SOURCE-RANGES-FIREWALL",
];
/// Chains in table nat. The two `KUBE-MARK-` chains were also kubelet's, which used to make them anew when they were
/// missing, and no longer does. `KUBE-FIREWALL` is kube-proxy's only in this table.
const NAT_CHAINS: [&str; 13] = [
    "KUBE-FIREWALL",
    "KUBE-LOAD-BALANCER",
    "KUBE-MARK-DROP",
    MARK,
    "KUBE-NODE-PORT",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
    "KUBE-NODEPORTS",
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    POSTROUTING,
    "KUBE-PROXY-CANARY",
    SERVICES,
];
/// Prefixes of chains of the iptables mode in table nat: one chain per Service port or endpoint, named by a hash.
const HASHED_CHAINS: [&str; 6] =
    ["KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-SVC-", "KUBE-SVL-", "KUBE-XLB-"];
/// Length of the hash: base 32, letters and digits 2 to 7.
const HASH_LENGTH: usize = 16;

/// Chains in table filter to which no built-in chain jumps.
const INNER_FILTER_CHAINS: [&str; 2] = ["KUBE-PROXY-CANARY", "KUBE-SOURCE-RANGES-FIREWALL"];
/// Chains in table nat to which built-in chains jump: of the modes ipvs and iptables, and four of userspace.
const ENTERED_NAT_CHAINS: [&str; 6] = [
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    POSTROUTING,
    SERVICES,
];
/// The built-in chains that jump to chains of kube-proxy's.
const BUILT_IN_CHAINS: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// The sets of the ipvs mode without their prefix (contract 6.3), and one set of an earlier version.
const SETS: [&str; 18] = [
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-MASQ",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "LOOP-BACK",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-TCP",
    "NODE-PORT-UDP",
];
/// The kernel's limit for names of sets, to which kube-proxy truncates (`IPSET_MAXNAMELEN` without the NUL).
const SET_NAME_LENGTH: usize = 31;

/// Whether kube-proxy makes a chain of this name in this table of iptables.
pub(super) fn is_chain(table: &str, chain: &str) -> bool {
    match table {
        "filter" => FILTER_CHAINS.contains(&chain),
        "nat" => NAT_CHAINS.contains(&chain) || is_hashed(chain),
        "mangle" => chain == "KUBE-PROXY-CANARY",
        _ => false,
    }
}

/// Whether kube-proxy makes a jump from this built-in chain to this chain of its own. If not, such a jump is somebody
/// else's, whatever it looks like.
pub(super) fn is_entered(table: &str, from: &str, chain: &str) -> bool {
    BUILT_IN_CHAINS.contains(&from)
        && match table {
            "filter" => FILTER_CHAINS.contains(&chain) && !INNER_FILTER_CHAINS.contains(&chain),
            "nat" => ENTERED_NAT_CHAINS.contains(&chain),
            _ => false,
        }
}

fn is_hashed(chain: &str) -> bool {
    let is_hash = |rest: &str| {
        rest.len() == HASH_LENGTH && rest.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
    };
    HASHED_CHAINS.iter().any(|prefix| chain.strip_prefix(prefix).is_some_and(is_hash))
}

/// Whether kube-proxy makes an ipset of this name.
pub(super) fn is_set(name: &str) -> bool {
    SETS.iter().any(|set| {
        ["KUBE-", "KUBE-6-"].iter().any(|prefix| {
            let full = format!("{prefix}{set}");
            name == &full[..full.len().min(SET_NAME_LENGTH)]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_all_modes_are_known_and_those_of_others_are_not() {
        for (table, chain) in [
            ("filter", "KUBE-IPVS-FILTER"),
            ("filter", "KUBE-FORWARD"),
            ("nat", "KUBE-LOAD-BALANCER"),
            ("nat", "KUBE-FIREWALL"),
            ("nat", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ("nat", "KUBE-SEP-2ZXJQTEYSFGY7C2G"),
            ("nat", "KUBE-PORTALS-HOST"),
            ("mangle", "KUBE-PROXY-CANARY"),
        ] {
            assert!(is_chain(table, chain), "{table} {chain}");
        }
        for (table, chain) in [
            ("filter", "KUBE-FIREWALL"),
            ("filter", "KUBE-KUBELET-CANARY"),
            ("mangle", "KUBE-IPTABLES-HINT"),
            ("filter", "KUBE-ROUTER-INPUT"),
            ("filter", "KUBE-POD-FW-NPX46M4PTMTKRN6Y"),
            ("filter", "KUBE-NWPLCY-NPX46M4PTMTKRN6Y"),
            ("nat", "KUBE-HOSTPORTS"),
            ("nat", "KUBE-SVC-"),
            ("nat", "KUBE-SVC-short"),
            ("nat", "KUBE-SVC-npx46m4ptmtkrn6y"),
            ("filter", "KUBE-IPVS-FORWARD"),
            ("raw", "KUBE-SERVICES"),
            ("nat", "POSTROUTING"),
        ] {
            assert!(!is_chain(table, chain), "{table} {chain}");
        }
    }

    #[test]
    fn built_in_chains_jump_to_the_outer_ones_only() {
        for (table, from, chain) in [
            ("nat", "PREROUTING", "KUBE-SERVICES"),
            ("nat", "POSTROUTING", "KUBE-POSTROUTING"),
            ("nat", "PREROUTING", "KUBE-NODEPORT-CONTAINER"),
            ("nat", "OUTPUT", "KUBE-PORTALS-HOST"),
            ("filter", "INPUT", "KUBE-NODE-PORT"),
            ("filter", "INPUT", "KUBE-NODEPORT-NON-LOCAL"),
            ("filter", "FORWARD", "KUBE-PROXY-FIREWALL"),
            ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER"),
        ] {
            assert!(is_entered(table, from, chain), "{table} {from} {chain}");
        }
        for (table, from, chain) in [
            ("nat", "POSTROUTING", "KUBE-MARK-MASQ"),
            ("nat", "PREROUTING", "KUBE-MARK-DROP"),
            ("nat", "PREROUTING", "KUBE-NODE-PORT"),
            ("nat", "PREROUTING", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ("nat", "INPUT", "OTHERS"),
            ("nat", "OTHERS", "KUBE-SERVICES"),
            ("filter", "FORWARD", "KUBE-SOURCE-RANGES-FIREWALL"),
            ("filter", "FORWARD", "KUBE-IPVS-FORWARD"),
            ("mangle", "PREROUTING", "KUBE-PROXY-CANARY"),
        ] {
            assert!(!is_entered(table, from, chain), "{table} {from} {chain}");
        }
    }

    #[test]
    fn sets_of_both_families_are_known_also_where_they_are_cut() {
        for name in [
            "KUBE-LOOP-BACK",
            "KUBE-6-LOOP-BACK",
            "KUBE-LOAD-BALANCER-SOURCE-CIDR",
            "KUBE-6-LOAD-BALANCER-SOURCE-CID",
            "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS",
        ] {
            assert!(is_set(name), "{name}");
        }
        for name in [
            "KUBE-SRC-NPX46M4PTMTKRN6Y",
            "kube-router-local-ips",
            "KUBE-6-LOAD-BALANCER-SOURCE-CIDR",
            "KUBE-",
        ] {
            assert!(!is_set(name), "{name}");
        }
    }
}
