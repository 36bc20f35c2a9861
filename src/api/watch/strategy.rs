//! How the next complete set of objects is asked for, decided by how earlier requests ended.

use super::failure::Failure;
use super::version::Version;

/// How many consistent reads in a row must return an older state than was seen before it is believed.
///
/// A consistent read cannot be stale, so etcd was restored from a backup, and its state is the truth however old it is.
/// But to believe it wrongly withdraws what works, while to believe it late costs half a minute (by the backoff), after
/// an event that happens once in years.
const OLDER_ANSWERS_BELIEVED: u32 = 5;

/// How the objects are transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As the first events of a watch (a streaming list, KEP-3157): the server sends them from its cache one by
    /// one, and neither side ever holds them all as one text.
    Stream,
    /// As a list, in pages.
    Pages,
    /// As a list in one piece, because the server forgot the version of the pages before all of them were fetched.
    OnePage,
}

/// Whether the server can do streaming lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    /// It can, as far as we know.
    Possible,
    /// It did not understand the last streaming list. It may not have understood anything (servers that are starting
    /// answer 404 to everything): the list that is tried next decides.
    Doubtful,
    /// It understood the list instead: streaming is not tried again.
    Impossible,
}

/// The decisions; see the methods.
#[derive(Debug)]
pub(super) struct Strategy {
    streaming: Streaming,
    /// The last streaming list got stuck, or the server could not do it: ask for a list this time.
    list_once: bool,
    /// Pages got lost: ask for one piece this time.
    one_page: bool,
    /// The server did not have the version that was asked for: ask for the newest state this time.
    newest: bool,
    /// How many consistent reads in a row were older than what was seen.
    older_answers: u32,
}

impl Strategy {
    pub(super) fn new() -> Self {
        Self {
            streaming: Streaming::Possible,
            list_once: false,
            one_page: false,
            newest: false,
            older_answers: 0,
        }
    }

    /// How to ask next.
    pub(super) fn how(&self) -> How {
        if self.streaming == Streaming::Possible && !self.list_once {
            How::Stream
        } else if self.one_page {
            How::OnePage
        } else {
            How::Pages
        }
    }

    /// The version that the answer must not be older than; `None` asks for a consistent read, the newest state
    /// that etcd has.
    ///
    /// The first read is consistent too, unlike client-go's "whatever your cache has": its result is compared with a
    /// kernel that an earlier run may have programmed from newer data. Servers since 1.31 serve it from their cache.
    pub(super) fn not_older_than<'a>(&self, seen: Option<&'a Version>) -> Option<&'a Version> {
        seen.filter(|_| !self.newest)
    }

    /// Whether a set of this version may replace what is known; an error if it is older than what was seen.
    pub(super) fn accept(&self, offered: &Version, seen: Option<&Version>) -> Result<(), Failure> {
        match seen.filter(|seen| offered.is_older_than(seen)) {
            Some(seen) if self.older_answers + 1 < OLDER_ANSWERS_BELIEVED => {
                Err(Failure::Older { offered: offered.clone(), seen: seen.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A complete set was accepted.
    pub(super) fn succeeded(&mut self) {
        let streaming = match self.streaming {
            Streaming::Doubtful => Streaming::Impossible,
            known => known,
        };
        *self = Self { streaming, ..Self::new() };
    }

    /// Records a failed attempt. Returns whether the next attempt, being a different one, should be made at once.
    pub(super) fn failed(&mut self, how: How, failure: &Failure) -> bool {
        match how {
            How::Stream if failure.is_misunderstanding() => {
                self.streaming = Streaming::Doubtful;
                return true;
            }
            // The list comes only after a pause: the server may fail at everything. The next complete set is asked for
            // as a stream again.
            How::Stream if failure.is_internal() => self.list_once = true,
            // A server that ignores the parameters starts a plain watch, and never says that the list is complete. Or a
            // proxy in front of the server cuts each answer after a time that is too short for all objects, but not for
            // a page of them.
            How::Stream => {
                self.list_once =
                    matches!(failure, Failure::Silence(_) | Failure::Incomplete | Failure::Broken(_));
            }
            How::Pages | How::OnePage => {
                if self.streaming == Streaming::Doubtful {
                    self.streaming = Streaming::Possible;
                }
                self.list_once = false;
                self.one_page = failure.is_gone();
            }
        }
        if matches!(failure, Failure::Older { .. }) {
            // Only consistent reads count: other requests ask for a version, and a server that does not have it
            // refuses, or should have.
            self.older_answers = if self.newest { self.older_answers + 1 } else { 0 };
            self.newest = true;
        } else if failure.is_version_too_large() {
            self.newest = true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::failure::Refusal;
    use super::*;

    fn refused(code: u16) -> Failure {
        Failure::Refused(Refusal { code, ..Refusal::default() })
    }

    fn version(text: &str) -> Option<Version> {
        Version::new(text)
    }

    #[test]
    fn streaming_is_given_up_for_good_when_a_list_works_instead() {
        let mut strategy = Strategy::new();
        assert_eq!(strategy.how(), How::Stream);
        assert!(strategy.failed(How::Stream, &refused(422)), "the list is tried at once");
        assert_eq!(strategy.how(), How::Pages);
        strategy.succeeded();
        assert_eq!(strategy.how(), How::Pages);
        strategy.failed(How::Pages, &refused(500));
        assert_eq!(strategy.how(), How::Pages, "whatever happens later");
    }

    #[test]
    fn a_server_that_fails_at_a_stream_is_asked_for_a_list() {
        let mut strategy = Strategy::new();
        assert!(!strategy.failed(How::Stream, &refused(500)), "but not at once");
        assert_eq!(strategy.how(), How::Pages);
        assert!(!strategy.failed(How::Pages, &refused(500)));
        assert_eq!(strategy.how(), How::Stream, "in turn");
        strategy.failed(How::Stream, &refused(500));
        strategy.succeeded();
        assert_eq!(strategy.how(), How::Stream, "its etcd may be another one by now");
    }

    #[test]
    fn streaming_is_not_given_up_when_nothing_is_understood() {
        let mut strategy = Strategy::new();
        strategy.failed(How::Stream, &refused(404));
        assert!(!strategy.failed(How::Pages, &refused(404)));
        assert_eq!(strategy.how(), How::Stream);
    }

    #[test]
    fn denials_and_overload_say_nothing_about_streaming() {
        for code in [401, 403, 408, 409, 410, 429, 503, 504] {
            let mut strategy = Strategy::new();
            assert!(!strategy.failed(How::Stream, &refused(code)));
            assert_eq!(strategy.how(), How::Stream, "{code}");
        }
    }

    #[test]
    fn a_stuck_stream_is_followed_by_one_list() {
        for failure in
            [Failure::Silence(Duration::from_secs(1)), Failure::Incomplete, Failure::Broken("cut".into())]
        {
            let mut strategy = Strategy::new();
            strategy.failed(How::Stream, &failure);
            assert_eq!(strategy.how(), How::Pages);
            strategy.succeeded();
            assert_eq!(strategy.how(), How::Stream);
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_asked_for_a_stream_again() {
        let mut strategy = Strategy::new();
        strategy.failed(How::Stream, &Failure::Connection("connection refused".into()));
        assert_eq!(strategy.how(), How::Stream);
    }

    #[test]
    fn lost_pages_are_fetched_in_one() {
        let mut strategy = Strategy::new();
        strategy.failed(How::Stream, &refused(422));
        strategy.failed(How::Pages, &refused(410));
        strategy.failed(How::Stream, &refused(422));
        assert_eq!(strategy.how(), How::OnePage);
        strategy.failed(How::OnePage, &refused(500));
        strategy.failed(How::Stream, &refused(422));
        assert_eq!(strategy.how(), How::Pages, "the server may not manage one");
        strategy.failed(How::Pages, &refused(410));
        strategy.failed(How::Stream, &refused(422));
        assert_eq!(strategy.how(), How::OnePage);
        strategy.succeeded();
        assert_eq!(strategy.how(), How::Pages);
    }

    #[test]
    fn the_first_read_is_consistent_and_later_ones_are_not_older() {
        let strategy = Strategy::new();
        assert_eq!(strategy.not_older_than(None), None);
        assert_eq!(strategy.not_older_than(version("7").as_ref()), version("7").as_ref());
    }

    #[test]
    fn an_older_answer_is_refused_until_it_is_repeated() {
        let (old, seen) = (version("5").unwrap(), version("7"));
        let mut strategy = Strategy::new();
        let older = strategy.accept(&old, seen.as_ref()).unwrap_err();
        strategy.failed(How::Stream, &older);
        assert_eq!(strategy.not_older_than(seen.as_ref()), None, "now a consistent read");
        for _ in 1..OLDER_ANSWERS_BELIEVED {
            assert!(strategy.accept(&old, seen.as_ref()).is_err());
            strategy.failed(How::Stream, &older);
        }
        assert_eq!(strategy.accept(&old, seen.as_ref()), Ok(()));
        strategy.succeeded();
        assert!(strategy.accept(&old, seen.as_ref()).is_err(), "counted anew");
    }

    #[test]
    fn a_server_that_lacks_the_version_is_asked_for_its_newest() {
        let mut strategy = Strategy::new();
        let failure = Failure::Refused(Refusal { code: 504, version_too_large: true, ..Refusal::default() });
        strategy.failed(How::Stream, &failure);
        assert_eq!(strategy.not_older_than(version("7").as_ref()), None);
        assert_eq!(strategy.how(), How::Stream);
    }
}
