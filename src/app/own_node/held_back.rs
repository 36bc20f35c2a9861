//! What the source tells while the start waits for the Node, which may be for days.

use std::collections::{BTreeMap, HashMap};
use std::mem::discriminant;
use std::sync::Arc;

use crate::api::{Change, Event};
use crate::cluster::types::{ServiceKey, SliceKey};

/// Events in the order in which they came, but for those that later ones make void: of each object the last one counts, and
/// a complete set is all that there is of its kind.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    events: BTreeMap<u64, Event>,
    /// Where the last event about an object is.
    places: HashMap<ObjectKey, u64>,
    next: u64,
}

impl HeldBack {
    /// Adds one.
    pub(super) fn put(&mut self, event: Event) {
        if let Some(object) = ObjectKey::of(&event) {
            if let Some(void) = self.places.insert(object, self.next) {
                self.events.remove(&void);
            }
        } else {
            self.events.retain(|_, held| discriminant(held) != discriminant(&event));
            self.places.retain(|_, place| self.events.contains_key(place));
        }
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// All of them; none is left.
    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(self).events.into_values().collect()
    }
}

/// What an event may be about.
#[derive(Debug, PartialEq, Eq, Hash)]
enum ObjectKey {
    Service(ServiceKey),
    Slice(SliceKey),
    Node(Arc<str>),
    OtherNode(Arc<str>),
}

impl ObjectKey {
    /// The object that an event is about; `None`: all of its kind.
    fn of(event: &Event) -> Option<Self> {
        fn of<K: Clone, T>(change: &Change<K, T>, key: impl Fn(&T) -> &K) -> Option<K> {
            match change {
                Change::Replace(_) => None,
                Change::Upsert(object) => Some(key(object).clone()),
                Change::Delete(key) => Some(key.clone()),
            }
        }
        match event {
            Event::Service(change) => of(change, |service| &service.key).map(Self::Service),
            Event::Slice(change) => of(change, |slice| &slice.key).map(Self::Slice),
            Event::Node(change) => of(change, |node| &node.name).map(Self::Node),
            Event::OtherNode(change) => of(change, |node| &node.name).map(Self::OtherNode),
            Event::NodeAddresses(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
