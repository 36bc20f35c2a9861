use crate::session::Test;
pub const TESTS: &[(&str, Test)] = &[];
pub fn missing() -> Option<String> {
    None
}
