//! The identity of an object among successive objects of the same name.

use std::fmt;

/// `metadata.uid`: an object that is deleted and recreated gets another one.
///
/// A UUID, as API servers assign it (RFC 9562): kept as 16 bytes instead of a text of 36, since there are as many as
/// Services.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uid([u8; 16]);

impl Uid {
    /// The indices of the bytes that follow a hyphen.
    const HYPHENS: [usize; 4] = [4, 6, 8, 10];

    /// The uid of this text. `None` unless the text is a UUID in the one form that is displayed exactly as it was
    /// written, in lower case: a request for an object by its uid needs exactly that text.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut rest = text.bytes();
        let mut uid = [0; 16];
        for (index, byte) in uid.iter_mut().enumerate() {
            if Self::HYPHENS.contains(&index) && rest.next() != Some(b'-') {
                return None;
            }
            *byte = digit(rest.next()?)? << 4 | digit(rest.next()?)?;
        }
        rest.next().is_none().then_some(Self(uid))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let hyphen = if Self::HYPHENS.contains(&index) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_shown_as_it_was_written_or_is_none() {
        let text = "0c5a7bde-f012-4034-8967-89abcdef0100";
        assert_eq!(Uid::parse(text).unwrap().to_string(), text);
        for other in [
            "",
            "default/web",
            "0C5A7BDE-F012-4034-8967-89ABCDEF0100",
            "0c5a7bdef0124034896789abcdef0100",
            "0c5a7bde-f012-4034-8967-89abcdef010",
            "0c5a7bde-f012-4034-8967-89abcdef01000",
            "0c5a7bde-f012-4034-8967-89abcdef01é",
            "{0c5a7bde-f012-4034-8967-89abcdef0100}",
        ] {
            assert_eq!(Uid::parse(other), None, "{other}");
        }
    }
}
