//! The text of one file → the objects in it, and what is wrong with those that cannot be used.
//!
//! Two kinds of errors are kept apart because they call for different answers: a text that is not YAML or JSON is
//! [`Broken`] as a whole, since nobody knows what is missing from it; an object that cannot be used is named, and the
//! others of its file apply.

use std::fmt;

use serde::Deserialize;

use super::object::{Object, ObjectKey};
use crate::api::convert::{Converted, Converter, Problem};
use crate::api::objects::{self, ObjectMeta};
use crate::cluster::types::{ServiceKey, SliceKey};

mod json;
mod path;
#[cfg(test)]
mod tests;
mod yaml;

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// The objects that are used, in the file's order, each once.
    pub(super) objects: Vec<Found>,
    /// Objects that are there but cannot be used: their older content stays in force.
    pub(super) unusable: Vec<ObjectKey>,
    /// How many objects cannot be used and do not even say their names: any older object of the file may be one of
    /// them.
    pub(super) nameless: usize,
    /// What to tell the user.
    pub(super) remarks: Vec<Remark>,
}

/// An object of a file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) object: Object,
    /// Whether parts of it were left out, so that a flawless older version is better. Only for slices: what is left out
    /// of a Service has to be closed, and nothing else of a change may wait for that.
    pub(super) flawed: bool,
}

/// One line for the user about something in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// The line in the file, counted from 1, if it is known.
    pub(super) line: Option<usize>,
    /// The line for the user, without the name of the file.
    pub(super) text: String,
    /// The object that it is about, if it is known.
    pub(super) key: Option<ObjectKey>,
}

/// Why a file cannot be read at all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) Remark);

impl Broken {
    pub(super) fn new(line: Option<usize>, text: impl Into<String>) -> Self {
        Self(Remark { line, text: text.into(), key: None })
    }
}

/// Reads the content of a file. If `json` is set, it must be JSON. Otherwise, text that begins like JSON is tried as
/// JSON first, because that is many times faster, and then, like any other text, as YAML.
pub(super) fn read(
    bytes: &[u8],
    json: bool,
    converter: &mut Converter,
    own_node: &str,
) -> Result<Content, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_at(bytes, error.valid_up_to());
        Broken::new(Some(line), "found bytes that are no UTF-8, allowed YAML or JSON in UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        converter: &mut *converter,
        own_node,
        content: Content::default(),
        lines_left: Reader::MOST_LOCATED,
        depth: 0,
    };
    if json || text.trim_start().starts_with('{') {
        match json::read(text, &mut reader) {
            Ok(()) => return Ok(reader.finish()),
            Err(broken) if json => return Err(broken),
            Err(_) => reader.content = Content::default(), // YAML in flow style begins like this too
        }
    }
    reader.lines_left = (Reader::MOST_WALKED_BYTES / text.len().max(1)).clamp(1, Reader::MOST_LOCATED);
    yaml::read(text, &mut reader)?;
    Ok(reader.finish())
}

/// The line, counted from 1, of a place in a text.
fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text[..offset.min(text.len())].split(|byte| *byte == b'\n').skip(1).count()
}

/// Which of our kinds an object is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Slice,
    Node,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Service, Self::Slice, Self::Node];

    fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Node => "Node",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Node => "v1",
            Self::Slice => "discovery.k8s.io/v1",
        }
    }

    fn key(self, namespace: Option<&str>, name: &str) -> ObjectKey {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        match self {
            Self::Service => ObjectKey::Service(ServiceKey::new(namespace, name)),
            Self::Slice => ObjectKey::Slice(SliceKey::new(namespace, name)),
            Self::Node => ObjectKey::Node(name.into()),
        }
    }
}

/// What `apiVersion` and `kind` say about an object.
enum Type {
    Ours(Kind),
    /// A list, with the kind of those of its items that do not state their own.
    List(Option<Kind>),
    Other,
    /// No kind, or one of our kinds in a version that we do not know.
    Unclear(Unclear),
}

/// Why it is unclear what an object is.
struct Unclear {
    field: &'static str,
    text: String,
}

impl Type {
    fn of(api_version: Option<&str>, kind: Option<&str>) -> Self {
        let Some(name) = kind else {
            let text = "kind: found nothing, allowed a Kubernetes object with apiVersion and kind".to_owned();
            return Self::Unclear(Unclear { field: "kind", text });
        };
        let given = api_version.unwrap_or_default();
        if name == "List" && given == "v1" {
            return Self::List(None);
        }
        let single = name.strip_suffix("List");
        for ours in Kind::ALL {
            if ours.name() != name && Some(ours.name()) != single {
                continue;
            }
            if given == ours.api_version() {
                return if single.is_some() { Self::List(Some(ours)) } else { Self::Ours(ours) };
            }
            // Our group in another version, as opposed to somebody else's Service.
            if given.is_empty() || group(given) == group(ours.api_version()) {
                let found = if given.is_empty() { "nothing".to_owned() } else { format!("{given:?}") };
                let text = format!("{name}: apiVersion: found {found}, allowed {}", ours.api_version());
                return Self::Unclear(Unclear { field: "apiVersion", text });
            }
        }
        Self::Other
    }
}

/// The group of an API version, empty for the core.
fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

impl Unclear {
    fn too_deep() -> Self {
        let allowed = Reader::DEEPEST;
        Self { field: "items", text: format!("items: found lists in lists, allowed {allowed} of them") }
    }

    fn no_items() -> Self {
        Self { field: "items", text: "items: found something else, allowed an array of objects".to_owned() }
    }
}

/// Why an object cannot be decoded.
struct Undecodable {
    path: Vec<path::Step>,
    message: String,
}

/// One object in a text, before it is known whether it is valid.
trait Item {
    /// Decodes the object into a Kubernetes type.
    fn decode<'s, T: Deserialize<'s>>(&'s self) -> Result<T, Undecodable>;
    /// The line of a field of the object, or of whatever comes nearest to it.
    fn line(&self, path: &[path::Step]) -> Option<usize>;
}

/// The metadata that identifies an object if nothing else of it can be read.
#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    namespace: Option<String>,
    name: String,
}

/// Collects the objects of one file.
struct Reader<'c> {
    converter: &'c mut Converter,
    own_node: &'c str,
    content: Content,
    /// How many more lines may be looked up.
    lines_left: usize,
    /// How many lists deep the reader is.
    depth: usize,
}

impl Reader<'_> {
    /// Lists may hold lists; nesting them deeper than this is nonsense, and would end up overflowing our stack.
    const DEEPEST: usize = 16;
    /// How many lines are looked up: each costs a walk through the file, which is too much for thousands of bad
    /// objects.
    const MOST_LOCATED: usize = 50;
    /// How many bytes of YAML are walked through for that: of a large file, few lines are looked up.
    const MOST_WALKED_BYTES: usize = 4 << 20;

    fn object(&mut self, kind: Kind, item: &impl Item) {
        match kind {
            Kind::Service => match item.decode::<objects::Service<'_>>() {
                Ok(object) => {
                    let converted = self.converter.service(&object);
                    self.converted(kind, &object.metadata, converted, Object::Service, item);
                }
                Err(error) => self.undecodable(kind, &error, item),
            },
            Kind::Slice => match item.decode::<objects::EndpointSlice<'_>>() {
                Ok(object) => {
                    let converted = self.converter.slice(&object);
                    self.converted(kind, &object.metadata, converted, Object::Slice, item);
                }
                Err(error) => self.undecodable(kind, &error, item),
            },
            Kind::Node => match item.decode::<objects::Node<'_>>() {
                Ok(object) if object.metadata.name.as_deref().is_some_and(|name| name != self.own_node) => {}
                Ok(object) => {
                    let converted = self.converter.node(&object);
                    self.converted(kind, &object.metadata, converted, Object::Node, item);
                }
                Err(error) => self.undecodable(kind, &error, item),
            },
        }
    }

    fn converted<T>(
        &mut self,
        kind: Kind,
        metadata: &ObjectMeta<'_>,
        converted: Converted<T>,
        wrap: impl FnOnce(T) -> Object,
        item: &impl Item,
    ) {
        match converted {
            Converted::Kept { object, problems } => {
                let object = wrap(object);
                let key = object.key();
                let flawed = kind == Kind::Slice && !problems.is_empty();
                self.content.objects.push(Found { object, flawed });
                for problem in problems {
                    self.problem(&problem, Some(&key), item);
                }
            }
            Converted::Ignored => {}
            Converted::Refused(problem) => {
                let name = metadata.name.as_deref().filter(|name| !name.is_empty());
                let key = name.map(|name| kind.key(metadata.namespace.as_deref(), name));
                self.problem(&problem, key.as_ref(), item);
                self.unusable(key);
            }
        }
    }

    fn problem(&mut self, problem: &Problem, key: Option<&ObjectKey>, item: &impl Item) {
        self.remark(problem.to_string(), key.cloned(), item, &path::parse(&problem.field));
    }

    fn undecodable(&mut self, kind: Kind, error: &Undecodable, item: &impl Item) {
        let key = item
            .decode::<Named>()
            .ok()
            .filter(|named| !named.metadata.name.is_empty())
            .map(|named| kind.key(named.metadata.namespace.as_deref(), &named.metadata.name));
        let object = key.as_ref().map_or_else(|| format!("{} (no name)", kind.name()), ToString::to_string);
        let field = path::Display(&error.path);
        let text = format!("{object}: {field}: {}", in_our_words(&error.message));
        self.remark(text, key.clone(), item, &error.path);
        self.unusable(key);
    }

    /// Reads the items of a list with `each`.
    fn list(&mut self, list: &impl Item, each: impl FnOnce(&mut Self)) {
        if self.depth == Self::DEEPEST {
            self.unclear(Unclear::too_deep(), list);
        } else {
            self.depth += 1;
            each(self);
            self.depth -= 1;
        }
    }

    /// Takes in an object of which not even the kind is known.
    fn unclear(&mut self, unclear: Unclear, item: &impl Item) {
        self.remark(unclear.text, None, item, &path::parse(unclear.field));
        self.unusable(None);
    }

    fn unusable(&mut self, key: Option<ObjectKey>) {
        match key {
            Some(key) => self.content.unusable.push(key),
            None => self.content.nameless += 1,
        }
    }

    fn remark(&mut self, text: String, key: Option<ObjectKey>, item: &impl Item, path: &[path::Step]) {
        let line = (self.lines_left > 0).then(|| item.line(path)).flatten();
        self.lines_left = self.lines_left.saturating_sub(1);
        self.content.remarks.push(Remark { line, text, key });
    }

    /// Of several objects with the same key, the first one counts, as between files.
    fn finish(mut self) -> Content {
        let mut seen = std::collections::HashSet::with_capacity(self.content.objects.len());
        let remarks = &mut self.content.remarks;
        self.content.objects.retain(|found| {
            let key = found.object.key();
            if seen.contains(&key) {
                let text = format!("{key} is in this file more than once, the first is used");
                remarks.push(Remark { line: None, text, key: None });
                return false;
            }
            seen.insert(key)
        });
        self.content
    }
}

/// A parser's message without the place, which it has at the end or in front of the context: we give the line at the
/// beginning, and the parser knows only the line inside the object.
fn without_place(message: &str) -> String {
    let Some((before, after)) = message.split_once(" at line ") else { return message.to_owned() };
    let rest = after.trim_start_matches(|character: char| character.is_ascii_digit());
    let rest = rest.strip_prefix(" column ").unwrap_or(rest);
    before.to_owned() + rest.trim_start_matches(|character: char| character.is_ascii_digit())
}

/// serde's `invalid type: string "x", expected i32` in the form of all our other messages.
fn in_our_words(message: &str) -> String {
    let told = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match told.and_then(|told| told.split_once(", expected ")) {
        Some((found, expected)) => {
            let allowed = match expected {
                "i32" | "i64" => "a whole number",
                other => other,
            };
            format!("found {found}, allowed {allowed}")
        }
        None => message.to_owned(),
    }
}

impl fmt::Display for Remark {
    /// What follows the name of the file: `:12: text`, or `: text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, ":{line}: {}", self.text),
            None => write!(f, ": {}", self.text),
        }
    }
}
