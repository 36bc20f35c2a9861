//! The kernel state that a kube-proxy leaves on a node (contract 4 and 6), for the Services of a test.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use kube_ipvs::cluster::types::Family;

use crate::cluster::Service;
use crate::host::Host;
use crate::topology::{POD_NETWORKS, PORT, find};

/// The mode of the kube-proxy that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ipvs,
    Iptables,
    Nftables,
}

/// Which iptables it used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variant {
    Legacy,
    Nft,
}

/// The words of `ipset`, `iptables` and `nft` for a family.
#[derive(Clone, Copy)]
struct Words {
    family: Family,
    /// `iptables`, `ip6tables`.
    tool: &'static str,
    set_prefix: &'static str,
    set_family: &'static str,
    loopback: &'static str,
    pods: &'static str,
    reject: &'static str,
    nft: &'static str,
    nft_address: &'static str,
}

fn words() -> [Words; 2] {
    let (pods4, pods6) = POD_NETWORKS.split_once(',').expect("one network per family");
    [
        Words {
            family: Family::V4,
            tool: "iptables",
            set_prefix: "KUBE-",
            set_family: "inet",
            loopback: "127.0.0.0/8",
            pods: pods4,
            reject: "icmp-port-unreachable",
            nft: "ip",
            nft_address: "ipv4_addr",
        },
        Words {
            family: Family::V6,
            tool: "ip6tables",
            set_prefix: "KUBE-6-",
            set_family: "inet6",
            loopback: "::1/128",
            pods: pods6,
            reject: "icmp6-port-unreachable",
            nft: "ip6",
            nft_address: "ipv6_addr",
        },
    ]
}

impl Variant {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

/// Leaves the state of a kube-proxy on a node.
pub(crate) fn leave(host: &Host, node: &str, mode: Mode, variant: Variant, services: &[&Service]) {
    host.shell("sysctl -qw net.ipv4.ip_forward=1");
    for words in words() {
        match mode {
            Mode::Ipvs => {
                virtual_servers(host, node, words, services);
                let sets = sets(words, node, services);
                host.shell(format!("ipset restore -exist <<'END'\n{sets}END\n"));
                restore(host, words, variant, &ipvs_rules(words));
            }
            Mode::Iptables => restore(host, words, variant, &iptables_rules(words, services)),
            Mode::Nftables => {
                let tables = nftables(words, services);
                host.shell(format!("nft -f - <<'END'\n{tables}END\n"));
            }
        }
    }
}

fn restore(host: &Host, words: Words, variant: Variant, rules: &str) {
    let (tool, variant) = (words.tool, variant.word());
    host.shell(format!("{tool}-{variant}-restore --noflush <<'END'\n{rules}END\n"));
}

fn endpoints(service: &Service, family: Family) -> Vec<IpAddr> {
    service.endpoints.iter().map(|pod| find(pod).address(family)).collect()
}

/// As kube-proxy makes them: IPv6 addresses may be chosen as sources.
fn virtual_servers(host: &Host, node: &str, words: Words, services: &[&Service]) {
    let mut script = String::from(
        "set -e
         sysctl -qw net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.expire_quiescent_template=1
         ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type dummy\n",
    );
    let mut servers = String::new();
    for service in services {
        let address = service.address(words.family);
        let _ = writeln!(script, "ip addr replace {address} dev kube-ipvs0");
        for flag in ["-t", "-u", "--sctp-service"] {
            let server = SocketAddr::new(address, 80);
            let _ = writeln!(servers, "-A {flag} {server} -s rr");
            for endpoint in endpoints(service, words.family) {
                let _ =
                    writeln!(servers, "-a {flag} {server} -r {} -m -w 1", SocketAddr::new(endpoint, PORT));
            }
        }
    }
    // A node port, of a Service that is gone meanwhile.
    let node_port = SocketAddr::new(find(node).address(words.family), 30080);
    let _ = writeln!(servers, "-A -t {node_port} -s rr");
    // Where the virtual servers are there already, it takes them over.
    let _ = writeln!(script, "if ! ipvsadm -ln | grep -qF '{}'; then", services[0].address(words.family));
    let _ = writeln!(script, "ipvsadm -R <<'END'\n{servers}END\nfi");
    host.shell(script);
}

/// The sets of contract 6.3, all of them, with the members that these Services have.
fn sets(words: Words, node: &str, services: &[&Service]) -> String {
    let mut text = String::new();
    let mut set = |name: &str, kind: &str, members: Vec<String>| {
        let name: String = format!("{}{name}", words.set_prefix).chars().take(31).collect();
        let shape = match kind {
            "bitmap:port" => "range 0-65535".to_owned(),
            _ => format!("family {} hashsize 1024 maxelem 65536", words.set_family),
        };
        let _ = writeln!(text, "create {name} {kind} {shape}");
        for member in members {
            let _ = writeln!(text, "add {name} {member}");
        }
    };
    let protocols = ["tcp", "udp", "sctp"];
    let each = |make: &dyn Fn(&Service, &str) -> Vec<String>| -> Vec<String> {
        let pairs = services.iter().flat_map(|service| protocols.map(|protocol| (service, protocol)));
        pairs.flat_map(|(service, protocol)| make(service, protocol)).collect()
    };
    let address = |service: &Service| service.address(words.family);
    set(
        "CLUSTER-IP",
        "hash:ip,port",
        each(&|service, protocol| vec![format!("{},{protocol}:80", address(service))]),
    );
    set(
        "LOOP-BACK",
        "hash:ip,port,ip",
        each(&|service, protocol| {
            let local = service.endpoints.iter().map(|pod| find(pod)).filter(|pod| pod.node == node);
            local
                .map(|pod| {
                    let pod = pod.address(words.family);
                    format!("{pod},{protocol}:{PORT},{pod}")
                })
                .collect()
        }),
    );
    set("IPVS-IPS", "hash:ip", services.iter().map(|service| address(service).to_string()).collect());
    set("NODE-PORT-TCP", "bitmap:port", vec!["30080".to_owned()]);
    for (name, kind) in [
        ("EXTERNAL-IP", "hash:ip,port"),
        ("EXTERNAL-IP-LOCAL", "hash:ip,port"),
        ("LOAD-BALANCER", "hash:ip,port"),
        ("LOAD-BALANCER-LOCAL", "hash:ip,port"),
        ("LOAD-BALANCER-FW", "hash:ip,port"),
        ("LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net"),
        ("LOAD-BALANCER-SOURCE-IP", "hash:ip,port,ip"),
        ("NODE-PORT-UDP", "bitmap:port"),
        ("NODE-PORT-LOCAL-TCP", "bitmap:port"),
        ("NODE-PORT-LOCAL-UDP", "bitmap:port"),
        ("NODE-PORT-SCTP-HASH", "hash:ip,port"),
        ("NODE-PORT-LOCAL-SCTP-HASH", "hash:ip,port"),
        ("HEALTH-CHECK-NODE-PORT", "bitmap:port"),
    ] {
        set(name, kind, vec![]);
    }
    text
}

/// The chains of contract 6.2 with the rules of 6.4 and 6.5.
fn ipvs_rules(words: Words) -> String {
    let Words { set_prefix: set, loopback, pods, reject, .. } = words;
    format!(
        r#"*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m set --match-set {set}NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set {set}LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -s {loopback} -j RETURN
-A KUBE-SERVICES ! -s {pods} -m set --match-set {set}CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set {set}CLUSTER-IP dst,dst -j ACCEPT
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-I INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-I OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set {set}LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}HEALTH-CHECK-NODE-PORT dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {set}IPVS-IPS dst -j REJECT --reject-with {reject}
-A KUBE-NODE-PORT -m set --match-set {set}HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m set --match-set {set}LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"#
    )
}

/// A name of a Service's chain: 16 characters of base 32.
fn hash(kind: &str, number: u16, index: usize) -> String {
    let digit = |value: usize| char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[value % 32]);
    let tail: String = [usize::from(number) / 32, usize::from(number), index].map(digit).iter().collect();
    format!("KUBE-{kind}-TAKEOVERTESTX{tail}")
}

fn iptables_rules(words: Words, services: &[&Service]) -> String {
    let Words { loopback: _, pods, reject, .. } = words;
    let mut chains = String::new();
    let mut rules = String::new();
    let mut rejected = String::new();
    for service in services {
        let address = service.address(words.family);
        let endpoints = endpoints(service, words.family);
        for (protocol, offset) in [("tcp", 0), ("udp", 8), ("sctp", 16)] {
            let matched = format!("-d {address} -p {protocol} -m {protocol} --dport 80");
            if endpoints.is_empty() {
                let _ = writeln!(rejected, "-A KUBE-SERVICES {matched} -j REJECT --reject-with {reject}");
                continue;
            }
            let chain = hash("SVC", service.number, offset);
            let _ = writeln!(chains, ":{chain} - [0:0]");
            let _ = writeln!(rules, "-A KUBE-SERVICES {matched} -j {chain}");
            let _ = writeln!(rules, "-A {chain} ! -s {pods} {matched} -j KUBE-MARK-MASQ");
            for (index, endpoint) in endpoints.iter().enumerate() {
                let left = endpoints.len() - index;
                let separate = hash("SEP", service.number, offset + index);
                let random = if left > 1 {
                    format!(
                        "-m statistic --mode random --probability {:.11}",
                        1.0 / f64::from(u8::try_from(left).expect("few"))
                    )
                } else {
                    String::new()
                };
                let target = SocketAddr::new(*endpoint, PORT);
                let _ = writeln!(chains, ":{separate} - [0:0]");
                let _ = writeln!(rules, "-A {chain} {random} -j {separate}");
                let _ = writeln!(rules, "-A {separate} -s {endpoint} -j KUBE-MARK-MASQ");
                let _ = writeln!(
                    rules,
                    "-A {separate} -p {protocol} -m {protocol} -j DNAT --to-destination {target}"
                );
            }
        }
    }
    format!(
        r#"*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
{chains}-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{rejected}COMMIT
"#
    )
}

fn nftables(words: Words, services: &[&Service]) -> String {
    let Words { nft, nft_address, pods, family, .. } = words;
    let mut chains = String::new();
    let mut map = Vec::new();
    let mut without = Vec::new();
    for service in services {
        let address = service.address(family);
        let endpoints = endpoints(service, family);
        for protocol in ["tcp", "udp", "sctp"] {
            let key = format!("{address} . {protocol} . 80");
            if endpoints.is_empty() {
                without.push(format!("{key} : goto reject-chain"));
                continue;
            }
            let name = format!("service-{}-{protocol}", service.number);
            map.push(format!("{key} : goto {name}"));
            let mut choices = Vec::new();
            for (index, endpoint) in endpoints.iter().enumerate() {
                let _ = writeln!(
                    chains,
                    "chain endpoint-{}-{protocol}-{index} {{
                       {nft} saddr {endpoint} jump mark-for-masquerade
                       meta l4proto {protocol} dnat to {}
                     }}",
                    service.number,
                    SocketAddr::new(*endpoint, PORT)
                );
                choices.push(format!("{index} : goto endpoint-{}-{protocol}-{index}", service.number));
            }
            let _ = writeln!(
                chains,
                "chain {name} {{
                   {nft} daddr {address} {nft} saddr != {pods} jump mark-for-masquerade
                   numgen random mod {} vmap {{ {} }}
                 }}",
                endpoints.len(),
                choices.join(", ")
            );
        }
    }
    format!(
        "table {nft} kube-proxy {{
           comment \"rules for kube-proxy\"
           chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
           chain reject-chain {{ reject; }}
           {chains}
           map service-ips {{
             type {nft_address} . inet_proto . inet_service : verdict
             elements = {{ {} }}
           }}
           map no-endpoint-services {{
             type {nft_address} . inet_proto . inet_service : verdict
             elements = {{ {} }}
           }}
           chain services {{ {nft} daddr . meta l4proto . th dport vmap @service-ips; }}
           chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
           chain nat-output {{ type nat hook output priority -100; jump services; }}
           chain nat-postrouting {{
             type nat hook postrouting priority srcnat
             meta mark & 0x4000 == 0 return
             meta mark set meta mark ^ 0x4000
             masquerade fully-random
           }}
           chain filter-input {{
             type filter hook input priority -110
             ct state new {nft} daddr . meta l4proto . th dport vmap @no-endpoint-services
           }}
           chain filter-output {{
             type filter hook output priority -110
             ct state new {nft} daddr . meta l4proto . th dport vmap @no-endpoint-services
           }}
           chain filter-forward {{
             type filter hook forward priority -110
             ct state new {nft} daddr . meta l4proto . th dport vmap @no-endpoint-services
           }}
         }}\n",
        map.join(", "),
        without.join(", ")
    )
}
