//! What can go wrong with a request, as values to base decisions on.

use std::fmt;
use std::time::Duration;

use super::version::Version;

/// What a request wanted to do, in RBAC's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Get the objects as a list, in pages.
    List,
    /// Get changes, or first the objects and then changes (a streaming list is a watch).
    Watch,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Watch => "watch",
        })
    }
}

/// Why a request, or the stream that it opened, came to an end.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// The server answered with an error.
    Refused(Refusal),
    /// No connection, or it broke before the answer began.
    Connection(String),
    /// The connection broke in the middle of the answer, or somebody on the way cut it.
    Broken(String),
    /// No byte was received for this long, although some were due.
    Silence(Duration),
    /// The answer is not one that an API server gives.
    Malformed(String),
    /// The answer is older than what was seen before.
    Older {
        /// The version that was offered.
        offered: Version,
        /// The newest one known.
        seen: Version,
    },
    /// The answer ended before the list was complete, as happens to a streaming list that takes longer than the watch
    /// was asked for.
    Incomplete,
    /// The watch ended at once, without an event. Treated like an error, or it would be opened again and again.
    ShortWatch,
}

/// An error status of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status code, or the code of an `ERROR` event.
    pub(super) code: u16,
    /// The reason in one word, if the server gave one: `Forbidden`.
    pub(super) reason: String,
    /// The server's text.
    pub(super) message: String,
    /// Whether the cause is a version that this server does not know yet.
    pub(super) version_too_large: bool,
    /// How long the server wants us to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// 401 or 403: only someone else can fix that.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, Self::Refused(refusal) if matches!(refusal.code, 401 | 403))
    }

    /// 410: the server has forgotten the version, or the page, that the request went on from; only a new list helps.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 410)
    }

    /// The server does not yet know the version that the answer must not be older than.
    pub(super) fn is_version_too_large(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.version_too_large)
    }

    /// A 4xx that says "I do not understand this request", as servers without streaming lists answer (422 from those
    /// that know the parameters, 400 from older ones). Codes that any other request would get as well do not count.
    pub(super) fn is_misunderstanding(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if matches!(refusal.code, 400..=499) && !matches!(refusal.code, 401 | 403 | 408 | 409 | 410 | 429))
    }

    /// The server's text about a request that it cannot make sense of (400), such as one with an unknown selector.
    pub(super) fn bad_request(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) if refusal.code == 400 => Some(&refusal.message),
            _ => None,
        }
    }

    /// 500: the server itself failed at this request, while a different one may succeed. Servers with streaming lists
    /// answer this to all such requests while their etcd is too old for them (before 3.4.31 and 3.5.13), or not yet
    /// known to be new enough. Overload has codes of its own (429, 503, 504).
    pub(super) fn is_internal(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 500)
    }

    /// Whether a watch from another version might not fail. A missing connection, a denial and overload say nothing
    /// about the version, and neither does a gateway without a server behind it, or a server that ends all watches at
    /// once.
    pub(super) fn may_be_of_the_version(&self) -> bool {
        match self {
            Self::Refused(refusal) => !matches!(refusal.code, 401 | 403 | 408 | 429 | 502..=504),
            Self::Connection(_) | Self::Broken(_) | Self::Silence(_) | Self::ShortWatch => false,
            Self::Malformed(_) | Self::Older { .. } | Self::Incomplete => true,
        }
    }

    /// How long the server wants us to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Connection(text) | Self::Broken(text) => f.write_str(text),
            Self::Silence(limit) => write!(f, "nothing received for {limit:?}"),
            Self::Malformed(text) => write!(f, "unexpected answer: {text}"),
            Self::Older { offered, seen } => {
                write!(f, "the server is behind: it offers version {offered}, {seen} was seen before")
            }
            Self::Incomplete => f.write_str("the answer ended before the list was complete"),
            Self::ShortWatch => f.write_str("the server closed the watch at once, without sending anything"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            401 => f.write_str("unauthorized: the server does not accept the credentials")?,
            403 => f.write_str("forbidden")?,
            code => {
                write!(f, "{code}")?;
                if !self.reason.is_empty() {
                    write!(f, " {}", self.reason)?;
                }
            }
        }
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> Failure {
        Failure::Refused(Refusal { code, message: "spec.clusterIP".to_owned(), ..Refusal::default() })
    }

    #[test]
    fn what_may_be_of_the_version_and_what_says_nothing_about_it() {
        let version = Version::new("7").expect("a version");
        for failure in [
            refused(400),
            refused(404),
            refused(500),
            Failure::Malformed("nonsense".to_owned()),
            Failure::Older { offered: version.clone(), seen: version },
            Failure::Incomplete,
        ] {
            assert!(failure.may_be_of_the_version(), "{failure}");
        }
        let codes = [401, 403, 408, 429, 502, 503, 504];
        let others = [
            Failure::Connection("refused".to_owned()),
            Failure::Broken("cut".to_owned()),
            Failure::Silence(Duration::from_secs(1)),
            Failure::ShortWatch,
        ];
        for failure in codes.map(refused).into_iter().chain(others) {
            assert!(!failure.may_be_of_the_version(), "{failure}");
        }
    }

    #[test]
    fn only_a_request_that_makes_no_sense_is_a_bad_one() {
        assert_eq!(refused(400).bad_request(), Some("spec.clusterIP"));
        assert_eq!(refused(403).bad_request(), None);
        assert_eq!(Failure::Incomplete.bad_request(), None);
    }

    #[test]
    fn a_refusal_says_what_the_server_said() {
        let said = |code, reason: &str, message: &str| {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            Refusal { code, reason, message, ..Refusal::default() }.to_string()
        };
        assert_eq!(said(503, "", ""), "503");
        assert_eq!(said(503, "ServiceUnavailable", ""), "503 ServiceUnavailable");
        assert_eq!(said(410, "Expired", "too old"), "410 Expired: too old");
        assert_eq!(said(403, "Forbidden", "no"), "forbidden: no");
    }
}
