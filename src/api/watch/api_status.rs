//! What a server says about an error: meta/v1 `Status`.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde::Deserialize;

use super::failure::Refusal;
use crate::api::objects::protobuf::messages;

/// The part of `Status` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Explanation {
    message: String,
    reason: String,
    details: Option<Details>,
    code: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    causes: Vec<Cause>,
    retry_after_seconds: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

messages! {
    Explanation { 3: message, 4: reason, 5: details, 6: code }
    Details { 4: causes, 5: retry_after_seconds }
    Cause { 1: reason }
}

impl From<Explanation> for Refusal {
    fn from(Explanation { message, reason, details, code }: Explanation) -> Self {
        let Details { causes, retry_after_seconds } = details.unwrap_or_default();
        let wait = u64::try_from(retry_after_seconds).ok().filter(|seconds| *seconds > 0);
        Self {
            code: u16::try_from(code).unwrap_or_default(),
            version_too_large: causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
                || message.contains("Too large resource version"),
            reason,
            message,
            retry_after: wait.map(Duration::from_secs),
        }
    }
}

/// A refusal, from all that the server said. The status object takes precedence, except for how long to wait: there the
/// header does.
pub(super) fn refusal(
    code: u16,
    headers: &HeaderMap,
    explanation: Option<Explanation>,
    text: &str,
) -> Refusal {
    let plain = || {
        // Servers under pressure, and proxies in front of them, answer in plain text.
        let message = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Refusal { message: message.chars().take(200).collect(), ..Refusal::default() }
    };
    let mut refusal = explanation.map_or_else(plain, Refusal::from);
    if refusal.code == 0 {
        refusal.code = code;
    }
    let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    refusal.retry_after = header.map(Duration::from_secs).or(refusal.retry_after);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, retry_after: Option<&'static str>, status: &str) -> Refusal {
        let mut headers = HeaderMap::new();
        headers.extend(retry_after.map(|text| (RETRY_AFTER, text.parse().expect("a value"))));
        refusal(code, &headers, serde_json::from_str(status).ok(), status)
    }

    #[test]
    fn the_header_says_how_long_to_wait_and_else_the_status_does() {
        let status = r#"{"code": 429, "details": {"retryAfterSeconds": 7}}"#;
        let seconds = |header, status| refused(429, header, status).retry_after.map(|wait| wait.as_secs());
        assert_eq!(seconds(None, status), Some(7));
        assert_eq!(seconds(Some("9"), status), Some(9));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), status), Some(7));
        assert_eq!(seconds(Some("9"), "{}"), Some(9));
        assert_eq!(seconds(None, "{}"), None);
    }

    #[test]
    fn the_code_of_the_status_takes_precedence() {
        assert_eq!(refused(500, None, r#"{"code": 410}"#).code, 410);
        assert_eq!(refused(500, None, "{}").code, 500);
    }

    /// Servers of Kubernetes 1.17 and 1.18 have only the text.
    #[test]
    fn a_version_that_the_server_does_not_have_yet() {
        let cause = r#"{"code": 504, "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}"#;
        assert!(refused(504, None, cause).version_too_large);
        let text = r#"{"code": 504, "message": "Too large resource version: 7, current: 5"}"#;
        assert!(refused(504, None, text).version_too_large);
        assert!(!refused(504, None, r#"{"code": 504, "message": "Timeout"}"#).version_too_large);
    }

    #[test]
    fn of_plain_text_the_first_line_is_the_message() {
        let refusal = refused(502, None, "\n  Bad gateway \n<hr>");
        assert_eq!((refusal.code, &*refusal.message), (502, "Bad gateway"));
        assert_eq!(refused(502, None, &"ä".repeat(1000)).message, "ä".repeat(200));
    }
}
