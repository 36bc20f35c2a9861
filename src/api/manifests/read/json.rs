//! JSON, with large lists in mind: the text is walked to find the items, and each item is decoded straight into
//! Kubernetes' types. There is never a tree of the whole file, and a bad item does not cost the others.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Broken, Item, Kind, Reader, Type, Unclear, Undecodable, line_at, path, without_place};

/// Reads one object or list, or several in a row, as `kubectl` accepts them.
pub(super) fn read(text: &str, reader: &mut Reader<'_>) -> Result<(), Broken> {
    // Nearly every large file is one list, whose items are found in a single walk.
    if let Ok(List { api_version, kind, items: Some(items) }) = serde_json::from_str(text)
        && let Type::List(default) = Type::of(text_of(api_version).as_deref(), text_of(kind).as_deref())
    {
        for item in items {
            object(text, item.get(), default, reader);
        }
        return Ok(());
    }
    for document in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let document =
            document.map_err(|error| Broken::new(Some(error.line()), without_place(&error.to_string())))?;
        object(text, document.get(), None, reader);
    }
    Ok(())
}

/// What must be known about an object before it can be decoded. Each part may come after the others:
/// `kubectl get -o json` writes the kind of a list after its items.
#[derive(Default)]
struct Head<'a> {
    api_version: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    items: Option<&'a RawValue>,
}

impl<'a> Head<'a> {
    /// The head of this object; empty if it is not an object.
    fn of(raw: &'a str) -> Self {
        let mut head = Self::default();
        // This also fails as soon as all that is needed has been found. The text is valid JSON, so no other failure is
        // hidden.
        let _ = Fill(&mut head).deserialize(&mut serde_json::Deserializer::from_str(raw));
        head
    }

    /// Whether the rest of the object need not be looked at: nearly always, since the kind comes first.
    fn is_enough(&self) -> bool {
        self.api_version.is_some() && self.kind.is_some_and(|kind| !kind.get().ends_with("List\""))
    }
}

struct Fill<'h, 'a>(&'h mut Head<'a>);

impl<'a> DeserializeSeed<'a> for Fill<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Fill<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'a, str>>()? {
            match &*name {
                "apiVersion" => self.0.api_version = Some(map.next_value()?),
                "kind" => self.0.kind = Some(map.next_value()?),
                "items" => self.0.items = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            if self.0.is_enough() {
                return Err(A::Error::custom("the rest is not needed"));
            }
        }
        Ok(())
    }
}

/// The head of a list, with its items.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(rename = "apiVersion", borrow)]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

fn text_of(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    serde_json::from_str(value?.get()).ok()
}

/// Reads one object. `default` is the kind of an object that does not state its own.
fn object(text: &str, raw: &str, default: Option<Kind>, reader: &mut Reader<'_>) {
    let head = Head::of(raw);
    let item = JsonItem { text, raw };
    let kind = match (text_of(head.kind), default) {
        (None, Some(kind)) => Type::Ours(kind),
        (name, _) => Type::of(text_of(head.api_version).as_deref(), name.as_deref()),
    };
    match kind {
        Type::Ours(kind) => reader.object(kind, &item),
        Type::List(default) => {
            let items = head.items.map_or("null", RawValue::get);
            match serde_json::from_str::<Option<Vec<&RawValue>>>(items) {
                Ok(items) => reader.list(&item, |reader| {
                    for item in items.unwrap_or_default() {
                        object(text, item.get(), default, reader);
                    }
                }),
                Err(_) => reader.unclear(Unclear::no_items(), &item),
            }
        }
        Type::Other => {}
        Type::Unclear(unclear) => reader.unclear(unclear, &item),
    }
}

struct JsonItem<'a> {
    /// The whole file.
    text: &'a str,
    /// The part of it that is the object.
    raw: &'a str,
}

impl Item for JsonItem<'_> {
    fn decode<'s, T: Deserialize<'s>>(&'s self) -> Result<T, Undecodable> {
        serde_json::from_str(self.raw).map_err(|_| {
            // Once more, recording the path, which would slow everything down if it were always recorded.
            let mut deserializer = serde_json::Deserializer::from_str(self.raw);
            match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
                Err(error) => Undecodable {
                    path: path::of(error.path()),
                    message: without_place(&error.inner().to_string()),
                },
                Ok(_) => {
                    Undecodable { path: Vec::new(), message: "found something behind the object".to_owned() }
                }
            }
        })
    }

    fn line(&self, path: &[path::Step]) -> Option<usize> {
        let offset = self.raw.as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let first = line_at(self.text.as_bytes(), offset);
        let mut deserializer = serde_json::Deserializer::from_str(self.raw);
        let found = path::FailAt(path).deserialize(&mut deserializer).err().map_or(1, |error| error.line());
        Some(first + found.max(1) - 1)
    }
}
