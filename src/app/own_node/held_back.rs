//! What the source tells while the start waits for the Node, which may be for days.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use crate::api::{Change, Event};

/// Events in the order in which they came, but for those that later ones make void: of each object the last one counts, and
/// a complete set is all that there is of its kind.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    events: BTreeMap<u64, Event>,
    /// Where the last event about an object is.
    places: HashMap<(Discriminant<Event>, String), u64>,
    next: u64,
}

impl HeldBack {
    /// Adds one.
    pub(super) fn put(&mut self, event: Event) {
        let kind = discriminant(&event);
        if let Some(object) = object_of(&event) {
            if let Some(void) = self.places.insert((kind, object), self.next) {
                self.events.remove(&void);
            }
        } else {
            self.events.retain(|_, held| discriminant(held) != kind);
            self.places.retain(|(held, _), _| *held != kind);
        }
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// All of them; none is left.
    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(self).events.into_values().collect()
    }
}

/// The object that an event is about; `None`: all of its kind.
fn object_of(event: &Event) -> Option<String> {
    fn of<K: std::fmt::Debug, T>(change: &Change<K, T>, key: impl Fn(&T) -> K) -> Option<String> {
        match change {
            Change::Replace(_) => None,
            Change::Upsert(object) => Some(format!("{:?}", key(object))),
            Change::Delete(key) => Some(format!("{key:?}")),
        }
    }
    match event {
        Event::Service(change) => of(change, |service| service.key.clone()),
        Event::Slice(change) => of(change, |slice| slice.key.clone()),
        Event::Node(change) => of(change, |node| node.name.clone()),
        Event::OtherNode(change) => of(change, |node| node.name.clone()),
        Event::NodeAddresses(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::types::ServiceKey;

    fn gone(name: &str) -> Event {
        Event::Service(Change::Delete(ServiceKey::new("default", name)))
    }

    #[test]
    fn of_each_object_the_last_event_counts() {
        let mut held = HeldBack::default();
        held.put(Event::Service(Change::Replace(vec![])));
        for number in 0..100_000 {
            held.put(gone(if number % 2 == 0 { "a" } else { "b" }));
        }
        held.put(gone("a"));
        assert_eq!(held.take(), [Event::Service(Change::Replace(vec![])), gone("b"), gone("a")]);
        assert_eq!(held.take(), []);
    }

    #[test]
    fn a_complete_set_is_all_that_there_is_of_its_kind() {
        let mut held = HeldBack::default();
        held.put(gone("a"));
        held.put(Event::Slice(Change::Replace(vec![])));
        held.put(Event::Service(Change::Replace(vec![])));
        held.put(gone("a"));
        assert_eq!(
            held.take(),
            [Event::Slice(Change::Replace(vec![])), Event::Service(Change::Replace(vec![])), gone("a")]
        );
    }
}
