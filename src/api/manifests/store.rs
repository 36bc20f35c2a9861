//! The combined content of all files, and what changed in it (pure: `now` is an argument).
//!
//! Three rules, all for the sake of a data plane that works:
//!
//! * **What cannot be read says nothing.** A broken file keeps its last good content, and so does a bad object in a
//!   valid file, and a slice of which something would have to be left out. A Service of which something has to be left
//!   out applies: the change may be meant to close something.
//! * **One object, one file.** If several files have the same object, the first in the order of paths has it, and a
//!   warning names the others; when that file no longer has the object, the next one takes over.
//! * **What appears or changes applies at once; what disappears is withdrawn [`GRACE`] later**, unless it is back by
//!   then. Editors move the old file away before they write the new one, and people move objects from file to file;
//!   neither should cut a connection. Nobody waits for a withdrawal as they wait for a new address. A file that is back
//!   by then was never gone: if it is broken now, it has its last good content, as if it had been written in place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::object::{Object, ObjectKey};
use super::read::{Broken, Content};
use crate::api::{Change, Event};

#[cfg(test)]
mod tests;

/// How long an object is kept that no file has any more.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The end of a warning about a file or an object that is not used in its current form.
const KEPT: &str = "; its last good content stays in force";

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Something is wrong: a line that begins with the file's name.
    Warning(String),
    /// A file that could not be read as a whole can be read again.
    Mended(PathBuf),
}

#[derive(Debug)]
struct Kept {
    object: Arc<Object>,
    flawed: bool,
}

#[derive(Debug, Default)]
struct File {
    objects: HashMap<ObjectKey, Kept>,
    /// The remarks that the user was told and that still hold.
    told: HashSet<String>,
    broken: bool,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<Arc<Path>, File>,
    /// The files that have each object; the first one's counts.
    claims: HashMap<ObjectKey, BTreeSet<Arc<Path>>>,
    /// The objects as they were sent.
    sent: HashMap<ObjectKey, Arc<Object>>,
    /// The objects that no file has any more, and since when.
    going: HashMap<ObjectKey, Instant>,
    /// The files that are gone, until what only they had is withdrawn. `None`: gone since the last [`Store::changes`].
    departed: HashMap<Arc<Path>, (File, Option<Instant>)>,
    /// The objects that may differ from what was sent.
    touched: BTreeSet<ObjectKey>,
}

impl Store {
    /// Takes in the content of a file that was read.
    pub(super) fn readable(&mut self, path: &Path, content: Content) -> Vec<Notice> {
        let (path, file) = self.take(path);
        let mut notices = Vec::new();
        if file.broken {
            notices.push(Notice::Mended(path.to_path_buf()));
        }

        let mut old = file.objects;
        let mut objects = HashMap::with_capacity(content.objects.len());
        let mut claimed = Vec::new();
        let mut kept_on = HashSet::new();
        for found in content.objects {
            let key = found.object.key();
            let before = old.remove(&key);
            if before.is_none() {
                claimed.push(key.clone());
            }
            let kept = match before {
                Some(good) if found.flawed && !good.flawed => {
                    kept_on.insert(key.clone());
                    good
                }
                Some(same) if *same.object == found.object => Kept { flawed: found.flawed, ..same },
                _ => {
                    self.touched.insert(key.clone());
                    Kept { object: Arc::new(found.object), flawed: found.flawed }
                }
            };
            objects.insert(key, kept);
        }
        for key in content.unusable {
            if let Some(good) = old.remove(&key) {
                kept_on.insert(key.clone());
                objects.insert(key, good);
            }
        }
        if content.nameless > 0 {
            objects.extend(old.drain()); // each of them may be the one without a readable name
        }
        for key in old.into_keys() {
            self.disclaim(key, &path);
        }
        notices.extend(self.claim(claimed, &path));

        let mut told = HashSet::with_capacity(content.remarks.len());
        for remark in content.remarks {
            // Compared by the text alone: line numbers change when something is inserted above.
            if !file.told.contains(&remark.text) && !told.contains(&remark.text) {
                let consequence =
                    if remark.key.as_ref().is_some_and(|key| kept_on.contains(key)) { KEPT } else { "" };
                notices.push(Notice::Warning(format!("{}{remark}{consequence}", path.display())));
            }
            told.insert(remark.text);
        }
        self.files.insert(path, File { objects, told, broken: false });
        notices
    }

    /// Takes in that a file is there but cannot be read.
    pub(super) fn unreadable(&mut self, path: &Path, Broken(remark): Broken) -> Option<Notice> {
        let (path, mut file) = self.take(path);
        let new = !std::mem::replace(&mut file.broken, true) | file.told.insert(remark.text.clone());
        let notice = new.then(|| {
            let consequence = if file.objects.is_empty() { "" } else { KEPT };
            Notice::Warning(format!("{}{remark}{consequence}", path.display()))
        });
        self.files.insert(path, file);
        notice
    }

    /// Takes in that a file is gone.
    pub(super) fn gone(&mut self, path: &Path) {
        if let Some((path, file)) = self.files.remove_entry(path) {
            for key in file.objects.keys() {
                self.disclaim(key.clone(), &path);
            }
            self.departed.insert(path, (file, None));
        }
    }

    /// The complete sets, one `Replace` per kind; for the start.
    pub(super) fn everything(&mut self) -> Vec<Event> {
        self.touched.clear();
        self.going.clear();
        self.sent = self
            .claims
            .keys()
            .filter_map(|key| Some((key.clone(), Arc::clone(self.current(key)?))))
            .collect();
        let mut sorted: Vec<(&ObjectKey, &Arc<Object>)> = self.sent.iter().collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        let (mut services, mut slices, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for (_, object) in sorted {
            match &**object {
                Object::Service(service) => services.push(service.clone()),
                Object::Slice(slice) => slices.push(slice.clone()),
                Object::Node(node) => nodes.push(node.clone()),
            }
        }
        vec![
            Event::Service(Change::Replace(services)),
            Event::Slice(Change::Replace(slices)),
            Event::Node(Change::Replace(nodes)),
        ]
    }

    /// The changes since the last call; withdrawals come last, and only those that are due.
    pub(super) fn changes(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            let Some(current) = self.current(&key).map(Arc::clone) else {
                if self.sent.contains_key(&key) {
                    self.going.entry(key).or_insert(now);
                }
                continue;
            };
            self.going.remove(&key);
            if self.sent.get(&key).is_none_or(|sent| **sent != *current) {
                events.push(current.upsert());
            }
            self.sent.insert(key, current);
        }
        let due = |since: &Instant| now.saturating_duration_since(*since) >= GRACE;
        let mut gone: Vec<ObjectKey> =
            self.going.extract_if(|_, since| due(since)).map(|(key, _)| key).collect();
        gone.sort_unstable();
        self.departed.retain(|_, (_, since)| !due(since.get_or_insert(now)));
        for key in gone {
            self.sent.remove(&key);
            events.push(key.delete());
        }
        events
    }

    /// When [`Store::changes`] must be called even if no file changes.
    pub(super) fn next_withdrawal(&self) -> Option<Instant> {
        self.going.values().min().map(|since| *since + GRACE)
    }

    pub(super) fn is_broken(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| file.broken)
    }

    pub(super) fn knows(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }

    fn take(&mut self, path: &Path) -> (Arc<Path>, File) {
        let known = self.files.remove_entry(path).or_else(|| self.back(path));
        known.unwrap_or_else(|| (path.into(), File::default()))
    }

    /// A file that was gone for a short time, with the objects that it had, except those that another file has by now.
    fn back(&mut self, path: &Path) -> Option<(Arc<Path>, File)> {
        let (path, (mut file, _)) = self.departed.remove_entry(path)?;
        file.objects.retain(|key, _| !self.claims.contains_key(key));
        for key in file.objects.keys() {
            self.claims.insert(key.clone(), BTreeSet::from([Arc::clone(&path)]));
            self.touched.insert(key.clone());
        }
        Some((path, file))
    }

    fn current(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        let owner = self.claims.get(key)?.first()?;
        self.files.get(owner)?.objects.get(key).map(|kept| &kept.object)
    }

    /// Takes in that the file has these objects, which it did not have before.
    fn claim(&mut self, keys: Vec<ObjectKey>, path: &Arc<Path>) -> Vec<Notice> {
        let mut doubles: BTreeMap<Arc<Path>, (ObjectKey, usize)> = BTreeMap::new();
        for key in keys {
            let claimants = self.claims.entry(key.clone()).or_default();
            for other in claimants.iter() {
                doubles.entry(Arc::clone(other)).or_insert_with(|| (key.clone(), 0)).1 += 1;
            }
            claimants.insert(Arc::clone(path));
            self.touched.insert(key);
        }
        let mut notices = Vec::new();
        for (other, (example, count)) in doubles {
            let (first, second) = if *path < other { (path, &other) } else { (&other, path) };
            let objects = match count {
                1 => example.to_string(),
                _ => format!("{example} and {} more", count - 1),
            };
            notices.push(Notice::Warning(format!(
                "{}: {objects}: found in {} too, allowed in one file; that of {} is used",
                second.display(),
                first.display(),
                first.display(),
            )));
        }
        notices
    }

    /// Takes in that the file no longer has the object.
    fn disclaim(&mut self, key: ObjectKey, path: &Arc<Path>) {
        if let Some(claimants) = self.claims.get_mut(&key) {
            claimants.remove(path);
            if claimants.is_empty() {
                self.claims.remove(&key);
            }
        }
        self.touched.insert(key);
    }
}
