//! What else is on a node, and must be the same afterwards: chains of kubelet, Docker, a network plugin and an
//! administrator.

use std::time::Duration;

use crate::host::Host;
use crate::kube_proxy::{Mode, Variant};
use crate::proxy::{Proxy, eventually};

/// Names that only kube-proxy uses, except [`MARK`].
pub(crate) const KUBE_PROXYS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-FORWARD",
    "KUBE-POSTROUTING",
    "KUBE-NODE",
    "KUBE-LOAD-BALANCER",
    "KUBE-PROXY-",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT",
    "KUBE-SVC-",
    "KUBE-SEP-",
    "KUBE-CLUSTER-IP",
    "KUBE-6-",
    "kube-proxy",
];
/// The chain of kube-proxy that a takeover leaves, but a cleanup removes.
pub(crate) const MARK: &str = "KUBE-MARK-MASQ";
/// Names that only kube-ipvs uses.
pub(crate) const OURS: [&str; 2] = ["KUBE-IPVS-FORWARD", "kube-ipvs"];

/// Sets everything up. In this variant of iptables, FORWARD drops what nobody accepts; the network plugin accepts new
/// connections to and from pods. kube-proxy accepts the replies, except in nftables mode, where somebody else must.
pub(crate) fn set_up(host: &Host, variant: Variant, mode: Mode) {
    host.shell("ipset create admins hash:net; ipset add admins 192.0.2.0/24; ipset create KUBE-SRC-ABCDEFGHIJKLMNOP hash:ip");
    host.shell(
        "nft 'table inet admin {
           set closed { type inet_service; elements = { 9999 }; }
           chain input { type filter hook input priority 10; tcp dport @closed reject; }
         }'",
    );
    // Neither at a service address, nor kube-proxy's.
    host.shell(
        "ipvsadm -A -t 203.0.113.1:80 -s wlc && ipvsadm -a -t 203.0.113.1:80 -r 203.0.113.2 -g
         address=$(ip -4 -o addr show eth0 | sed 's|.* inet \\([0-9.]*\\)/.*|\\1|')
         ipvsadm -A -t $address:9000 -s sh",
    );
    for (tool, pods, sets) in [("iptables", "10.244.0.0/16", true), ("ip6tables", "fd00:10:244::/56", false)]
    {
        // kube-proxy's iptables mode creates this chain, too, and leaves it to kubelet when it ends.
        let localnet = if sets {
            "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n"
        } else {
            ""
        };
        let admins =
            if sets { "-A INPUT -m set --match-set admins src -p tcp --dport 22 -j ACCEPT\n" } else { "" };
        let replies = match mode {
            Mode::Nftables => "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
            Mode::Ipvs | Mode::Iptables => "",
        };
        let rules = format!(
            r#"*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8888 -j DNAT --to-destination :9999
COMMIT
*filter
:FORWARD DROP [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:DOCKER-USER - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
{admins}-A FORWARD -j DOCKER-USER
-A FORWARD -s {pods} -m conntrack --ctstate NEW -m comment --comment "a \"quoted\" word" -j ACCEPT
-A FORWARD -d {pods} -m conntrack --ctstate NEW -j ACCEPT
{replies}-A DOCKER-USER -j RETURN
{localnet}COMMIT
"#
        );
        host.shell(format!("{tool}-{}-restore --noflush <<'END'\n{rules}END\n", variant.word()));
    }
}

/// All of it, as the tools print it, without counters, without ours, and without what a takeover leaves.
pub(crate) fn seen(host: &Host) -> String {
    host.shell(
        "for tool in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
           echo \"== $tool\"
           $tool-save 2>/dev/null | grep -v -e '^#' -e KUBE-IPVS-FORWARD -e '^:KUBE-MARK-MASQ ' -e '^-A KUBE-MARK-MASQ ' | sed 's/ *\\[[0-9:]*\\]$//'
         done
         echo '== ipset'; ipset save
         echo '== nftables'; nft list table inet admin; nft list tables | grep -v -e kube-ipvs
         echo '== ipvs'; ipvsadm -Sn | grep -e 203.0.113 -e :9000; ip link show type dummy | grep -v kube-ipvs0 | grep -c dummy || true",
    )
}

/// Asserts that all of it is unchanged.
pub(crate) fn assert_same(host: &Host, node: &str, before: &str) {
    let after = seen(host);
    assert!(before == after, "{node} before:\n{before}\nafter:\n{after}");
}

/// Waits until nothing of kube-proxy is left.
pub(crate) fn wait_until_taken_over(host: &Host, node: &str, proxy: &Proxy) {
    let mut left = Vec::new();
    let gone = eventually(Duration::from_secs(20), || {
        left = self::left(host, &KUBE_PROXYS);
        left.is_empty()
    });
    assert!(gone, "{node}: {left:#?}\n{}", proxy.log());
}

/// What is left of kube-proxy or of ours, by these names.
pub(crate) fn left(host: &Host, of: &[&str]) -> Vec<String> {
    let all = host.shell(
        "for tool in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
           $tool-save 2>/dev/null | sed \"s/^/$tool: /\"
         done
         ipset list -n | sed 's/^/ipset: /'
         nft list tables | sed 's/^/nft: /'",
    );
    let names = |line: &&str| of.iter().any(|name| line.contains(name));
    all.lines().filter(names).map(str::to_owned).collect()
}
