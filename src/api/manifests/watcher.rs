//! Which files may have changed: inotify on folders.
//!
//! Folders are watched, never files: a file that is replaced takes its watch with it. The watched folders are those
//! that were given, those of the files that were given, and each one that holds a symbolic link on the way to any of
//! these or to a file in them, for that is how a `ConfigMap` changes: its files are links through `..data`, which is
//! swapped.
//!
//! An event says of a file that it was *written* (closed after writing, renamed to its name, linked), or that it
//! *vanished* from its name. Only the former is a reason to read it: a file that is there again after having vanished
//! is perhaps still being written, and its own event comes.
//!
//! A file that was *begun*, emptied or written to, is unfinished until one of these comes: whoever looks at it for another
//! reason leaves it alone.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

#[cfg(test)]
mod tests;

/// A file that nobody has written to for so long counts as finished: one may be kept open for ever, or have been changed
/// without being opened.
const ABANDONED: Duration = Duration::from_mins(5);

/// What an event may be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A manifest.
    File(PathBuf),
    /// All that a folder lists.
    Folder(PathBuf),
}

/// What happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// These have new content.
    pub(super) written: BTreeSet<PathBuf>,
    /// These are gone from their names; they may be back.
    pub(super) vanished: BTreeSet<PathBuf>,
    /// These may have become readable.
    pub(super) attributes: BTreeSet<PathBuf>,
    /// These are other folders than before.
    pub(super) folders: BTreeSet<PathBuf>,
    /// These were found to be there, and may be complete: no event told so.
    pub(super) found: BTreeSet<PathBuf>,
    /// Events were lost, or a watched folder is gone: look at everything.
    pub(super) everything: bool,
}

#[derive(Debug)]
struct Watch {
    path: PathBuf,
    /// The given folder that this is, under the names by which it was given.
    folders: BTreeSet<PathBuf>,
    /// Single names in it, and what depends on them.
    names: HashMap<OsString, BTreeSet<Subject>>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    inotify: Inotify,
    watches: HashMap<WatchDescriptor, Watch>,
    /// The files in the making, and when that was last heard of.
    unfinished: HashMap<PathBuf, Instant>,
    buffer: Vec<u8>,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init()?,
            watches: HashMap::new(),
            unfinished: HashMap::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// A descriptor that becomes readable when there is news.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Watches a folder and the links on the way to it. Again and again, if need be: it may be another one by now.
    pub(super) fn watch_folder(&mut self, folder: &Path) -> io::Result<()> {
        let (links, _) = resolve(folder);
        for (directory, name) in links {
            self.watch_name(&directory, name, Subject::Folder(folder.to_owned()))?;
        }
        self.watch(folder)?.folders.insert(folder.to_owned());
        Ok(())
    }

    /// Watches what a file's content depends on: the folder it is in, and the links on the way to it.
    pub(super) fn watch_file(&mut self, file: &Path) -> io::Result<()> {
        let (links, end) = resolve(file);
        for (directory, name) in links.into_iter().chain(end) {
            self.watch_name(&directory, name, Subject::File(file.to_owned()))?;
        }
        Ok(())
    }

    /// Nothing depends on the way to this file any more: one that is put there is seen by whoever watches its folder.
    pub(super) fn forget_file(&mut self, file: &Path) {
        let subject = Subject::File(file.to_owned());
        for watch in self.watches.values_mut() {
            watch.names.retain(|_, subjects| {
                subjects.remove(&subject);
                !subjects.is_empty()
            });
        }
        let idle =
            |_: &WatchDescriptor, watch: &mut Watch| watch.folders.is_empty() && watch.names.is_empty();
        for (descriptor, _) in self.watches.extract_if(idle) {
            // It fails where the folder is gone, and the watch with it.
            let _ = self.inotify.watches().remove(descriptor);
        }
    }

    /// The folders that are watched, and how many names matter in each.
    #[cfg(test)]
    pub(super) fn watched(&self) -> BTreeSet<(PathBuf, usize)> {
        self.watches.values().map(|watch| (watch.path.clone(), watch.names.len())).collect()
    }

    fn watch_name(&mut self, directory: &Path, name: OsString, subject: Subject) -> io::Result<()> {
        self.watch(directory)?.names.entry(name).or_default().insert(subject);
        Ok(())
    }

    fn watch(&mut self, directory: &Path) -> io::Result<&mut Watch> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let descriptor = self.inotify.watches().add(directory, mask)?;
        Ok(self.watches.entry(descriptor).or_insert_with(|| Watch {
            path: directory.to_owned(),
            folders: BTreeSet::new(),
            names: HashMap::new(),
        }))
    }

    /// Whether somebody is writing a file, as far as is known.
    pub(super) fn is_unfinished(&self, file: &Path) -> bool {
        self.unfinished.get(file).is_some_and(|heard| heard.elapsed() < ABANDONED)
    }

    /// All the news that there is now; does not wait.
    pub(super) fn news(&mut self) -> io::Result<News> {
        let mut news = News::default();
        let now = Instant::now();
        self.unfinished.retain(|_, heard| now.saturating_duration_since(*heard) < ABANDONED);
        loop {
            let events = match self.inotify.read_events(&mut self.buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    news.everything = true;
                    self.unfinished.clear();
                }
                let itself =
                    EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
                if event.mask.intersects(itself) {
                    if self.watches.remove(&event.wd).is_some() {
                        news.everything = true;
                        self.unfinished.clear();
                        // A folder that was moved is watched on, under a name that nobody gave. When it is gone,
                        // so is the watch, and this fails.
                        let _ = self.inotify.watches().remove(event.wd);
                    }
                } else if let (Some(watch), Some(name)) = (self.watches.get(&event.wd), event.name) {
                    watch.named(name, event.mask, &mut news, &mut self.unfinished, now);
                }
            }
        }
    }
}

impl Watch {
    /// Something happened to this name. Comes for every write to a file, and reads none.
    fn named(
        &self,
        name: &OsStr,
        mask: EventMask,
        news: &mut News,
        unfinished: &mut HashMap<PathBuf, Instant>,
        now: Instant,
    ) {
        let Some(said) = Said::of(mask, &self.path.join(name)) else { return };
        let in_folders = is_manifest(name).then_some(&self.folders).into_iter().flatten();
        let subjects = || self.names.get(name).into_iter().flatten();
        let by_name = subjects().filter_map(|subject| match subject {
            Subject::File(path) => Some(path.clone()),
            Subject::Folder(_) => None,
        });
        for file in in_folders.map(|folder| folder.join(name)).chain(by_name) {
            if matches!(said, Said::Vanished | Said::Written) {
                unfinished.remove(&file);
            }
            if said != Said::Attributes {
                news.found.remove(&file);
            }
            match said {
                Said::Attributes => _ = news.attributes.insert(file),
                Said::Begun => _ = unfinished.insert(file, now),
                Said::Found => _ = news.found.insert(file),
                Said::Vanished => _ = news.vanished.insert(file),
                Said::Written => _ = news.written.insert(file),
            }
        }
        for subject in subjects() {
            if let Subject::Folder(folder) = subject
                && matches!(said, Said::Vanished | Said::Written)
            {
                // What is in it may be other files by now.
                unfinished.retain(|file, _| file.parent() != Some(folder));
                news.folders.insert(folder.clone());
            }
        }
    }
}

/// What an event says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Attributes,
    Begun,
    Found,
    Vanished,
    Written,
}

impl Said {
    /// What this one says of what is at the path; `None`: nothing, since nothing is there any more.
    fn of(mask: EventMask, path: &Path) -> Option<Self> {
        if mask.contains(EventMask::ATTRIB) {
            return Some(Self::Attributes);
        }
        if mask.contains(EventMask::MODIFY) {
            return Some(Self::Begun);
        }
        if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            return Some(Self::Vanished);
        }
        if !mask.contains(EventMask::CREATE) {
            return Some(Self::Written);
        }
        let metadata = fs::symlink_metadata(path).ok()?;
        // A symbolic link, a folder, or another name of an existing file has its content from the beginning; any other is empty
        // when it is made. One that is not any more is being written to, or had another name, or none, before it got this one.
        Some(if !metadata.is_file() || metadata.nlink() > 1 {
            Self::Written
        } else if metadata.len() == 0 {
            Self::Begun
        } else {
            Self::Found
        })
    }
}

/// Whether a file of this name in a folder is a manifest: `.yaml`, `.yml` or `.json`, and not hidden.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let path = Path::new(name);
    let known = |extension: &OsStr| ["yaml", "yml", "json"].iter().any(|known| extension == *known);
    !name.as_encoded_bytes().starts_with(b".") && path.extension().is_some_and(known)
}

/// A name in a folder.
type Entry = (PathBuf, OsString);

/// The symbolic links on the way of an absolute path, and where the way ends, as far as it exists.
fn resolve(path: &Path) -> (Vec<Entry>, Option<Entry>) {
    /// As many as the kernel follows.
    const MOST_LINKS: usize = 40;
    let parts = |path: &Path| -> Vec<OsString> {
        path.components()
            .map(|part| match part {
                Component::Prefix(_) | Component::RootDir => OsString::from("/"),
                other => other.as_os_str().to_owned(),
            })
            .collect()
    };
    let mut way: VecDeque<OsString> = parts(path).into();
    let mut links = Vec::new();
    let mut at = PathBuf::from("/");
    while let Some(part) = way.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&part); // "/" starts anew, "." changes nothing
        match fs::read_link(&here) {
            Ok(target) if links.len() < MOST_LINKS => {
                links.push((at.clone(), part));
                for part in parts(&target).into_iter().rev() {
                    way.push_front(part);
                }
            }
            _ => at = here,
        }
    }
    let end =
        at.parent().zip(at.file_name()).map(|(directory, name)| (directory.to_owned(), name.to_owned()));
    (links, end)
}
