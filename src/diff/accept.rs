//! When a state of the kernel is as good as the wanted one.

use crate::state::{Key, Scope, State, Timeouts, VirtualServer, Weight};

/// Whether, for every key of the scope, `actual` is as good as `wanted`. That means equal, except that a real server
/// that is to drain may have weight 0 or be absent, a timeout of 0 accepts any, and settings that are not wanted may be
/// anything.
pub fn accepts(wanted: &State, actual: &State, scope: &Scope) -> bool {
    scope.iter().all(|key| accepts_key(wanted, actual, key))
}

fn accepts_key(wanted: &State, actual: &State, key: &Key) -> bool {
    match key {
        Key::Device => !wanted.device || actual.device,
        Key::Sysctl(sysctl) => {
            wanted.sysctls.get(sysctl).is_none_or(|value| actual.sysctls.get(sysctl) == Some(value))
        }
        Key::Timeouts => timeouts(wanted.timeouts, actual.timeouts),
        Key::Rules(family) => {
            wanted.rules.get(family).is_none_or(|rules| actual.rules.get(family) == Some(rules))
        }
        Key::Element(_) | Key::Address(_) => wanted.same(actual, key),
        Key::VirtualServer(server) => {
            match (wanted.virtual_servers.get(server), actual.virtual_servers.get(server)) {
                (None, None) => true,
                (Some(wanted), Some(actual)) => virtual_server(wanted, actual),
                _ => false,
            }
        }
    }
}

/// Whether these timeouts are as wanted; 0 accepts any.
pub(super) fn timeouts(wanted: Timeouts, actual: Timeouts) -> bool {
    let accepts = |wanted: u32, actual: u32| wanted == 0 || wanted == actual;
    accepts(wanted.tcp_seconds, actual.tcp_seconds)
        && accepts(wanted.tcp_fin_seconds, actual.tcp_fin_seconds)
        && accepts(wanted.udp_seconds, actual.udp_seconds)
}

fn virtual_server(wanted: &VirtualServer, actual: &VirtualServer) -> bool {
    wanted.same_settings(actual)
        && wanted.real_servers.iter().all(|(key, server)| {
            match (server.weight, actual.real_servers.get(key)) {
                (Weight::Exactly(_), known) => known == Some(server),
                (Weight::DrainIfPresent, None) => true,
                (Weight::DrainIfPresent, Some(known)) => known.weight == Weight::Exactly(0),
            }
        })
        && actual.real_servers.keys().all(|key| wanted.real_servers.contains_key(key))
}
