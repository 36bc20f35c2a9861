//! The server's objects at every version, and what should happen to requests.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::statuses::too_large;
use super::{Fault, Form, Kind, Received, Replica, Wants};

/// Something that happened, in the order of versions.
#[derive(Clone)]
pub(super) enum Entry {
    Change { version: u64, kind: Kind, before: Option<Value>, after: Option<Value> },
    Bookmark { version: u64 },
}

/// The objects, and what should happen to requests.
pub(super) struct World {
    pub(super) form: Form,
    pub(super) version: u64,
    pub(super) entries: Vec<Entry>,
    /// Older versions are forgotten.
    pub(super) remembered_from: u64,
    pub(super) replica: Replica,
    pub(super) has_streaming_lists: bool,
    pub(super) selects_services: bool,
    pub(super) denied: BTreeMap<(Kind, Wants), u16>,
    pub(super) faults: VecDeque<(Kind, Wants, Fault)>,
    pub(super) received: Vec<Received>,
    pub(super) token: Option<String>,
    /// Watches of an earlier epoch end.
    pub(super) epoch: u32,
}

impl Entry {
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Change { version, .. } | Self::Bookmark { version } => *version,
        }
    }
}

impl World {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            version: 100,
            entries: Vec::new(),
            remembered_from: 0,
            replica: Replica::Current,
            has_streaming_lists: true,
            selects_services: true,
            denied: BTreeMap::new(),
            faults: VecDeque::new(),
            received: Vec::new(),
            token: None,
            epoch: 0,
        }
    }

    pub(super) fn change(&mut self, kind: Kind, before: Option<Value>, mut after: Option<Value>) -> u64 {
        self.version += 1;
        if let Some(object) = &mut after {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.entries.push(Entry::Change { version: self.version, kind, before, after });
        self.version
    }

    /// The objects of a kind as they were at a version.
    pub(super) fn objects(&self, kind: Kind, at: u64) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        for entry in &self.entries {
            if let Entry::Change { version, kind: of, before, after } = entry
                && *version <= at
                && *of == kind
            {
                match (before, after) {
                    (_, Some(object)) => objects.insert(id(object), object.clone()),
                    (Some(object), None) => objects.remove(&id(object)),
                    (None, None) => None,
                };
            }
        }
        objects
    }

    pub(super) fn named(&self, kind: Kind, name: &str) -> Value {
        let objects = self.objects(kind, u64::MAX);
        let found = objects.into_values().find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind:?} {name}"))
    }

    /// The newest version that this server knows.
    pub(super) fn visible(&self) -> u64 {
        match self.replica {
            Replica::Current => self.version,
            Replica::Behind(version) | Replica::Lying(version) => version,
        }
    }

    /// The version to answer with, or the status that refuses the request.
    pub(super) fn answerable(&self, parameters: &BTreeMap<String, String>) -> Result<u64, Value> {
        let wanted = parameters.get("resourceVersion").map_or("", String::as_str);
        let visible = self.visible();
        match (self.replica, wanted.parse::<u64>()) {
            // A consistent read waits in vain for etcd's version.
            (Replica::Behind(_), Err(_)) => Err(too_large(self.version, visible)),
            (Replica::Behind(_) | Replica::Current, Ok(wanted)) if wanted > visible => {
                Err(too_large(wanted, visible))
            }
            _ => Ok(visible),
        }
    }
}

/// Namespace and name.
pub(super) fn id(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{}/{}", metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap())
}
