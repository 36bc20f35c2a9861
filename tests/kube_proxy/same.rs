//! What must equal the real kube-proxy: the state of the kernel, and what happens to connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use kube_ipvs::cluster::types::Protocol;
use serde_json::Value;

use crate::anything::{self, Anything};
use crate::cluster::{Cluster, Entry, Policy, Service};
use crate::control_plane::ControlPlane;
use crate::kube_proxy::{Mode, Variant};
use crate::program::KubeProxy;
use crate::table::{self, Found, Happened, Question, ask_all};
use crate::topology::Kind;
use crate::{NODES, at_rest, start_ours};

/// All virtual servers, with their real servers, flags and weights, and all addresses are those of kube-proxy, with the
/// exceptions in the README: a Service without endpoints has no virtual server, and one with policy `Local` has a
/// second one for clients inside.
pub(crate) fn ipvs_mode_has_the_same_state() {
    let cluster = Cluster::without_proxies([]);
    let sticky = |name: &str, number, external| Service {
        affinity_seconds: Some(10_800),
        external,
        ..Service::exposed(name, number, &["pod-1a", "pod-2a"])
    };
    let more = [sticky("sticky", 13, Policy::Cluster), sticky("sticky-local", 12, Policy::Local)];
    let services = table::SERVICES.iter().map(|(_, service)| service).chain(&more);
    let objects = services.flat_map(|service| service.manifest()["items"].as_array().cloned().unwrap());
    has_the_same_state(&cluster, &objects.collect::<Vec<_>>());
}

/// The same holds for anything that the API server accepts.
pub(crate) fn of_anything_ipvs_mode_makes_the_same_state() {
    let cluster = Cluster::without_proxies([]);
    let [services, _] = anything::two();
    let objects = services.iter().flat_map(Anything::objects).cloned();
    has_the_same_state(&cluster, &objects.collect::<Vec<_>>());
}

fn has_the_same_state(cluster: &Cluster, objects: &[Value]) {
    let control_plane = ControlPlane::start(cluster);
    for object in objects {
        control_plane.create_one(object);
    }
    for (node, variant) in NODES {
        let theirs = State::of_theirs(cluster, &control_plane, node, variant);
        let proxy = start_ours(cluster, node, control_plane.kubeconfig());
        let ours = State::of(cluster, node);
        proxy.kill();
        ours.assert_same(&theirs, node, objects);
    }
}

/// The same holds after a third of the Services were deleted and recreated, and another third got other endpoints: what
/// kube-ipvs made of the changes is what kube-proxy makes of the final objects.
pub(crate) fn of_changes_it_makes_the_same_state() {
    let cluster = Cluster::without_proxies([]);
    let control_plane = ControlPlane::start(&cluster);
    let [before, after] = anything::two();
    for object in before.iter().flat_map(Anything::objects) {
        control_plane.create_one(object);
    }
    let proxies = NODES.map(|(node, _)| start_ours(&cluster, node, control_plane.kubeconfig()));
    let mut objects = Vec::new();
    for (index, (old, new)) in before.iter().zip(&after).enumerate() {
        let service = if index % 3 == 0 { &new.service } else { &old.service };
        if index % 3 == 0 {
            control_plane.delete_one(&old.service);
            control_plane.create_one(service);
        }
        objects.push(service.clone());
        let slices = if index % 3 < 2 { &new.slices } else { &old.slices };
        if index % 3 < 2 {
            for slice in &old.slices {
                control_plane.delete_one(slice);
            }
            for slice in slices {
                control_plane.create_one(slice);
            }
        }
        objects.extend(slices.iter().cloned());
    }
    // Removed endpoints drain: whether they are still in use is checked every five seconds.
    let states = NODES.map(|(node, _)| State::at_rest(&cluster, node, Duration::from_secs(12)));
    drop(proxies);
    for ((node, variant), ours) in NODES.into_iter().zip(states) {
        cluster.host(node).shell(EMPTY);
        let theirs = State::of_theirs(&cluster, &control_plane, node, variant);
        ours.without_draining().assert_same(&theirs, node, &objects);
    }
}

/// Empties the state, so that neither program takes over what the other one left, and drains it first.
const EMPTY: &str = "ipvsadm -C; ip link del kube-ipvs0";

/// The state of a node that is compared.
#[derive(PartialEq, Eq)]
struct State {
    addresses: Vec<String>,
    /// By the form `-t 10.96.0.10:80`.
    servers: BTreeMap<String, Server>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Server {
    /// In the form `-s rr -p 10800`.
    flags: String,
    /// In the form `-r 10.244.1.10:8080 -m -w 1`.
    real_servers: Vec<String>,
}

impl State {
    /// The state of kube-proxy, which is then ended, and its IPVS state deleted.
    fn of_theirs(
        cluster: &Cluster,
        control_plane: &ControlPlane,
        node: &'static str,
        variant: Variant,
    ) -> Self {
        let proxy = KubeProxy::start(cluster, control_plane, node, Mode::Ipvs, variant);
        // Its first sync may not know the node's zone yet. After that it writes at most once a second.
        let state = Self::at_rest(cluster, node, Duration::from_secs(3));
        drop(proxy);
        cluster.host(node).shell(EMPTY);
        state
    }

    fn at_rest(cluster: &Cluster, node: &str, pause: Duration) -> Self {
        at_rest(pause, || Self::of(cluster, node), Self::eq)
    }

    /// Without real servers that get no new connections: endpoints that were used before, and that a slice still has.
    fn without_draining(mut self) -> Self {
        for server in self.servers.values_mut() {
            server.real_servers.retain(|real_server| !real_server.ends_with("-w 0"));
        }
        self.servers.retain(|_, server| !server.real_servers.is_empty());
        self
    }

    fn assert_same(&self, theirs: &Self, node: &str, objects: &[Value]) {
        let mut different = Vec::new();
        for (name, server) in &theirs.servers {
            let elsewhere = leads_elsewhere(node, name, server, objects);
            let expected = (!elsewhere && !server.real_servers.is_empty()).then_some(server);
            let found = self.servers.get(name);
            if found != expected {
                different.push(format!("{name}: {expected:?}, ours {found:?}"));
            }
        }
        for (name, server) in &self.servers {
            if !theirs.servers.contains_key(name) && !is_for_clients_inside(name, objects) {
                different.push(format!("{name}: ours {server:?}"));
            }
        }
        let all = theirs.servers.len();
        assert!(all > 200, "{:#?}", theirs.servers);
        assert!(different.is_empty(), "{node}: {} of {all}: {different:#?}", different.len());
        assert_eq!(self.addresses, theirs.addresses, "{node}");
    }

    fn of(cluster: &Cluster, node: &str) -> Self {
        let addresses = cluster.host(node).shell("ip -o addr show kube-ipvs0 | awk '{ print $4 }' | sort");
        let mut servers: BTreeMap<String, Server> = BTreeMap::new();
        for line in cluster.host(node).shell("ipvsadm -Sn | sort").lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let (name, rest) = (words[1..3].join(" "), words[3..].join(" "));
            let server = servers.entry(name).or_default();
            if words[0] == "-A" { server.flags = rest } else { server.real_servers.push(rest) }
        }
        Self { addresses: addresses.lines().map(str::to_owned).collect(), servers }
    }
}

/// The address and port of a virtual or a real server.
fn socket_address(words: &str) -> SocketAddr {
    words.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{words}"))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    array(value).filter_map(Value::as_str)
}

/// Whether a virtual server has policy `Local` and leads to other nodes, since this node has no endpoint for it:
/// kube-ipvs has no virtual server in this case.
fn leads_elsewhere(node: &str, name: &str, server: &Server, objects: &[Value]) -> bool {
    let at = socket_address(name);
    let Some((service, policy)) = objects.iter().find_map(|object| Some((object, policy(object, at)?)))
    else {
        return false;
    };
    let slices = objects.iter().filter(|object| {
        object["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    });
    let is_here = |real_server: SocketAddr| {
        slices.clone().any(|slice| {
            let has_port = array(&slice["ports"]).any(|port| port["port"] == real_server.port());
            let is_it = |endpoint: &Value| endpoint["addresses"][0] == real_server.ip().to_string();
            has_port
                && array(&slice["endpoints"]).any(|endpoint| is_it(endpoint) && endpoint["nodeName"] == node)
        })
    };
    policy == "Local" && !server.real_servers.iter().any(|words| is_here(socket_address(words)))
}

/// The traffic policy of a Service at this address and port, if the Service has them.
fn policy(service: &Value, at: SocketAddr) -> Option<&Value> {
    let (spec, ip) = (&service["spec"], at.ip().to_string());
    if strings(&spec["clusterIPs"]).any(|other| other == ip) {
        return Some(&spec["internalTrafficPolicy"]);
    }
    let ingress = array(&service["status"]["loadBalancer"]["ingress"]);
    let mut outside =
        strings(&spec["externalIPs"]).chain(ingress.filter_map(|ingress| ingress["ip"].as_str()));
    let mut ports = array(&spec["ports"]);
    (outside.any(|other| other == ip) || ports.any(|port| port["nodePort"] == at.port()))
        .then_some(&spec["externalTrafficPolicy"])
}

/// Whether a virtual server at the cluster IP is the one to which clients inside are led when the policy is `Local`.
fn is_for_clients_inside(name: &str, objects: &[Value]) -> bool {
    let at = socket_address(name);
    let ip = at.ip().to_string();
    objects.iter().any(|object| {
        let spec = &object["spec"];
        let declared = array(&spec["ports"]).any(|port| port["port"] == at.port());
        spec["externalTrafficPolicy"] == "Local"
            && strings(&spec["clusterIPs"]).any(|other| other == ip)
            && !declared
    })
}

/// kube-proxy's iptables mode does with every connection what `dataplane/reference.rs` says, with one exception: where
/// a node itself connects to a Service without endpoints, the error that it sends itself gets lost. The error of
/// kube-ipvs arrives, since the address is the node's own.
pub(crate) fn the_reference_is_what_iptables_mode_does() {
    does_what_the_reference_says(Mode::Iptables, |question, found| {
        let lost = question.client.kind == Kind::Node && !question.is_answered();
        let nothing = [Happened::Silence, Happened::Trouble("No route to host (os error 113)".to_owned())];
        is_expected(question, found) || lost && found.keys().all(|happened| nothing.contains(happened))
    });
}

/// The same for its nftables mode, which also does not masquerade what a pod sends to itself through another node.
pub(crate) fn the_reference_is_what_nftables_mode_does() {
    does_what_the_reference_says(Mode::Nftables, |question, found| {
        let lost = question.client.kind == Kind::Node
            && question.protocol == Protocol::Udp
            && !question.is_answered();
        let back = question.entry == Entry::OtherNodePort
            && question.service.external == Policy::Local
            && question.service.endpoints.contains(&question.client.name);
        let mut expected = question.expected(question.requests());
        if lost || back {
            expected.insert(Happened::Silence, 1);
        }
        found.keys().all(|happened| expected.contains_key(happened))
    });
}

/// Endpoints are picked at random: not every expected one need occur.
fn is_expected(question: &Question, found: &Found) -> bool {
    let expected = question.expected(question.requests());
    found.keys().all(|happened| expected.contains_key(happened))
}

fn does_what_the_reference_says(mode: Mode, is_right: fn(&Question, &Found) -> bool) {
    let cluster = Cluster::without_proxies([]);
    let control_plane = ControlPlane::start(&cluster);
    for (_, service) in table::SERVICES.iter() {
        control_plane.create(&service.manifest());
    }
    let proxies = NODES.map(|(node, _)| KubeProxy::start(&cluster, &control_plane, node, mode, Variant::Nft));
    let found = ask_all(&cluster, is_right);
    let wrong: Vec<_> = Question::all()
        .filter(|question| !is_right(question, &found[&question.id()]))
        .map(|question| {
            let (found, expected) = (&found[&question.id()], question.expected(question.requests()));
            format!("{:?}: found {found:?}, expected {expected:?}", question.id())
        })
        .collect();
    drop(proxies);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), found.len(), wrong.join("\n"));
}
