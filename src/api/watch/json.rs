//! Answers in JSON: each event of a watch is a line.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::encoding::{Encoded, Page, WatchEvent, malformed};
use super::failure::Failure;
use super::version::Version;

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    continues: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Reads a list.
pub(super) fn page(text: &[u8]) -> Result<Page<'_>, Failure> {
    let list: List<'_> = serde_json::from_slice(text).map_err(|error| malformed("a list", &error))?;
    Ok(Page {
        version: list.metadata.resource_version.as_deref().and_then(Version::new),
        continues: list.metadata.continues,
        items: list.items.unwrap_or_default().into_iter().map(|item| Encoded::Json(item.get())).collect(),
    })
}

/// Reads a line of a watch.
pub(super) fn event(line: &[u8]) -> Result<WatchEvent<'_>, Failure> {
    if let Some(object) = usual(line) {
        return Ok(WatchEvent::Put(Encoded::Json(object)));
    }
    let Line { kind, object } =
        serde_json::from_slice(line).map_err(|error| malformed("a watch event", &error))?;
    WatchEvent::of(kind, Encoded::Json(object.get()))
}

/// The object of an event in the form that API servers write, found without walking through the object. That is done
/// when it is decoded, and a list of a large cluster is a hundred million bytes.
fn usual(line: &[u8]) -> Option<&str> {
    let forms: [&[u8]; 2] = [br#"{"type":"ADDED","object":"#, br#"{"type":"MODIFIED","object":"#];
    let object = forms.into_iter().find_map(|form| line.strip_prefix(form))?;
    std::str::from_utf8(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_items_is_empty() {
        for items in [r#", "items": []"#, r#", "items": null"#, ""] {
            let text = format!(r#"{{"metadata": {{"resourceVersion": "7"}}{items}}}"#);
            let page = page(text.as_bytes()).expect("a list");
            assert_eq!((page.version, page.items.len()), (Version::new("7"), 0), "{text}");
        }
    }
}
