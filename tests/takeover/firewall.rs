//! An administrator's table that drops what no rule accepts, and the accept rules that the README names.

use std::net::SocketAddr;
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};

use crate::NODES;
use crate::cluster::{Cluster, Entry, Service};
use crate::proxy::eventually;
use crate::talk;
use crate::topology::{PORT, find};

/// What such a table has anyway, and what a network plugin needs: nothing about Services. A rule drops what nobody
/// accepts, and so would the policy.
const TABLE: &str = "table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
    counter drop
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    meta l4proto ipv6-icmp accept
    ip daddr 10.244.0.0/16 ct state new accept
    ip6 daddr fd00:10:244::/56 ct state new accept
    counter drop
  }
}";

/// The commands of `deploy/README.md`, with the networks of these hosts.
fn commands() -> Vec<String> {
    let readme = include_str!("../../deploy/README.md");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    nft insert rule inet filter "));
    let here = |line: &str| {
        let line =
            line.replace("198.51.100.0/24", "198.18.0.0/15").replace("2001:db8:b::/48", "2001:db8:8::/45");
        format!("nft 'insert rule inet filter {}'", line.split('#').next().unwrap_or_default().trim_end())
    };
    lines.map(here).collect()
}

pub(crate) fn where_input_drops_the_accepts_of_the_readme_are_enough() {
    let service = Service::exposed("both", 10, &["pod-1a", "pod-2a"]);
    let cluster = Cluster::start([&service], &[]);
    let mut commands = commands();
    assert_eq!(commands.len(), 4, "{commands:?}");
    let replies = commands.pop().expect("the last one");
    assert!(replies.contains("forward ct state established"), "{replies}");
    for (node, _) in NODES {
        cluster.host(node).shell(format!("nft -f - <<'END'\n{TABLE}\nEND"));
    }
    let silent = |what: &str, asked: &[(&str, Entry)]| {
        for family in Family::ALL {
            for (client, entry) in asked {
                let target = service.target(*entry, find(client), family);
                let answer = cluster.host(client).run(move || {
                    let patience = Duration::from_millis(300);
                    talk::Conversation::open_within(patience, Protocol::Tcp, None, target)?.ask()
                });
                assert!(answer.is_err(), "{what}: {client} asks {target}: {answer:?}");
            }
        }
    };
    let all = [
        ("pod-1b", Entry::ClusterIp),
        ("pod-2b", Entry::LoadBalancerIp),
        ("pod-2b", Entry::OwnNodePort),
        ("outside-1", Entry::OtherNodePort),
        ("outside-1", Entry::LoadBalancerIp),
        ("outside-2", Entry::ExternalIp),
        ("outside-2", Entry::ClusterIp),
    ];
    silent("nothing is accepted", &all);
    for (node, _) in NODES {
        cluster.host(node).shell(commands.join("\n"));
    }
    silent("no reply is accepted", &all);
    for (node, _) in NODES {
        cluster.host(node).shell(replies.clone());
    }
    for family in Family::ALL {
        for (client, entry) in
            all.iter().chain(&[("node-1", Entry::ClusterIp), ("node-2", Entry::OtherNodePort)])
        {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let target = service.target(*entry, find(client), family);
                let mut last = None;
                let answered = eventually(Duration::from_secs(5), || {
                    last = Some(cluster.ask(client, protocol, target));
                    matches!(last, Some(Ok(_)))
                });
                assert!(answered, "{client} asks {target} over {protocol}: {last:?}");
            }
        }
        // Ports that no Service declares are refused, and the node's own stay closed.
        let undeclared = SocketAddr::new(service.address(family), PORT);
        let refused = cluster.ask("pod-1b", Protocol::Tcp, undeclared);
        assert!(refused.as_ref().is_err_and(|error| !talk::is_silence(error)), "{undeclared}: {refused:?}");
        let own = SocketAddr::new(find("node-1").address(family), PORT);
        let dropped = cluster.ask("outside-1", Protocol::Tcp, own);
        assert!(dropped.as_ref().is_err_and(talk::is_silence), "{own}: {dropped:?}");
    }
}
