//! The state after a step.

use super::plan::Step;
use crate::state::{Address, Rules, State, VirtualServer};

impl Step {
    /// Changes a state as this step changes the kernel. Returns the change in the number of real servers.
    pub fn apply_to(&self, state: &mut State) -> isize {
        let mut more = 0;
        match self {
            Self::SetSysctl(sysctl, value) => {
                state.sysctls.insert(*sysctl, value.clone());
            }
            Self::AddDevice => state.device = true,
            Self::SetTimeouts(timeouts) => {
                for (to, from) in [
                    (&mut state.timeouts.tcp_seconds, timeouts.tcp_seconds),
                    (&mut state.timeouts.tcp_fin_seconds, timeouts.tcp_fin_seconds),
                    (&mut state.timeouts.udp_seconds, timeouts.udp_seconds),
                ] {
                    if from != 0 {
                        *to = from;
                    }
                }
            }
            Self::InstallRules(family, settings, elements) => {
                state.rules.insert(*family, Rules::Intact(settings.clone()));
                state.elements.retain(|element| element.family() != *family);
                state.elements.extend(elements);
            }
            Self::DeleteElement(element) => {
                state.elements.remove(element);
            }
            Self::AddElement(element) => {
                state.elements.insert(*element);
            }
            Self::AddVirtualServer(key, server) => {
                more -= count(state.virtual_servers.insert(*key, server.without_real_servers()));
            }
            Self::EditVirtualServer(key, server) => {
                if let Some(known) = state.virtual_servers.get_mut(key) {
                    let real_servers = std::mem::take(&mut known.real_servers);
                    *known = VirtualServer { real_servers, ..server.without_real_servers() };
                }
            }
            Self::AddRealServer(key, server_key, server) | Self::EditRealServer(key, server_key, server) => {
                if let Some(known) = state.virtual_servers.get_mut(key) {
                    more += isize::from(known.real_servers.insert(*server_key, *server).is_none());
                }
            }
            Self::DeleteRealServer(key, server_key) => {
                if let Some(known) = state.virtual_servers.get_mut(key) {
                    more -= isize::from(known.real_servers.remove(server_key).is_some());
                }
            }
            Self::AddAddress(address) => {
                state.addresses.insert(*address, Address::wanted(*address));
            }
            Self::EditAddress(address) => {
                if let Some(known) = state.addresses.get_mut(address) {
                    known.deprecated = Address::wanted(*address).deprecated;
                }
            }
            Self::AddRoute(address) => {
                if let Some(known) = state.addresses.get_mut(address) {
                    known.routed = true;
                }
            }
            Self::DeleteAddress(address) => {
                state.addresses.remove(address);
            }
            Self::DeleteVirtualServer(key) => {
                more -= count(state.virtual_servers.remove(key));
            }
        }
        more
    }
}

/// The number of real servers of a virtual server, if it existed.
fn count(server: Option<VirtualServer>) -> isize {
    server.map_or(0, |server| isize::try_from(server.real_servers.len()).unwrap_or(isize::MAX))
}
