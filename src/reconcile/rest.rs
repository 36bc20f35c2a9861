//! The rest of a large change, as after a time without the API server, or when the node's addresses change. Pure.
//!
//! The rest is written piece by piece, with everything of one Service in one plan. What changes meanwhile goes first:
//! one endpoint does not wait for ten thousand.

use std::collections::BTreeMap;
use std::time::Instant;

use super::pace::Pace;
use crate::cluster::types::ServiceKey;
use crate::state::Key;

/// How many keys are in the first piece. Fewer than a thousand endpoints that change at once are better written in few
/// plans: the kernel finds virtual servers along chains, and a plan has those of one chain next to each other.
const FIRST_PIECE: usize = 256;

/// Keys whose wanted state may have changed, by the Service that caused it.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    keys: BTreeMap<ServiceKey, Vec<Key>>,
    /// Keys that are written after all of `keys`.
    last: Vec<Key>,
    pace: Pace,
    /// How many keys are being written, and since when.
    in_work: Option<(usize, Instant)>,
}

impl Default for Rest {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), last: Vec::new(), pace: Pace::from(FIRST_PIECE), in_work: None }
    }
}

impl Rest {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.last.is_empty()
    }

    /// How many keys are written at once.
    pub(super) fn piece(&self) -> usize {
        self.pace.piece()
    }

    /// Sets how many keys are written at once, until that proves too many or too few.
    pub(super) fn set_piece(&mut self, keys: usize) {
        self.pace = Pace::from(keys);
    }

    /// Leaves these keys of a Service for later.
    pub(super) fn put(&mut self, service: &ServiceKey, keys: Vec<Key>) {
        if !keys.is_empty() {
            self.keys.entry(service.clone()).or_default().extend(keys);
        }
    }

    /// Leaves these keys until everything else is written.
    pub(super) fn put_last(&mut self, keys: Vec<Key>) {
        self.last.extend(keys);
    }

    /// Takes all waiting keys of a Service that changed again: they are written together.
    pub(super) fn take_of(&mut self, service: &ServiceKey) -> Vec<Key> {
        self.keys.remove(service).unwrap_or_default()
    }

    /// Takes the next piece: the keys of one Service at least, or some of those that come last.
    pub(super) fn take(&mut self) -> Vec<Key> {
        let mut taken = Vec::new();
        while taken.len() < self.piece()
            && let Some((_, keys)) = self.keys.pop_first()
        {
            taken.extend(keys);
        }
        if taken.is_empty() {
            let later = self.last.len().saturating_sub(self.piece());
            // The last piece takes the room of all with it.
            taken = if later == 0 { std::mem::take(&mut self.last) } else { self.last.split_off(later) };
        }
        taken
    }

    /// This many keys are compared and written next.
    pub(super) fn begins(&mut self, keys: usize, now: Instant) {
        self.in_work = Some((keys, now));
    }

    /// These keys are written.
    pub(super) fn written(&mut self, now: Instant) {
        if let Some((keys, since)) = self.in_work.take() {
            self.pace.took(keys, now.saturating_duration_since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn service(number: u32) -> ServiceKey {
        ServiceKey::new("default", format!("s{number:03}"))
    }

    fn keys(number: u32, count: usize) -> Vec<Key> {
        vec![Key::Address(std::net::Ipv4Addr::from(number).into()); count]
    }

    #[test]
    fn what_is_one_services_goes_together() {
        let mut rest = Rest::default();
        rest.put(&service(0), Vec::new());
        assert!(rest.is_empty());
        for number in 1..=4 {
            rest.put(&service(number), keys(number, 100));
        }
        rest.put(&service(3), keys(7, 1));
        rest.put_last(keys(9, 257));
        assert_eq!(rest.take_of(&service(2)), keys(2, 100));
        assert_eq!(rest.take_of(&service(2)), []);
        assert_eq!(rest.take(), [keys(1, 100), keys(3, 100), keys(7, 1), keys(4, 100)].concat());
        assert!(!rest.is_empty());
        assert_eq!([rest.take(), rest.take()], [keys(9, 256), keys(9, 1)]);
        assert!(rest.is_empty() && rest.take().is_empty());
        rest.put(&service(1), keys(1, 1000));
        rest.put(&service(2), keys(2, 1));
        assert_eq!(rest.take().len(), 1000);
        assert_eq!(rest.take().len(), 1);
    }

    #[test]
    fn a_piece_is_as_large_as_what_was_written_in_time() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert_eq!(rest.piece(), 256);
        rest.begins(256, now);
        rest.written(now + Duration::from_millis(10));
        assert_eq!(rest.piece(), 128);
        rest.written(now + Duration::from_hours(1));
        assert_eq!(rest.piece(), 128, "that was something else");
    }
}
