//! Answers without objects of the three kinds: bookmarks and refusals.

use serde_json::{Value, json};

use super::{Kind, Wants};

pub(super) fn bookmark(kind: Kind, version: u64) -> Value {
    let name = match kind {
        Kind::Services => "Service",
        Kind::Slices => "EndpointSlice",
        Kind::Nodes => "Node",
    };
    json!({"kind": name, "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}})
}

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(super) fn denial(code: u16, kind: Kind, wants: Wants) -> Value {
    if code == 401 {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    let verb = if wants == Wants::List { "list" } else { "watch" };
    let resource = kind.resource();
    let message = format!("{resource} is forbidden: User \"nobody\" cannot {verb} resource \"{resource}\"");
    failure(code, "Forbidden", &message)
}

pub(super) fn too_large(wanted: u64, known: u64) -> Value {
    let message = format!("Too large resource version: {wanted}, current: {known}");
    let mut status = failure(504, "Timeout", &message);
    status["details"] = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    });
    status
}
