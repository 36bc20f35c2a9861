//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

/// Whether an object passes the request's selectors, of the forms that kube-ipvs uses: `!label`, `field=value`,
/// `field!=value`.
pub(super) fn matches(object: &Value, parameters: &BTreeMap<String, String>) -> bool {
    let terms = |name: &str| {
        let selector = parameters.get(name).map_or("", String::as_str);
        selector.split(',').filter(|term| !term.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let field = |path: &str| {
        let value = path.split('.').fold(object, |value, name| &value[name]);
        value.as_str().unwrap_or_default().to_owned()
    };
    let label_passes = |term: &String| match term.strip_prefix('!') {
        Some(label) => object["metadata"]["labels"].get(label).is_none(),
        None => panic!("an unexpected label selector: {term}"),
    };
    let field_passes = |term: &String| match (term.split_once("!="), term.split_once('=')) {
        (Some((path, value)), _) => field(path) != value,
        (None, Some((path, value))) => field(path) == value,
        (None, None) => panic!("an unexpected field selector: {term}"),
    };
    terms("labelSelector").iter().all(label_passes) && terms("fieldSelector").iter().all(field_passes)
}
