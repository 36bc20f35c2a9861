//! Which failures were logged, so that a failure that lasts does not fill the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failures that were logged. One that lasts, or comes again, is logged once more after an hour.
#[derive(Debug, Default)]
pub(crate) struct Said(BTreeMap<String, Instant>);

impl Said {
    /// How long until a failure is logged once more.
    pub(crate) const AGAIN: Duration = Duration::from_hours(1);

    /// Whether a failure is to be logged now. If so, it counts as logged.
    pub(crate) fn is_news(&mut self, failure: &str, now: Instant) -> bool {
        self.0.retain(|_, said| now.saturating_duration_since(*said) < Self::AGAIN);
        let is_news = !self.0.contains_key(failure);
        if is_news {
            self.0.insert(failure.to_owned(), now);
        }
        is_news
    }

    /// All is well: any failure from now on is news.
    pub(crate) fn over(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_in_an_hour_and_after_all_was_well() {
        let mut said = Said::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (failure, after, is_news) in [
            ("no memory", Duration::ZERO, true),
            ("no memory", second, false),
            ("no right", second, true),
            ("no memory", Said::AGAIN / 2, false),
            ("no memory", Said::AGAIN, true),
            ("no right", Said::AGAIN, false),
        ] {
            assert_eq!(said.is_news(failure, start + after), is_news, "{failure} after {after:?}");
        }
        assert_eq!(said.0.len(), 2);
        assert!(said.is_news("no right", start + Said::AGAIN + second));
        said.over();
        assert!(said.is_news("no right", start + Said::AGAIN + second));
    }
}
