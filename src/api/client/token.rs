//! A token in a file.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::header::HeaderValue;

/// A file with a token that someone else renews.
///
/// It is read for every request: there are few (three or four watches, opened every five to ten minutes), and the file
/// is small and in memory.
pub(super) struct TokenFile {
    path: PathBuf,
    /// The token that was read last: used if the file is gone for a moment, or for good (some remove it after the
    /// start).
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// If the file cannot be read, or has no token: what is wrong, without the path.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { path: path.into(), last: Mutex::new(Self::read(path)?) })
    }

    fn read(path: &Path) -> Result<HeaderValue, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let token = text.trim();
        if token.is_empty() {
            return Err("the file is empty, a token is needed".into());
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| "the token has characters that are not allowed in an HTTP header".to_owned())?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = Self::read(&self.path) {
            *last = now;
        }
        last.clone()
    }
}
