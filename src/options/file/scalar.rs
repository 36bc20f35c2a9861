//! The values of the configuration file: as strict about types as kube-proxy, with messages that say what to write.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use crate::options::duration::GoDuration;

/// A text. Numbers and truth values need quotes to be one.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

/// `true` or `false`; YAML 1.1 has more words for them, and Go's library reads them.
#[derive(Debug)]
pub(super) struct Switch(pub(super) bool);

/// A whole number.
#[derive(Debug)]
pub(super) struct Number(pub(super) i64);

/// A duration in Go's grammar; 0 needs no unit, and the empty text is 0.
#[derive(Debug)]
pub(super) struct Time(pub(super) GoDuration);

/// Any value; where a mapping in it says a key twice, the last one wins.
#[derive(Debug)]
pub(super) struct Loose(pub(super) Value);

impl FromValue for Text {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self(text)),
            Value::Bool(_) | Value::Number(_) => {
                Err(format!("must be a string, found {}: write it in quotes", describe(&value)))
            }
            other => Err(format!("must be a string, found {}", describe(&other))),
        }
    }
}

impl FromValue for Switch {
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::Bool(value) => Ok(Self(*value)),
            Value::String(text) => match text.as_str() {
                "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(Self(true)),
                "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "" => Ok(Self(false)),
                _ => Err(format!("must be true or false, found {}", describe(&value))),
            },
            other => Err(format!("must be true or false, found {}", describe(other))),
        }
    }
}

impl FromValue for Number {
    fn from_value(value: Value) -> Result<Self, String> {
        let number = value.as_i64().map(Self);
        number.ok_or_else(|| format!("must be a whole number, found {}", describe(&value)))
    }
}

impl FromValue for Time {
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
            Value::String(text) if text.is_empty() => Ok(Self(GoDuration::ZERO)),
            Value::String(text) => match text.parse() {
                Ok(duration) => Ok(Self(duration)),
                Err(problem) => Err(format!("Invalid value: {text:?}: {problem}")),
            },
            Value::Number(number) if number.as_i64() == Some(0) => Ok(Self(GoDuration::ZERO)),
            Value::Number(number) => {
                Err(format!("Invalid value: {number}: a duration needs a unit: write for example {number}s"))
            }
            other => Err(format!("must be a duration such as 30s, found {}", describe(other))),
        }
    }
}

impl FromValue for Loose {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(Self(value))
    }
}

impl Loose {
    /// Whether it says as much as its absence: kubeadm writes such values for every field.
    pub(super) fn is_nothing(&self) -> bool {
        match &self.0 {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty() || text.parse() == Ok(GoDuration::ZERO),
            Value::Sequence(list) => list.is_empty(),
            // `options: {text: {infoBufferSize: "0"}}`
            Value::Mapping(map) => map.values().all(|value| Self(value.clone()).is_nothing()),
            Value::Bool(true) | Value::Tagged(_) => false,
        }
    }

    /// It, if it is a text.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_str()
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

/// A type that is made from any value, or says why not.
///
/// The conversion takes place inside the visitor (rather than with `#[serde(try_from)]`), since only there the YAML
/// library adds the field and the line to an error.
trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

macro_rules! deserialize_from_value {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(AnyValue(PhantomData))
            }
        }
    )*};
}

deserialize_from_value!(Text, Switch, Number, Time, Loose);

/// Takes any value; where a mapping says a key twice, the last one wins (the library's own `Value` refuses that).
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
            map.insert(key, value);
        }
        Self::convert(Value::Mapping(map))
    }
}
