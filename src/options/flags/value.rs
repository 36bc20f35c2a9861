//! The types of flags, read as pflag and Go's `strconv` read them.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::Flags;
use crate::options::configuration::ModuleVerbosity;
use crate::options::duration::{DurationError, GoDuration};

/// The type of a flag's value, and what it sets.
pub(super) enum Set {
    /// Nothing, or a boolean after `=`.
    Switch(fn(&mut Flags, bool)),
    /// Nothing, or one of these words after `=`; for any other word, the setter returns what is allowed.
    Choice(&'static str, fn(&mut Flags, &str) -> Result<(), &'static str>),
    /// Any text.
    Text(fn(&mut Flags, String)),
    /// A path, which need not be UTF-8.
    Path(fn(&mut Flags, PathBuf)),
    /// A path; given again, the flag adds one.
    AddPath(fn(&mut Flags, PathBuf)),
    /// A signed whole number of 32 bits.
    Integer(fn(&mut Flags, i64)),
    /// A log level: a signed whole number of 32 bits, in decimal digits only.
    Level(fn(&mut Flags, i64)),
    /// A number.
    Float(fn(&mut Flags, f32)),
    /// A duration with its unit.
    Duration(fn(&mut Flags, GoDuration)),
    /// A list, as a line of CSV; given again, the flag adds to it.
    List(fn(&mut Flags, Vec<String>)),
    /// `name=true` pairs, separated by commas; given again, the flag adds to them.
    Gates(fn(&mut Flags, Vec<(String, bool)>)),
    /// `pattern=level` pairs, separated by commas; given again, the flag adds to them.
    Modules(fn(&mut Flags, Vec<ModuleVerbosity>)),
}

impl Set {
    /// The words that may follow a `=`, for a flag that can stand alone and never takes the next word as its value.
    pub(super) fn choice(&self) -> Option<&'static str> {
        match self {
            Self::Switch(_) => Some("true|false"),
            Self::Choice(words, _) => Some(words),
            _ => None,
        }
    }

    /// Whether giving the flag again adds to what was given before.
    pub(super) fn adds(&self) -> bool {
        matches!(self, Self::AddPath(_) | Self::List(_) | Self::Gates(_) | Self::Modules(_))
    }

    /// Reads a value and sets it; returns it as pflag would print it.
    pub(super) fn apply(&self, flags: &mut Flags, value: &OsStr) -> Result<String, String> {
        Ok(match self {
            Self::Switch(set) => {
                let on = truth(text(value)?)?;
                set(flags, on);
                on.to_string()
            }
            Self::Choice(_, set) => {
                let word = text(value)?;
                set(flags, word)?;
                word.to_owned()
            }
            Self::Text(set) => {
                let text = text(value)?;
                set(flags, text.to_owned());
                text.to_owned()
            }
            Self::AddPath(_) if value.is_empty() => {
                return Err("must be the path of a file or a folder".to_owned());
            }
            Self::Path(set) | Self::AddPath(set) => {
                set(flags, PathBuf::from(value));
                value.to_string_lossy().into_owned()
            }
            Self::Integer(set) => {
                let number = integer(text(value)?)?;
                set(flags, number);
                number.to_string()
            }
            Self::Level(set) => {
                let number = level(text(value)?)?;
                set(flags, number);
                number.to_string()
            }
            Self::Float(set) => {
                let number = float(text(value)?)?;
                set(flags, number);
                number.to_string()
            }
            Self::Duration(set) => {
                let time = text(value)?.parse().map_err(|error: DurationError| error.to_string())?;
                set(flags, time);
                time.to_string()
            }
            Self::List(set) => {
                let text = text(value)?;
                set(flags, fields(text)?);
                text.to_owned()
            }
            Self::Gates(set) => {
                let text = text(value)?;
                set(flags, pairs(text).map(named_switch).collect::<Result<_, _>>()?);
                text.to_owned()
            }
            Self::Modules(set) => {
                let text = text(value)?;
                set(flags, pairs(text).map(module_verbosity).collect::<Result<_, _>>()?);
                text.to_owned()
            }
        })
    }
}

fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "must be UTF-8".to_owned())
}

/// The parts of a list that is not CSV. Empty parts are ignored.
fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|pair| !pair.is_empty())
}

/// The fields of the first non-empty line, read as Go's `encoding/csv` reads it: pflag ignores all other lines.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let lines = text.replace("\r\n", "\n");
    let mut rest = lines.trim_start_matches('\n').chars().peekable();
    let mut fields = Vec::from_iter(rest.peek().map(|_| String::new()));
    let (mut quoted, mut complete) = (false, false);
    while let (Some(character), Some(field)) = (rest.next(), fields.last_mut()) {
        match character {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => (quoted, complete) = (false, true),
            character if quoted => field.push(character),
            '\n' => break,
            ',' => {
                fields.push(String::new());
                complete = false;
            }
            '"' if field.is_empty() && !complete => quoted = true,
            _ if complete || character == '"' => {
                return Err("quotes must stand around whole items of the list");
            }
            _ => field.push(character),
        }
    }
    if quoted { Err("must end with a quote where an item begins with one") } else { Ok(fields) }
}

/// Go's `strconv.ParseBool`.
pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn named_switch(text: &str) -> Result<(String, bool), String> {
    let allowed = "must be a list of names with a truth value each, such as A=true,B=false";
    let (name, value) = text.split_once('=').ok_or(allowed)?;
    let name = name.trim();
    let value = truth(value.trim()).map_err(|_| allowed)?;
    if name.is_empty() { Err(allowed.to_owned()) } else { Ok((name.to_owned(), value)) }
}

fn module_verbosity(text: &str) -> Result<ModuleVerbosity, String> {
    let allowed = "must be a list of patterns with a level each, such as watch=4,core*=2";
    let (pattern, number) = text.split_once('=').filter(|(pattern, _)| !pattern.is_empty()).ok_or(allowed)?;
    let verbosity = level(number).ok().filter(|level| *level >= 0).ok_or(allowed)?;
    Ok(ModuleVerbosity { file_pattern: pattern.to_owned(), verbosity })
}

/// Go's `strconv.ParseInt` with base 0, for 32 bits: `14`, `0x0e`, `0o16`, `016`, `0b1110`; one `_` may stand between
/// digits, and after the prefix that gives the base.
fn integer(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let misplaced = digits.ends_with('_') || digits.contains("__") || radix == 10 && digits.starts_with('_');
    let digits = digits.replace('_', "");
    if misplaced || digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("must be a whole number".to_owned());
    }
    in_32_bits(&format!("{sign}{digits}"), radix)
}

/// Go's `strconv.ParseUint` with base 10, which reads log levels: `010` is ten. A sign is accepted here, so that
/// [`crate::options::merge`] can refuse it with a better message.
fn level(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("must be a whole number".to_owned());
    }
    in_32_bits(text, 10)
}

fn in_32_bits(number: &str, radix: u32) -> Result<i64, String> {
    let number = i32::from_str_radix(number, radix);
    number.map(i64::from).map_err(|_| format!("must be within {} and {}", i32::MIN, i32::MAX))
}

fn float(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|number: &f32| number.is_finite()).ok_or_else(|| "must be a number".to_owned())
}

#[cfg(test)]
mod tests;
