//! The picture of the kernel: what was read, corrected by the outcomes of steps. It has only what is ours or wanted.
//! Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;

use crate::diff::Step;
use crate::state::{Address, Key, RealServers, State, VirtualServerKey};

/// The picture, which can be read as the [`State`] that it is. Real servers are counted as they come and go: counting
/// them on demand would cost more the larger the cluster is.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    state: State,
    real_servers: usize,
}

impl Picture {
    /// A picture of this.
    pub(super) fn of(state: State) -> Self {
        let real_servers = state.virtual_servers.values().map(|server| server.real_servers.len()).sum();
        Self { state, real_servers }
    }

    /// The state in the picture.
    pub(super) fn into_state(self) -> State {
        self.state
    }

    /// How many real servers there are.
    pub(super) fn real_servers(&self) -> usize {
        self.real_servers
    }

    /// Copies what the kernel has of this key from `read`.
    pub(super) fn copy(&mut self, key: &Key, read: &State) {
        let before = self.count(key);
        self.state.copy(key, read);
        self.real_servers = self.real_servers - before + self.count(key);
    }

    /// Takes out all addresses, which are gone.
    pub(super) fn take_addresses(&mut self) -> BTreeMap<IpAddr, Address> {
        std::mem::take(&mut self.state.addresses)
    }

    /// Keeps the real servers of a virtual server in memory once, if they equal the wanted ones.
    pub(super) fn share(&mut self, key: &VirtualServerKey, wanted: &RealServers) {
        if let Some(server) = self.state.virtual_servers.get_mut(key) {
            server.real_servers.share(wanted);
        }
    }

    /// Takes in a step that the kernel did.
    pub(super) fn apply(&mut self, step: &Step) {
        let more = step.apply_to(&mut self.state);
        self.real_servers = self.real_servers.saturating_add_signed(more);
    }

    fn count(&self, key: &Key) -> usize {
        let Key::VirtualServer(key) = key else { return 0 };
        self.state.virtual_servers.get(key).map_or(0, |server| server.real_servers.len())
    }
}

impl Deref for Picture {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}
