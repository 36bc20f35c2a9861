//! Tests that need something that not every machine has: they are shown as ignored, with the reason in their name.
//! Under `CI=true` they fail instead, since nobody there looks at what was left out.

use libtest_mimic::{Failed, Trial};

/// Whether a test whose requirement is missing fails.
fn is_demanded() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// A test; `missing` says what it lacks, if anything.
pub(crate) fn trial(
    name: &str,
    missing: Option<&str>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match missing.map(str::to_owned) {
        None => Trial::test(name, test),
        Some(reason) => Trial::test(format!("{name} ({reason})"), move || Err(reason.into()))
            .with_ignored_flag(!is_demanded()),
    }
}
