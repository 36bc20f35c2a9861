//! A kernel state as YAML that people can read and write: the form of `state.yaml` and `actual.yaml` in scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::state::{
    Address, Element, RealServer, RealServerKey, RuleSettings, Rules, State, Sysctl, Timeouts, VirtualServer,
    VirtualServerKey, Weight,
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
    pod_network: Option<String>,
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
                        pod_network: settings.pod_network.map(|network| network.to_string()),
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
                    assert_eq!(real.forwarding, RealServer::MASQUERADE);
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
                    pod_network: rules.pod_network.map(|network| network.parse().expect("a network")),
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

fn parse_element(text: &str) -> Element {
    let (set, address) = text.split_once(' ').expect("set address");
    let address = address.parse().expect("an address");
    match set {
        "service-addresses" => Element::ServiceAddress(address),
        "hairpin" => Element::Hairpin(address),
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
