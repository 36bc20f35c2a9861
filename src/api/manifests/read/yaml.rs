//! YAML, with people in mind: several documents in a file, lines in messages, merge keys (`<<`) as `kubectl`
//! understands them.
//!
//! Each document is first read into a tree: an item of a list says what it is in a field that may come last, and a bad
//! item must not cost the others. The tree also refuses duplicate keys, which decoding into Kubernetes' types would
//! accept silently. Of the differences between YAML 1.1, which `kubectl` reads, and 1.2, one can occur in these
//! objects: `yes` and `no` are text, and refused where true or false is needed.

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_yaml::Value;

use super::path::Step;
use super::{Broken, Item, Kind, Reader, Type, Unclear, Undecodable, path, without_place};

pub(super) fn read(text: &str, reader: &mut Reader<'_>) -> Result<(), Broken> {
    for (number, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let mut document = Value::deserialize(document).map_err(|error| broken(&error))?;
        document.apply_merge().map_err(|error| broken(&error))?;
        if document.is_null() {
            continue; // nothing between two `---`, or only comments
        }
        object(&YamlItem { text, document: number, way: Vec::new(), value: &document }, None, reader);
    }
    Ok(())
}

fn broken(error: &serde_yaml::Error) -> Broken {
    Broken::new(error.location().map(|location| location.line()), without_place(&error.to_string()))
}

/// Reads one object. `default` is the kind of an object that does not state its own.
fn object(item: &YamlItem<'_>, default: Option<Kind>, reader: &mut Reader<'_>) {
    let text_of = |field: &str| item.value.get(field).and_then(Value::as_str);
    let kind = match (text_of("kind"), default) {
        (None, Some(kind)) => Type::Ours(kind),
        (name, _) => Type::of(text_of("apiVersion"), name),
    };
    match kind {
        Type::Ours(kind) => reader.object(kind, item),
        Type::List(default) => {
            let items = match item.value.get("items") {
                None | Some(Value::Null) => &[][..],
                Some(Value::Sequence(items)) => items,
                Some(_) => return reader.unclear(Unclear::no_items(), item),
            };
            reader.list(item, |reader| {
                for (index, value) in items.iter().enumerate() {
                    let mut way = item.way.clone();
                    way.extend([Step::Key("items".to_owned()), Step::Index(index)]);
                    object(&YamlItem { way, value, ..*item }, default, reader);
                }
            });
        }
        Type::Other => {}
        Type::Unclear(unclear) => reader.unclear(unclear, item),
    }
}

struct YamlItem<'a> {
    /// The whole file.
    text: &'a str,
    /// The index of its document, counted from 0.
    document: usize,
    /// The path from the document to the object: for an item of a list, `items[3]`.
    way: Vec<Step>,
    value: &'a Value,
}

impl Item for YamlItem<'_> {
    fn decode<'s, T: Deserialize<'s>>(&'s self) -> Result<T, Undecodable> {
        serde_path_to_error::deserialize(self.value).map_err(|error| Undecodable {
            path: path::of(error.path()),
            message: without_place(&error.inner().to_string()),
        })
    }

    fn line(&self, path: &[Step]) -> Option<usize> {
        let way: Vec<Step> = self.way.iter().chain(path).cloned().collect();
        let document = serde_yaml::Deserializer::from_str(self.text).nth(self.document)?;
        let error = path::FailAt(&way).deserialize(document).err()?;
        error.location().map(|location| location.line())
    }
}
