//! Virtual servers on node ports of deleted Services.

use std::collections::BTreeSet;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::leftovers::takeover::{Takeover, take_over};
use kube_ipvs::state::{Element, VirtualServerKey};

use crate::lab::{self, Test, shell};
use crate::{Fake, MARK, install_our_rules, leave, said, take_over_unguarded};

/// All tests of this file.
pub(crate) const TESTS: &[Test] =
    lab::tests![without_the_rules_no_node_port_is_taken_for_stale, node_ports_of_services_that_are_gone_go,];

/// Somebody flushes all of nftables during the takeover: nothing then says which node ports are served.
fn without_the_rules_no_node_port_is_taken_for_stale() {
    let address = "192.168.0.1".parse().expect("an address");
    let owned = Element::Owned(VirtualServerKey { address, protocol: Protocol::Tcp, port: 30080 });
    leave("iptables-nft");
    shell(
        "ip link add eth0 type dummy; ip addr add 192.168.0.1/24 dev eth0; ip link set eth0 up
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080-30081
         ipvsadm -A -t 192.168.0.1:30080 -s rr; ipvsadm -A -t 192.168.0.1:30081 -s rr",
    );
    let mut takeover =
        Takeover::new(MARK, BTreeSet::from([Family::V4]), Vec::new(), || BTreeSet::from([Family::V4]));
    install_our_rules(Family::V4, &[owned]);
    let flushing = Fake::new(
        "iptables-nft-restore",
        "nft delete table ip kube-ipvs; exec /usr/sbin/iptables-nft-restore \"$@\"",
    );
    let report = takeover.attempt();
    assert!(!report.is_complete(), "{report:?}");
    assert_eq!(shell("ipvsadm -Sn | wc -l; ipset list -n"), "2\nKUBE-NODE-PORT-TCP\n", "{report:?}");

    drop(flushing);
    install_our_rules(Family::V4, &[owned]);
    let expected = ["removed virtual servers: TCP 192.168.0.1:30081", "removed ipsets: KUBE-NODE-PORT-TCP"];
    assert_eq!(said(&takeover.attempt()), expected);
    assert_eq!(shell("ipvsadm -Sn"), "-A -t 192.168.0.1:30080 -s rr\n");
}

fn node_ports_of_services_that_are_gone_go() {
    shell(
        "ip link add eth0 type dummy; ip addr add 192.168.0.1/24 dev eth0; ip link set eth0 up
         ip addr add 2001:db8::1/64 dev eth0 nodad
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080
         ipset add KUBE-NODE-PORT-TCP 30081
         ipset create KUBE-6-NODE-PORT-SCTP-HASH hash:ip,port family inet6
         ipset add KUBE-6-NODE-PORT-SCTP-HASH 2001:db8::1,sctp:30090
         for server in '-t 192.168.0.1:30080' '-t 192.168.0.1:30081' '-u 192.168.0.1:30080' '-t 192.168.0.2:30080' \\
           '-t 192.168.0.1:30082' '--sctp-service [2001:db8::1]:30090'; do
           ipvsadm -A $server -s rr || exit 1
         done",
    );
    let excluded = ["192.168.0.0/31".parse().expect("a network")];
    let report = take_over(MARK, &BTreeSet::new(), &BTreeSet::new(), &excluded);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(shell("ipvsadm -Sn | wc -l").trim(), "5", "the network is excluded, but not of IPv6");
    shell(
        "ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080-30081",
    );
    let report = take_over_unguarded();
    let expected = [
        "removed virtual servers: TCP 192.168.0.1:30080, TCP 192.168.0.1:30081",
        "removed ipsets: KUBE-NODE-PORT-TCP",
    ];
    assert_eq!(said(&report), expected);
    let left = shell("ipvsadm -Sn | sort");
    let expected =
        "-A -t 192.168.0.1:30082 -s rr\n-A -t 192.168.0.2:30080 -s rr\n-A -u 192.168.0.1:30080 -s rr\n";
    assert_eq!(left, expected, "other people's");
}
