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
