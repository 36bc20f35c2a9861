//! Virtual servers that are others', and whether anybody was told of them.

use std::collections::BTreeSet;

use crate::state::VirtualServerKey;

/// Virtual servers that are not ours, and are left alone.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    servers: BTreeSet<VirtualServerKey>,
    /// Whether they changed since they were told last: once for all changes that come together, since there may be thousands.
    is_news: bool,
}

impl Foreign {
    /// At the start: these, which is told even where there are none.
    pub(super) fn begin(&mut self, servers: BTreeSet<VirtualServerKey>) {
        *self = Self { servers, is_news: true };
    }

    /// These and no others.
    pub(super) fn are(&mut self, servers: BTreeSet<VirtualServerKey>) {
        if self.servers != servers {
            self.begin(servers);
        }
    }

    /// These too.
    pub(super) fn add(&mut self, servers: Vec<VirtualServerKey>) {
        for server in servers {
            self.is_news |= self.servers.insert(server);
        }
    }

    /// This one is not, if it was.
    pub(super) fn remove(&mut self, server: &VirtualServerKey) {
        self.is_news |= self.servers.remove(server);
    }

    pub(super) fn contains(&self, server: &VirtualServerKey) -> bool {
        self.servers.contains(server)
    }

    /// In order.
    pub(super) fn servers(&self) -> &BTreeSet<VirtualServerKey> {
        &self.servers
    }

    /// All of them, where they are others than when this was asked last.
    pub(super) fn take_news(&mut self) -> Option<BTreeSet<VirtualServerKey>> {
        std::mem::take(&mut self.is_news).then(|| self.servers.clone())
    }
}
