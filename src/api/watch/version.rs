//! Resource versions: how new the server's answers are.

use std::fmt;

/// The version of a collection or an object, as the API server numbers them: one counter per etcd, in decimal.
///
/// Clients had to treat versions as opaque until Kubernetes 1.35 made their order part of the API (KEP-5504), although
/// the order has always held: all servers of one cluster number from the same etcd. A version that is not such a number
/// is never considered older than another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    /// The version with this text, unless it is one of the two that mean "none" ("" and "0").
    pub(super) fn new(text: &str) -> Option<Self> {
        (!text.is_empty() && text != "0").then(|| Self(text.to_owned()))
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is certain that this one is older.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        // Decimal numbers of any size, without leading zeros: the one with fewer digits is smaller.
        is_number(&self.0)
            && is_number(&other.0)
            && (self.0.len(), self.0.as_str()) < (other.0.len(), other.0.as_str())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    fn older(a: &str, b: &str) -> bool {
        Version::new(a).unwrap().is_older_than(&Version::new(b).unwrap())
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(older("9", "10"));
        assert!(older(
            "99999999999999999999999999999999999999998",
            "99999999999999999999999999999999999999999"
        ));
        assert!(!older("10", "9"));
        assert!(!older("10", "10"));
    }

    #[test]
    fn what_is_no_number_is_never_older() {
        assert!(!older("1", "abc"));
        assert!(!older("abc", "bcd"));
        assert!(!older("08", "9"));
        assert!(!older("08", "10") && !older("9", "010"));
    }

    #[test]
    fn none_is_none() {
        assert_eq!(Version::new(""), None);
        assert_eq!(Version::new("0"), None);
    }
}
