//! What the source tells while the start waits for the Node, which may take days.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use crate::api::{Change, Event};
use crate::cluster::types::{ServiceKey, SliceKey};

/// Events in their order of arrival, without those that later ones supersede: only the last event of each object is
/// kept, and a complete set replaces all earlier events of its kind. A deletion is kept only for an object of that
/// complete set: over time, any number of other objects may come and go.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    events: BTreeMap<u64, Event>,
    /// The position of the last event about each object.
    places: HashMap<ObjectKey, u64>,
    /// The objects of the last complete set, by kind of event.
    listed: HashMap<Discriminant<Event>, HashSet<ObjectKey>>,
    next: u64,
}

impl HeldBack {
    /// Adds an event.
    pub(super) fn put(&mut self, event: Event) {
        let kind = discriminant(&event);
        match Subject::of(&event) {
            Subject::Object { object, is_gone } => {
                if let Some(void) = self.places.remove(&object) {
                    self.events.remove(&void);
                }
                if is_gone && !self.listed.get(&kind).is_some_and(|listed| listed.contains(&object)) {
                    return;
                }
                self.places.insert(object, self.next);
            }
            Subject::All(objects) => {
                self.events.retain(|_, held| discriminant(held) != kind);
                self.places.retain(|_, place| self.events.contains_key(place));
                self.listed.insert(kind, objects);
            }
        }
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Takes all events out.
    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(self).events.into_values().collect()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum ObjectKey {
    Service(ServiceKey),
    Slice(SliceKey),
    Node(Arc<str>),
    OtherNode(Arc<str>),
}

/// What an event is about.
enum Subject {
    /// One object.
    Object { object: ObjectKey, is_gone: bool },
    /// All objects of a kind: exactly these.
    All(HashSet<ObjectKey>),
}

impl Subject {
    fn of(event: &Event) -> Self {
        fn of<K: Clone, T>(
            change: &Change<K, T>,
            key: impl Fn(&T) -> &K,
            object: impl Fn(K) -> ObjectKey,
        ) -> Subject {
            let of_one = |key: &K, is_gone| Subject::Object { object: object(key.clone()), is_gone };
            match change {
                Change::Replace(all) => {
                    Subject::All(all.iter().map(|one| object(key(one).clone())).collect())
                }
                Change::Upsert(one) => of_one(key(one), false),
                Change::Delete(key) => of_one(key, true),
            }
        }
        match event {
            Event::Service(change) => of(change, |service| &service.key, ObjectKey::Service),
            Event::Slice(change) => of(change, |slice| &slice.key, ObjectKey::Slice),
            Event::Node(change) => of(change, |node| &node.name, ObjectKey::Node),
            Event::OtherNode(change) => of(change, |node| &node.name, ObjectKey::OtherNode),
            Event::NodeAddresses(_) => Self::All(HashSet::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::examples;
    use crate::cluster::types::Service;

    fn service(name: &str) -> Service {
        examples::service(ServiceKey::new("default", name))
    }

    fn listed(names: &[&str]) -> Event {
        Event::Service(Change::Replace(names.iter().map(|name| service(name)).collect()))
    }

    fn comes(name: &str) -> Event {
        Event::Service(Change::Upsert(service(name)))
    }

    fn gone(name: &str) -> Event {
        Event::Service(Change::Delete(ServiceKey::new("default", name)))
    }

    #[test]
    fn of_each_object_the_last_event_counts() {
        let mut held = HeldBack::default();
        held.put(listed(&["a", "b"]));
        for number in 0..100_000 {
            let name = if number % 2 == 0 { "a" } else { "b" };
            held.put(comes(name));
            held.put(gone(name));
        }
        held.put(comes("c"));
        held.put(gone("a"));
        assert_eq!(held.take(), [listed(&["a", "b"]), gone("b"), comes("c"), gone("a")]);
        assert_eq!(held.take(), []);
    }

    /// Jobs create Services with new names all the time.
    #[test]
    fn what_came_and_went_meanwhile_is_forgotten() {
        let mut held = HeldBack::default();
        held.put(listed(&[]));
        for number in 0..1000 {
            let name = format!("job-{number}");
            held.put(comes(&name));
            held.put(gone(&name));
        }
        assert_eq!((held.events.len(), held.places.len()), (1, 0));
    }

    #[test]
    fn a_complete_set_is_all_that_there_is_of_its_kind() {
        let mut held = HeldBack::default();
        held.put(listed(&["a"]));
        held.put(gone("a"));
        held.put(Event::Slice(Change::Replace(vec![])));
        held.put(listed(&["b"]));
        held.put(gone("a"));
        held.put(gone("b"));
        assert_eq!(held.take(), [Event::Slice(Change::Replace(vec![])), listed(&["b"]), gone("b")]);
    }
}
