//! Looks at Services whose facts changed: what may have to be written for them, and what of that is written first.

use std::time::Instant;

use super::super::schedule::Urgency;
use super::adoption::Phase;
use super::{Note, Reconciler};
use crate::cluster::Touched;
use crate::cluster::types::ServiceKey;
use crate::desired::Update;
use crate::state::{Element, Key};

impl Reconciler {
    pub(super) fn look_at_touched(&mut self, now: Instant) {
        // A new table is made with what all Services ask for, and a Service may need a new table.
        if matches!(self.phase, Phase::First(_)) {
            return;
        }
        if std::mem::take(&mut self.node_touched) {
            let (settings, touched) = self.desired.look_at_node(&self.cluster);
            if !settings.is_empty() || !touched.is_empty() {
                self.waiting.get_or_insert(now);
                self.queued();
            }
            self.touched.extend(touched);
            self.schedule.add_all(Urgency::Change, settings);
        }
        if self.touched.is_empty() {
            return;
        }
        self.waiting.get_or_insert(now);
        self.progress.looked();
        let touched: Touched = std::mem::take(&mut self.touched).into_iter().collect();
        let Update { scope, until, conflicts, shared } = self.desired.update(&self.cluster, &touched);
        self.tell(conflicts, shared);
        self.queue_changed(&touched, scope, &until, now);
        self.notes.push(Note::Looked(touched));
    }

    /// Queues the keys whose wanted state may have changed. Of many keys only the first piece is queued, and the rest
    /// waits.
    ///
    /// The keys in `scope` are in the order of the Services; `until` says where those of each Service end.
    fn queue_changed(&mut self, touched: &Touched, scope: Vec<Key>, until: &[usize], now: Instant) {
        let piece = self.rest.piece();
        let mut at_once = Vec::new();
        if self.rest.is_empty() && scope.len() <= piece {
            at_once = scope;
            at_once.extend(touched.iter().flat_map(|service| self.draining_of(service)));
        } else {
            let (mut scope, mut begin) = (scope.into_iter(), 0);
            for (service, &end) in touched.iter().zip(until) {
                let mut keys = self.rest.take_of(service);
                keys.extend(scope.by_ref().take(end - begin));
                keys.extend(self.draining_of(service));
                begin = end;
                let last: Vec<Key> = keys.extract_if(.., |key| self.comes_last(key)).collect();
                self.rest.put_last(last);
                if at_once.len() < piece {
                    at_once.append(&mut keys);
                } else {
                    self.rest.put(service, keys);
                }
            }
        }
        self.queue_piece(at_once, now);
    }

    /// Whether a key is written last.
    ///
    /// What marks the virtual servers at an address as ours changes only after those to be removed are gone, of all
    /// Services: if the program ended in between, the next start would not know whose they are
    /// ([`ownership`](crate::state::ownership)).
    fn comes_last(&self, key: &Key) -> bool {
        match key {
            Key::Address(_) | Key::Element(Element::ClusterAddress(_) | Element::ExternalAddress(_)) => {
                !self.desired.wants(key)
            }
            Key::Element(Element::SharedAddress(_)) => self.desired.wants(key),
            _ => false,
        }
    }

    /// The virtual servers of a Service at which real servers drain: what is wanted may be the same, while a draining
    /// endpoint has left its last slice, or is in one again.
    fn draining_of(&self, service: &ServiceKey) -> impl Iterator<Item = Key> {
        let servers = self.desired.virtual_servers_of(service);
        servers.filter(|server| self.drains.concerns(server)).map(Key::VirtualServer)
    }

    /// Queues the next piece of what waits, if there are no changes to write before it.
    pub(super) fn take_of_rest(&mut self, now: Instant) {
        let is_free = self.schedule.most_urgent().is_none_or(|urgency| urgency > Urgency::Change);
        if is_free && !self.rest.is_empty() {
            let piece = self.rest.take();
            self.queue_piece(piece, now);
        }
    }

    fn queue_piece(&mut self, keys: Vec<Key>, now: Instant) {
        self.rest.begins(keys.len(), now);
        self.schedule.add_all(Urgency::Change, keys);
    }
}
