//! Pods behind devices without an address, as Calico creates them, on a node whose first device with an address is
//! kube-ipvs0: there the kernel would masquerade with a service address.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::lab::shell;
use crate::pods::in_pod;
use crate::{folder, put, start, web};

pub(crate) fn no_pod_sees_a_service_address() {
    // kube-ipvs0 comes first, as after a restart of whatever creates the node's other devices.
    shell(
        "ip link add kube-ipvs0 type dummy
         ip address add 10.96.0.1/32 dev kube-ipvs0
         ip netns add server
         ip link add cali0 type veth peer name eth0 netns server
         ip link set cali0 up
         sysctl -qw net.ipv4.conf.cali0.proxy_arp=1 net.ipv4.neigh.cali0.proxy_delay=0
         ip route add 10.244.0.2 dev cali0 scope link
         ip -n server link set lo up
         ip -n server address add 10.244.0.2/32 dev eth0
         ip -n server link set eth0 up
         ip -n server route add 169.254.1.1 dev eth0 scope link
         ip -n server route add default via 169.254.1.1 dev eth0
         ip netns add outside
         ip link add eth0 type veth peer name eth0 netns outside
         ip address add 192.168.0.1/24 dev eth0
         ip link set eth0 up
         ip route add default via 192.168.0.9
         ip -n outside address add 192.168.0.9/24 dev eth0
         ip -n outside link set eth0 up
         ip -n outside route add 10.96.0.0/16 via 192.168.0.1",
    );
    let folder = folder();
    std::fs::create_dir(folder.path().join("manifests")).expect("a folder");
    // Only an endpoint on this node is known to be able to reach itself.
    let local = web("10.96.0.1", &["10.244.0.2"]).replace("addresses:", "nodeName: node1, addresses:");
    put(&folder.path().join("manifests"), "web.yaml", &local);
    let mut proxy = start(folder.path(), "first");
    proxy.wait_synced();

    let listener = in_pod("server", || TcpListener::bind("10.244.0.2:8080").expect("a port"));
    let connect = |who: &str| {
        let service = "10.96.0.1:80".parse().expect("an address");
        let stream = TcpStream::connect_timeout(&service, Duration::from_secs(5));
        stream.unwrap_or_else(|error| panic!("{who}: {error}"))
    };
    let seen =
        |who: &str| listener.accept().unwrap_or_else(|error| panic!("{who}: {error}")).1.ip().to_string();
    let _node = connect("the node");
    assert_eq!(seen("the node"), "192.168.0.1");
    let _outside = in_pod("outside", || connect("a client outside"));
    assert_eq!(seen("a client outside"), "192.168.0.1");
    // The pod reaches itself: again a device without an address, and the other rule.
    let _itself = in_pod("server", || connect("the pod itself"));
    assert_eq!(seen("the pod itself"), "192.168.0.1");

    // The node's address changes, and the rules follow.
    shell(
        "ip address add 192.168.0.2/24 dev eth0; ip address del 192.168.0.1/24 dev eth0; ip address add 192.168.0.2/24 dev eth0 2>/dev/null || true",
    );
    crate::wait_for("the rules name the node's new address", 5, || {
        shell("nft list chain ip kube-ipvs postrouting").contains("snat to 192.168.0.2")
    });
    let _node = connect("the node, with another address");
    assert_eq!(seen("the node, with another address"), "192.168.0.2");
}
