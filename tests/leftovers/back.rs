//! A kube-proxy that is started again after it was taken over from.

use std::collections::BTreeSet;

use kube_ipvs::leftovers::takeover::Takeover;

use crate::lab::{self, Test, shell};
use crate::{MARK, back, leave, said};

/// All tests of this file.
pub(crate) const TESTS: &[Test] =
    lab::tests![what_comes_after_the_takeover_is_told_until_it_is_gone, what_others_use_has_not_come_back];

fn takeover() -> Takeover {
    Takeover::new(MARK, BTreeSet::new(), Vec::new(), BTreeSet::new)
}

fn what_comes_after_the_takeover_is_told_until_it_is_gone() {
    leave("iptables-nft");
    shell("ipset create KUBE-CLUSTER-IP hash:ip,port");
    let mut takeover = takeover();
    assert!(takeover.attempt().is_complete());
    assert_eq!(said(&takeover.attempt()), [""; 0], "it was taken over from");

    // One sign for each mode.
    for (made, gone, signs) in [
        (
            "ipset create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6",
            "ipset destroy KUBE-6-LOOP-BACK",
            "ipset KUBE-6-LOOP-BACK",
        ),
        (
            "ip6tables-nft -t nat -N KUBE-SERVICES",
            "ip6tables-nft -t nat -X KUBE-SERVICES",
            "ip6tables-nft nat chain KUBE-SERVICES",
        ),
        ("nft add table ip kube-proxy", "nft delete table ip kube-proxy", "nftables table ip kube-proxy"),
    ] {
        shell(made);
        for _ in 0..2 {
            let report = takeover.attempt();
            assert_eq!(said(&report), [back(signs)]);
            assert!(!report.is_complete() && !report.is_worth_another_try(), "{report:?}");
        }
        // The sign was still there: nothing was removed.
        shell(gone);
        assert_eq!(said(&takeover.attempt()), [""; 0], "{signs} is gone");
    }
    // Similar objects of others are ignored: of kubelet, of a network plugin.
    shell(
        "iptables-nft -t nat -N KUBE-MARK-MASQ; iptables-nft -t mangle -N KUBE-KUBELET-CANARY
         ipset create KUBE-SRC-NPX46M4PTMTKRN6Y hash:ip; nft add table ip6 kube-router",
    );
    assert_eq!(said(&takeover.attempt()), [""; 0]);

    leave("iptables-nft");
    shell("ipset create KUBE-CLUSTER-IP hash:ip,port");
    assert_eq!(
        said(&takeover.attempt()),
        [back("ipset KUBE-CLUSTER-IP, iptables-nft nat chain KUBE-SERVICES")]
    );
    // The remedy.
    let mut anew = self::takeover();
    assert!(anew.attempt().is_complete());
    assert_eq!(said(&takeover.attempt()), [""; 0]);
}

fn what_others_use_has_not_come_back() {
    shell(
        "ipset create KUBE-CLUSTER-IP hash:ip,port
         iptables-nft -A OUTPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",
    );
    let mut takeover = takeover();
    let report = takeover.attempt();
    assert_eq!(said(&report), ["left ipset KUBE-CLUSTER-IP: rules refer to it"]);
    assert_eq!(said(&takeover.attempt()), [""; 0], "it was there");
    // Once it was gone, a new one must be kube-proxy's.
    shell("iptables-nft -F OUTPUT");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !lab::try_shell("ipset destroy KUBE-CLUSTER-IP").0 {
        assert!(
            std::time::Instant::now() < end,
            "what a rule of nftables referred to is given up a little later"
        );
    }
    assert_eq!(said(&takeover.attempt()), [""; 0]);
    shell("ipset create KUBE-CLUSTER-IP hash:ip,port");
    assert_eq!(said(&takeover.attempt()), [back("ipset KUBE-CLUSTER-IP")]);
}
