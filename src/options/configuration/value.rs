//! The values of the configuration file: their types are as strict as kube-proxy's, and errors say what to write.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::options::duration::GoDuration;

/// Any value. Of a key that occurs twice in a mapping, the last one counts; merged mappings (`<<`) are resolved.
#[derive(Debug)]
pub(in crate::options) struct Loose(pub(in crate::options) Value);

/// The key that merges other mappings into this one.
pub(in crate::options) const MERGE: &str = "<<";

/// `logging.flushFrequency`: a duration as a text, or an integer number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushFrequency(pub GoDuration);

/// `infoBufferSize`: a quantity of bytes (`"0"`, `"512Ki"`), kept as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantity(pub String);

/// A type that is made from any value, or says why it cannot be. A missing value is `Default`.
///
/// The conversion happens inside the visitor (rather than with `#[serde(try_from)]`), since only there the YAML library
/// adds the field and the line to an error.
pub(in crate::options) trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

/// A string. Numbers and booleans must be quoted to be one.
impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::new()),
            Value::String(text) => Ok(text),
            Value::Bool(_) | Value::Number(_) => {
                Err(format!("must be a string, found {}: write it in quotes", describe(&value)))
            }
            other => Err(format!("must be a string, found {}", describe(&other))),
        }
    }
}

/// `true` or `false`; YAML 1.1 has more words for them, which Go's library accepts.
impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::Null => Ok(false),
            Value::Bool(value) => Ok(*value),
            Value::String(text) => match text.as_str() {
                "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(true),
                "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "" => Ok(false),
                _ => Err(format!("must be true or false, found {}", describe(&value))),
            },
            other => Err(format!("must be true or false, found {}", describe(other))),
        }
    }
}

/// A whole number: every number field has 32 bits and a sign. `14.0` and `1e2` are whole, too.
impl FromValue for i64 {
    fn from_value(value: Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(0);
        }
        let whole = |number: f64| number.to_string().parse().ok();
        let number = value.as_i64().or_else(|| value.as_f64().and_then(whole));
        let number = number.ok_or_else(|| format!("must be a whole number, found {}", describe(&value)))?;
        if i32::try_from(number).is_err() {
            return Err(format!("Invalid value: {number}: must be within {} and {}", i32::MIN, i32::MAX));
        }
        Ok(number)
    }
}

impl FromValue for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than seven digits")]
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::Null => Ok(0.0),
            Value::Number(number) => number
                .as_f64()
                .map(|number| number as Self)
                .filter(|number| number.is_finite())
                .ok_or_else(|| format!("must be a number, found {}", describe(&value))),
            other => Err(format!("must be a number, found {}", describe(other))),
        }
    }
}

/// A duration in Go's grammar; 0 needs no unit, and an empty string is 0.
impl FromValue for GoDuration {
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::Null => Ok(Self::ZERO),
            Value::String(text) if text.is_empty() => Ok(Self::ZERO),
            Value::String(text) => {
                text.parse().map_err(|problem| format!("Invalid value: {text:?}: {problem}"))
            }
            Value::Number(number) if number.as_i64() == Some(0) => Ok(Self::ZERO),
            Value::Number(number) => {
                Err(format!("Invalid value: {number}: a duration needs a unit: write for example {number}s"))
            }
            other => Err(format!("must be a duration such as 30s, found {}", describe(other))),
        }
    }
}

impl FromValue for FlushFrequency {
    fn from_value(value: Value) -> Result<Self, String> {
        match value.as_i64() {
            Some(nanoseconds) => Ok(Self(GoDuration::from_nanoseconds(nanoseconds))),
            None => GoDuration::from_value(value).map(Self),
        }
    }
}

impl FromValue for Quantity {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Number(number) => Ok(Self(number.to_string())),
            other => String::from_value(other).map(Self),
        }
    }
}

/// A field that can be absent, as opposed to zero; a list may be `null`, too.
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Sequence(items) = value else {
            return Err(format!("must be a list, found {}", describe(&value)));
        };
        let item = |(index, item)| {
            String::from_value(item).map_err(|problem| format!("item {}: {problem}", index + 1))
        };
        items.into_iter().enumerate().map(item).collect()
    }
}

/// Names, each with a boolean.
impl FromValue for BTreeMap<String, bool> {
    fn from_value(value: Value) -> Result<Self, String> {
        let entries = match value {
            Value::Null => return Ok(Self::new()),
            Value::Mapping(entries) => entries,
            other => return Err(format!("must be a mapping, found {}", describe(&other))),
        };
        let entry = |(name, value)| {
            let name = String::from_value(name)?;
            let value = bool::from_value(value).map_err(|problem| format!("{name}: {problem}"))?;
            Ok((name, value))
        };
        entries.into_iter().map(entry).collect()
    }
}

impl FromValue for Loose {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(Self(value))
    }
}

/// Reads a value; for `#[serde(deserialize_with = "read")]`.
pub(in crate::options) fn read<'de, D: Deserializer<'de>, T: FromValue>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(AnyValue(PhantomData))
}

/// Reads a section, which may be `null`; for `#[serde(deserialize_with = "section")]`.
pub(in crate::options) fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for FlushFrequency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "0" } else { &self.0 })
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) => format!("{text:?}"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(tagged) => format!("a value of type {}", tagged.tag),
    }
}

/// Takes any value and gives it to [`FromValue`] as [`Loose`] describes it (the library's own `Value` refuses duplicate
/// keys).
struct AnyValue<T>(PhantomData<T>);

impl<T: FromValue> AnyValue<T> {
    fn convert<E: Error>(value: impl Into<Value>) -> Result<T, E> {
        T::from_value(value.into()).map_err(E::custom)
    }
}

impl<'de, T: FromValue> Visitor<'de> for AnyValue<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Self::convert(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        Self::convert(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        Self::convert(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        Self::convert(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        Self::convert(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        Self::convert(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
        let mut list = Vec::new();
        while let Some(Loose(item)) = items.next_element()? {
            list.push(item);
        }
        Self::convert(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<T, A::Error> {
        let mut map = serde_yaml::Mapping::new();
        while let Some((Loose(key), Loose(value))) = entries.next_entry()? {
            if key == MERGE {
                merge(&mut map, value).map_err(A::Error::custom)?;
            } else {
                map.insert(key, value);
            }
        }
        Self::convert(Value::Mapping(map))
    }
}

/// Adds the entries of a merged mapping, as Go's library does: of equal keys the last one wins, wherever it came from.
/// (By the YAML specification, a mapping's own keys win. They come after the merge in every file that anybody writes.)
fn merge(map: &mut serde_yaml::Mapping, value: Value) -> Result<(), String> {
    let merged = match value {
        Value::Sequence(items) => items,
        other => vec![other],
    };
    // Of a list of mappings, the first one wins.
    for value in merged.into_iter().rev() {
        let Value::Mapping(entries) = value else {
            return Err(format!(
                "{MERGE} merges a mapping or a list of mappings, found {}",
                describe(&value)
            ));
        };
        map.extend(entries);
    }
    Ok(())
}
