//! The version of the running kernel.

/// Major and minor version of the running kernel; (0, 0) if its release has an unknown form.
pub fn running() -> (u32, u32) {
    parse(&rustix::system::uname().release().to_string_lossy()).unwrap_or((0, 0))
}

/// `6.18.44-fc-v669` → (6, 18).
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn releases() {
        for (release, version) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.10.0-rc1+", Some((5, 10))),
            ("4.19", Some((4, 19))),
            ("6.1-rc3", Some((6, 1))),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(parse(release), version, "{release}");
        }
    }
}
