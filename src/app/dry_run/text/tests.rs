use super::*;
use crate::cluster::types::{Protocol, ServiceKey};
use crate::state::{RealServer, RealServerKey, RealServers, Sysctl, VirtualServer};

fn server(port: u16) -> VirtualServerKey {
    VirtualServerKey { address: "10.96.0.10".parse().expect("an address"), protocol: Protocol::Tcp, port }
}

fn real(number: u8) -> RealServerKey {
    RealServerKey { address: format!("10.244.0.{number}").parse().expect("an address"), port: 8080 }
}

fn of(services: &[&str], before: Option<&str>, step: Step) -> Write {
    let services = services.iter().map(|name| ServiceKey::new("default", name)).collect();
    Write { step, services, before: before.map(str::to_owned) }
}

#[test]
fn what_is_taken_away_comes_first_and_the_order_is_not_that_of_the_writes() {
    let weight = |weight| RealServer::with(Weight::Exactly(weight));
    let virtual_server = VirtualServer {
        scheduler: "rr".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: RealServers::default(),
    };
    let writes = vec![
        of(&["web"], None, Step::AddRealServer(server(81), real(3), weight(1))),
        of(&["web"], None, Step::AddVirtualServer(server(81), virtual_server)),
        of(&[], Some("0"), Step::SetSysctl(Sysctl::VsConntrack, "1".to_owned())),
        of(&["web"], Some("weight 1"), Step::EditRealServer(server(80), real(2), weight(0))),
        of(&["web"], Some("weight 0"), Step::EditRealServer(server(80), real(1), weight(1))),
        of(&["a", "b"], None, Step::DeleteAddress(server(80).address)),
        of(&[], None, Step::DeleteVirtualServer(server(443))),
        of(&["web"], None, Step::AddRealServer(server(81), real(2), weight(1))),
    ];
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let leftovers = Report {
        findings: vec![
            Finding::Kept { what: "ipset KUBE-LOOP-BACK".into(), why: "it is in use".into() },
            Finding::Removed { what: "nftables tables".into(), names: names(&["ip kube-proxy"]) },
            Finding::Removed { what: "ipsets".into(), names: names(&["KUBE-CLUSTER-IP", "KUBE-IPVS-IPS"]) },
            Finding::Added("iptables-nft filter: an accept".into()),
            Finding::Lost {
                what: "iptables-nft filter INPUT".into(),
                rules: names(&["KUBE-NODE-PORT -j ACCEPT"]),
            },
        ],
        ..Report::default()
    };
    let parameter = Change { entry: "net/netfilter/x".into(), before: "1".into(), after: "2".into() };
    let mut foreseen = Foreseen {
        writes,
        parameters: vec![parameter],
        stale: [(Family::V4, 3), (Family::V6, 0)].into(),
        leftovers,
        foreign: vec![server(9000)],
    };
    let text = foreseen.text();
    insta::assert_snapshot!(text);
    foreseen.writes.reverse();
    assert_eq!(foreseen.text(), text);
}

#[test]
fn with_nothing_to_do_one_line_says_so() {
    let mut foreseen = Foreseen { stale: [(Family::V4, 0)].into(), ..Foreseen::default() };
    assert_eq!(foreseen.text(), "Nothing would change.\n");
    foreseen.foreign.push(server(9000));
    assert_eq!(
        foreseen.text(),
        "Nothing would change.\nStays as it is:\n  virtual server TCP 10.96.0.10:9000: it is not ours, or in an excluded network\n"
    );
    let failed = Finding::Failed { what: "iptables-nft".into(), why: "no memory".into() };
    foreseen.leftovers.findings.push(failed);
    assert!(!foreseen.text().contains("Nothing would change"), "that is not known");
}
