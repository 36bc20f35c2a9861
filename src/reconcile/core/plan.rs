//! Plans what to write so that some keys are as wanted.

use std::sync::Arc;
use std::time::Instant;

use super::work::Task;
use super::{Next, Reconciler};
use crate::cluster::endpoints::InSlices;
use crate::diff;
use crate::state::{Element, Key, Scope, ownership};

impl Reconciler {
    /// Compares these keys; `None`: nothing is to be written.
    pub(super) fn plan(&mut self, mut scope: Scope, now: Instant) -> Option<Next> {
        self.with_what_is_said_before(&mut scope, now);
        let mut wanted = self.desired.select(&scope);
        for key in &scope {
            if let Key::VirtualServer(server) = key
                && !wanted.virtual_servers.contains_key(server)
            {
                self.drains.forget(server);
            }
        }
        if !self.exclude_cidrs.is_empty() {
            let left_alone = |key: &Key| match key {
                Key::VirtualServer(server) => {
                    !wanted.virtual_servers.contains_key(server)
                        && ownership::is_excluded(&self.exclude_cidrs, server)
                }
                _ => false,
            };
            let excluded: Scope = scope.extract_if(.., left_alone).collect();
            // Whatever failed about them no longer matters.
            self.succeeded(excluded.iter());
            let servers = excluded.iter().filter_map(|key| match key {
                Key::VirtualServer(server) if self.actual.virtual_servers.contains_key(server) => {
                    Some(*server)
                }
                _ => None,
            });
            self.disown(servers.collect());
        }
        let mut slices = InSlices::of(&self.cluster);
        let in_slices =
            |server: &_, real_servers: &[_]| self.desired.endpoints_among(&mut slices, server, real_servers);
        self.drains.complete(&mut wanted, &self.actual, now, in_slices);
        let mut plan = diff::diff(&wanted, &self.actual, &scope);
        diff::order::rotate(&mut plan, self.seed);
        if plan.is_empty() {
            self.succeeded(scope.iter());
            return None;
        }
        Some(self.start(Task::Apply(Arc::new(plan), scope), now))
    }

    /// Puts the elements that say whose a new virtual server is, and who may not use it, into the plan that makes it:
    /// which step needs which is known only inside one plan. While such an element cannot be written, the virtual
    /// server waits.
    fn with_what_is_said_before(&mut self, scope: &mut Scope, now: Instant) {
        let new = scope.iter().filter_map(|key| match key {
            Key::VirtualServer(server) if !self.actual.virtual_servers.contains_key(server) => Some(*server),
            _ => None,
        });
        for server in new.collect::<Vec<_>>() {
            let said = [Element::Owned(server), Element::Restricted(server)].into_iter().filter(|element| {
                !self.actual.elements.contains(element) && self.desired.wants(&Key::Element(*element))
            });
            let said: Scope = said.map(Key::Element).filter(|said| !scope.contains(said)).collect();
            let key = Key::VirtualServer(server);
            if said.iter().any(|said| self.schedule.waits_with(&key, said, now)) {
                scope.remove(&key);
            } else {
                scope.extend(said);
            }
        }
    }
}
