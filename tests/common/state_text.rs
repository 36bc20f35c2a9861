//! A kernel state as YAML that people can read and write: the format of `state.yaml` and `actual.yaml` in scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::state::{
    Address, Element, Inside, InterfaceName, RealServer, RealServerKey, RuleSettings, Rules, State, Sysctl,
    Timeouts, VirtualServer, VirtualServerKey, Weight,
};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StateText {
    device: bool,
    sysctls: BTreeMap<String, String>,
    /// tcp, tcpfin, udp
    timeouts: [u32; 3],
    rules: BTreeMap<String, RulesText>,
    elements: BTreeSet<String>,
    virtual_servers: BTreeMap<String, ServerText>,
    addresses: BTreeMap<String, AddressText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesText {
    masquerade_mark: u32,
    masquerade_all: bool,
    /// A network, `by NAME` or `by PREFIX*`.
    inside: Option<String>,
    node_address: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerText {
    scheduler: String,
    #[serde(default)]
    flags: u32,
    #[serde(default)]
    timeout_seconds: u32,
    /// `address:port`: weight, or `drain`
    real_servers: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressText {
    #[serde(default)]
    deprecated: bool,
    routed: bool,
}

pub(crate) fn render(state: &State) -> String {
    let text = StateText {
        device: state.device,
        sysctls: state.sysctls.iter().map(|(sysctl, value)| (sysctl.to_string(), value.clone())).collect(),
        timeouts: [state.timeouts.tcp_seconds, state.timeouts.tcp_fin_seconds, state.timeouts.udp_seconds],
        rules: state
            .rules
            .iter()
            .map(|(family, rules)| match rules {
                Rules::Intact(settings) => (
                    family.to_string(),
                    RulesText {
                        masquerade_mark: settings.masquerade_mark,
                        masquerade_all: settings.masquerade_all,
                        inside: settings.inside.as_ref().map(|inside| match inside {
                            Inside::Network(network) => network.to_string(),
                            Inside::Interface(name) => format!("by {name}"),
                            Inside::InterfacePrefix(prefix) => format!("by {prefix}*"),
                        }),
                        node_address: settings.node_address.map(|address| address.to_string()),
                    },
                ),
                Rules::Other(why) => panic!("{family} rules: {why}"),
            })
            .collect(),
        elements: state.elements.iter().map(ToString::to_string).collect(),
        virtual_servers: state
            .virtual_servers
            .iter()
            .map(|(key, server)| {
                let real_servers = server.real_servers.iter().map(|(key, real)| {
                    assert_eq!(*real, RealServer::with(real.weight));
                    let weight = match real.weight {
                        Weight::Exactly(weight) => weight.to_string(),
                        Weight::DrainIfPresent => "drain".to_owned(),
                    };
                    (key.to_string(), weight)
                });
                assert_eq!(server.netmask_bits, Family::of(key.address).host_prefix());
                let server = ServerText {
                    scheduler: server.scheduler.to_string(),
                    flags: server.flags,
                    timeout_seconds: server.timeout_seconds,
                    real_servers: real_servers.collect(),
                };
                (key.to_string(), server)
            })
            .collect(),
        addresses: state
            .addresses
            .iter()
            .map(|(address, known)| {
                let known = AddressText { deprecated: known.deprecated, routed: known.routed };
                (address.to_string(), known)
            })
            .collect(),
    };
    serde_yaml::to_string(&text).expect("plain data")
}

pub(crate) fn parse(text: &str) -> State {
    let text: StateText = serde_yaml::from_str(text).unwrap_or_else(|error| panic!("a state: {error}"));
    let [tcp_seconds, tcp_fin_seconds, udp_seconds] = text.timeouts;
    State {
        device: text.device,
        sysctls: text.sysctls.into_iter().map(|(path, value)| (sysctl(&path), value)).collect(),
        timeouts: Timeouts { tcp_seconds, tcp_fin_seconds, udp_seconds },
        rules: text
            .rules
            .into_iter()
            .map(|(name, rules)| {
                let family =
                    Family::ALL.into_iter().find(|family| family.to_string() == name).expect("a family");
                let settings = RuleSettings {
                    masquerade_mark: rules.masquerade_mark,
                    masquerade_all: rules.masquerade_all,
                    inside: rules.inside.as_deref().map(parse_inside),
                    node_address: rules.node_address.map(|address| address.parse().expect("an address")),
                };
                (family, Rules::Intact(settings))
            })
            .collect(),
        elements: text.elements.iter().map(|element| parse_element(element)).collect(),
        virtual_servers: text
            .virtual_servers
            .into_iter()
            .map(|(key, server)| {
                let key = server_key(&key);
                let real_servers = server.real_servers.into_iter().map(|(key, weight)| {
                    let at: SocketAddr = key.parse().expect("address:port");
                    let weight = match weight.as_str() {
                        "drain" => Weight::DrainIfPresent,
                        weight => Weight::Exactly(weight.parse().expect("a weight")),
                    };
                    (RealServerKey { address: at.ip(), port: at.port() }, RealServer::with(weight))
                });
                let server = VirtualServer {
                    scheduler: server.scheduler.into(),
                    flags: server.flags,
                    timeout_seconds: server.timeout_seconds,
                    netmask_bits: Family::of(key.address).host_prefix(),
                    real_servers: real_servers.collect(),
                };
                (key, server)
            })
            .collect(),
        addresses: text
            .addresses
            .into_iter()
            .map(|(address, known)| {
                let known = Address { deprecated: known.deprecated, routed: known.routed };
                (address.parse().expect("an address"), known)
            })
            .collect(),
    }
}

fn sysctl(path: &str) -> Sysctl {
    Sysctl::ALL.into_iter().find(|sysctl| sysctl.path() == path).unwrap_or_else(|| panic!("no sysctl {path}"))
}

fn parse_inside(text: &str) -> Inside {
    let name = |name| InterfaceName::new(name).expect("a device's name");
    match text.strip_prefix("by ") {
        None => Inside::Network(text.parse().expect("a network")),
        Some(device) => match device.strip_suffix('*') {
            Some(prefix) => Inside::InterfacePrefix(name(prefix)),
            None => Inside::Interface(name(device)),
        },
    }
}

fn parse_element(text: &str) -> Element {
    let (set, key) = text.split_once(' ').expect("set key");
    let address = || key.parse().expect("an address");
    match set {
        "cluster-addresses" => Element::ClusterAddress(address()),
        "external-addresses" => Element::ExternalAddress(address()),
        "shared-addresses" => Element::SharedAddress(address()),
        "hairpin" => Element::Hairpin(address()),
        "health-checks" => Element::HealthCheck(server_key(key)),
        "owned" => Element::Owned(server_key(key)),
        "masqueraded" => Element::Masquerade(server_key(key)),
        "internal" => Element::Internal(server_key(key)),
        "dropped" => Element::Dropped(server_key(key)),
        "refused" => Element::Refused(server_key(key)),
        "restricted" => Element::Restricted(server_key(key)),
        "numbered" => Element::Numbered(InterfaceName::new(key).expect("a device's name")),
        "in-cluster" => {
            let (server, to) = key.split_once(" -> ").expect("entry point -> address:port");
            let to: SocketAddr = to.parse().expect("address:port");
            Element::InCluster(server_key(server), to.ip(), to.port())
        }
        "allowed" => {
            let (server, network) = key.split_once(" from ").expect("entry point from network");
            Element::Allowed(server_key(server), network.parse().expect("a network"))
        }
        _ => panic!("no set {set}"),
    }
}

fn server_key(text: &str) -> VirtualServerKey {
    let (protocol, at) = text.split_once(' ').expect("PROTOCOL address:port");
    let at: SocketAddr = at.parse().expect("address:port");
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| known.to_string() == protocol)
        .expect("a protocol");
    VirtualServerKey { address: at.ip(), protocol, port: at.port() }
}
