//! A parsed page of metrics.

use std::collections::{BTreeMap, BTreeSet};

/// The metrics of a page, by name.
pub(crate) struct Page {
    pub(crate) families: BTreeMap<String, Family>,
}

/// A metric.
#[derive(Default)]
pub(crate) struct Family {
    pub(crate) help: String,
    pub(crate) kind: String,
    /// The values of each label.
    pub(crate) labels: BTreeMap<String, BTreeSet<String>>,
    order: Vec<String>,
}

impl Page {
    pub(crate) fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a help text");
                name.clone_into(&mut current);
                help.clone_into(&mut families.entry(current.clone()).or_default().help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                name.clone_into(&mut current);
                kind.clone_into(&mut families.entry(current.clone()).or_default().kind);
            } else {
                assert!(line.starts_with(&current), "{line} stands below {current}");
                let family = families.get_mut(&current).expect("it has a type");
                let Some((_, rest)) = line.split_once('{') else { continue };
                let (labels, _) = rest.rsplit_once('}').expect("labels end");
                for label in labels.split("\",").filter(|label| !label.is_empty()) {
                    let (name, value) = label.split_once("=\"").expect("a name and a value");
                    let value = value.trim_end_matches('"').to_owned();
                    if family.labels.entry(name.to_owned()).or_default().insert(value.clone()) && name == "le"
                    {
                        family.order.push(value);
                    }
                }
            }
        }
        Self { families }
    }
}

impl Family {
    /// The labels in alphabetical order, without the label of the buckets.
    pub(crate) fn label_names(&self) -> Vec<&str> {
        self.labels.keys().map(String::as_str).filter(|name| *name != "le").collect()
    }

    /// The upper bounds of the buckets.
    pub(crate) fn buckets(&self) -> &[String] {
        &self.order
    }
}
