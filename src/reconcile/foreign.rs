//! Virtual servers that belong to others, and whether they were reported.

use std::collections::BTreeSet;

use crate::state::VirtualServerKey;

/// Virtual servers that are not ours, and are left alone.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    servers: BTreeSet<VirtualServerKey>,
    /// Whether they changed since they were last reported: once for all changes that come together, since there may be
    /// thousands.
    is_news: bool,
}

impl Foreign {
    /// Sets them at the start, which is reported even where there are none.
    pub(super) fn begin(&mut self, servers: BTreeSet<VirtualServerKey>) {
        *self = Self { servers, is_news: true };
    }

    /// Sets them to exactly these.
    pub(super) fn are(&mut self, servers: BTreeSet<VirtualServerKey>) {
        if self.servers != servers {
            self.begin(servers);
        }
    }

    /// Adds these.
    pub(super) fn add(&mut self, servers: Vec<VirtualServerKey>) {
        for server in servers {
            self.is_news |= self.servers.insert(server);
        }
    }

    /// Removes this one, if it is among them.
    pub(super) fn remove(&mut self, server: &VirtualServerKey) {
        self.is_news |= self.servers.remove(server);
    }

    pub(super) fn contains(&self, server: &VirtualServerKey) -> bool {
        self.servers.contains(server)
    }

    /// All of them, in order.
    pub(super) fn servers(&self) -> &BTreeSet<VirtualServerKey> {
        &self.servers
    }

    /// All of them, if they changed since the last call.
    pub(super) fn take_news(&mut self) -> Option<BTreeSet<VirtualServerKey>> {
        std::mem::take(&mut self.is_news).then(|| self.servers.clone())
    }
}
