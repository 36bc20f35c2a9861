//! What a kube-proxy leaves on a node: recordings of the real one (`recorded/`). `make compare` records again, and
//! shows where a newer release leaves something else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::cluster::Service;
use crate::host::Host;

/// The `--proxy-mode` of the kube-proxy that ran here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ipvs,
    Iptables,
    Nftables,
}

/// The iptables variant that it used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variant {
    Legacy,
    Nft,
}

/// The nodes, and which iptables kube-proxy used on each.
pub(crate) const NODES: [(&str, Variant); 2] = [("node-1", Variant::Legacy), ("node-2", Variant::Nft)];

/// When its last sync was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Before the Service `new` had endpoints, and before the Service `gone` was deleted.
    Before,
    /// After both.
    After,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Ipvs, Self::Iptables, Self::Nftables];

    /// The mode as the flag has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

impl Variant {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

impl Sync {
    /// The Services that it knew.
    pub(crate) fn services(self) -> Vec<Service> {
        let service = Service::new("both", 10, &["pod-1a", "pod-2a"]);
        match self {
            // The node port of `gone` is 30080.
            Self::Before => {
                vec![
                    service,
                    Service::new("new", 11, &[]),
                    Service::exposed("gone", 80, &["pod-1a", "pod-2a"]),
                ]
            }
            Self::After => vec![service, Service::new("new", 11, &["pod-1a", "pod-2a"])],
        }
    }
}

/// The file of a recording.
pub(crate) fn file(node: &str, mode: Mode, sync: Sync) -> PathBuf {
    let name = format!("{}-{sync:?}-{node}", mode.word()).to_lowercase();
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/takeover/recorded").join(name)
}

/// Records a node on which nobody else has rules: several parts, each with a heading.
pub(crate) fn record(host: &Host, variant: Variant) -> String {
    let word = variant.word();
    host.shell(format!(
        "export LC_ALL=C
         echo '=== sysctl'; sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv4.vs.conntrack \\
           net.ipv4.vs.expire_nodest_conn net.ipv4.vs.expire_quiescent_template
         echo '=== addresses'; ip -o addr show dev kube-ipvs0 2>/dev/null | awk '{{ print $4 }}' | sort
         echo '=== ipvsadm'; ipvsadm -Sn | sort
         echo '=== ipset'; ipset save | sed 's/ bucketsize .*//' | sort -r
         echo '=== nfacct'; nfacct list | sed 's/.* = //; s/;$//' | sort
         for tool in iptables ip6tables; do
           echo \"=== $tool\"; $tool-{word}-save | grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//'
         done
         echo '=== nft'; for family in ip ip6; do nft list table $family kube-proxy 2>/dev/null || true; done"
    ))
}

/// Restores a recording on a node.
pub(crate) fn leave(host: &Host, node: &str, mode: Mode, variant: Variant, sync: Sync) {
    let file = file(node, mode, sync);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parts: BTreeMap<&str, &str> = text.split("=== ").filter_map(|part| part.split_once('\n')).collect();
    let mut script = String::from("set -e\n");
    for line in parts["sysctl"].lines() {
        let _ = writeln!(script, "sysctl -qw {}", line.replace(" = ", "="));
    }
    if !parts["addresses"].is_empty() {
        script.push_str("ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type dummy\n");
    }
    for address in parts["addresses"].lines() {
        let _ = writeln!(script, "ip addr replace {address} dev kube-ipvs0");
    }
    // It takes over virtual servers that exist already.
    let there = host.shell("ipvsadm -Sn");
    let new = parts["ipvsadm"].lines().filter(|line| !there.lines().any(|other| other.trim() == line.trim()));
    let new: Vec<&str> = new.collect();
    input(&mut script, "ipvsadm -R", &new.join("\n"));
    input(&mut script, "ipset restore -exist", parts["ipset"]);
    for counter in parts["nfacct"].lines() {
        let _ = writeln!(script, "nfacct get {counter} >/dev/null 2>&1 || nfacct add {counter}");
    }
    for tool in ["iptables", "ip6tables"] {
        let restore = format!("{tool}-{}-restore --noflush", variant.word());
        input(&mut script, &restore, &beside_others(parts[tool]));
    }
    input(&mut script, "nft -f -", parts["nft"]);
    host.shell(script);
}

fn input(script: &mut String, command: &str, text: &str) {
    if !text.trim().is_empty() {
        let _ = writeln!(script, "{command} <<'END'\n{}\nEND", text.trim_end());
    }
}

/// Rules as kube-proxy adds them to existing ones: the jumps to its chains come before others', policies stay as they
/// are, and `KUBE-FIREWALL` in the table `filter` is left out, which is kubelet's, too ([`crate::others`]).
fn beside_others(saved: &str) -> String {
    let (mut text, mut table) = (String::new(), "");
    let mut jumps: BTreeMap<&str, usize> = BTreeMap::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
            jumps.clear();
        }
        if table == "filter" && line.contains("KUBE-FIREWALL")
            || line.starts_with(':') && !line.starts_with(":KUBE-")
        {
            continue;
        }
        let rule = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '));
        match rule {
            Some((chain, rest)) if !chain.starts_with("KUBE-") => {
                let number = jumps.entry(chain).or_insert(0);
                *number += 1;
                let _ = writeln!(text, "-I {chain} {number} {rest}");
            }
            _ => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}
