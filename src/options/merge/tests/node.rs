//! Which addresses belong to pods, and which serve node ports.

use super::*;

#[test]
fn pods_are_known_in_four_ways() {
    for (words, wanted) in [
        (&["--detect-local-mode="][..], LocalDetector::ClusterCidr),
        (&["--detect-local-mode=ClusterCIDR"], LocalDetector::ClusterCidr),
        (&["--detect-local-mode=NodeCIDR"], LocalDetector::NodeCidr),
        // Networks that do not count are not checked, as in kube-proxy.
        (&["--detect-local-mode=NodeCIDR", "--cluster-cidr=x"], LocalDetector::NodeCidr),
        (
            &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
            LocalDetector::BridgeInterface(interface("cni0")),
        ),
        (
            &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"],
            LocalDetector::InterfaceNamePrefix(interface("veth")),
        ),
    ] {
        assert_eq!(with_flags(words).unwrap().options.proxy.local_detector, wanted, "{words:?}");
    }
    let options = with_flags(&["--cluster-cidr=fd00:10::/56,10.244.3.7/16"]).unwrap().options;
    let wanted = ["fd00:10::/56".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
    assert_eq!(options.proxy.cluster_cidrs, wanted);
}

#[test]
fn node_ports_are_where_it_is_said() {
    for (words, primary, networks) in [
        (&["--nodeport-addresses="][..], false, &[][..]),
        (&["--nodeport-addresses=primary"], true, &[]),
        (
            &["--nodeport-addresses=192.0.2.1/24", "--nodeport-addresses=010.0.0.0/8"],
            false,
            &["192.0.2.0/24", "10.0.0.0/8"],
        ),
        (&["--nodeport-addresses=all"], false, &["0.0.0.0/0", "::/0"]),
        (&["--nodeport-addresses=localhost"], false, &["127.0.0.0/8", "::1/128"]),
        (
            &["--nodeport-addresses=localhost,fd00::/64,primary", "--nodeport-addresses=all"],
            true,
            &["127.0.0.0/8", "::1/128", "fd00::/64", "0.0.0.0/0", "::/0"],
        ),
    ] {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let found = with_flags(words).unwrap().options.proxy.node_port_addresses;
        assert_eq!(found, NodePortAddresses { networks, primary }, "{words:?}");
    }
}

#[test]
fn node_ports_on_loopback_addresses_are_none_and_that_is_said() {
    let told = |merged: Merged| {
        let about = |notice: &&Notice| notice.message == "Node ports are not served on loopback addresses";
        merged.notices.iter().filter(about).map(|notice| notice.detail.clone()).collect::<Vec<_>>()
    };
    for (list, wanted) in [
        ("localhost", Some(" has no other network of IPv4 and IPv6: its node ports are served nowhere")),
        ("127.0.0.1/32,fd00::/64", Some(" has no other network of IPv4: its node ports are served nowhere")),
        ("localhost,192.0.2.0/24", Some(" has no other network of IPv6: its node ports are served nowhere")),
        ("localhost,primary", Some("")),
        ("all,localhost", Some("")),
        ("all,primary", None),
        ("192.0.2.0/24", None),
        ("", None),
    ] {
        let flag = with_flags(&[&format!("--nodeport-addresses={list}")]).unwrap();
        let place = |place: &str| wanted.map(|rest| format!("{place}{rest}")).into_iter().collect::<Vec<_>>();
        assert_eq!(told(flag), place("--nodeport-addresses"), "{list}");
        let items: Vec<_> =
            list.split(',').filter(|item| !item.is_empty()).map(|item| format!("'{item}'")).collect();
        let file = with_file(&[], &format!("nodePortAddresses: [{}]", items.join(", "))).unwrap();
        assert_eq!(told(file), place("KubeProxyConfiguration.nodePortAddresses"), "{list}");
    }
}
