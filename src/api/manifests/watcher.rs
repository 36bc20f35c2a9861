//! Which files may have changed: inotify on folders.
//!
//! Folders are watched, never files: a file that is replaced takes its watch with it. The watched folders are the given
//! ones, those of the given files, and each folder that holds a symbolic link on the way to one of these or to a file
//! in them: that is how a `ConfigMap` changes, whose files are links through `..data`, which is swapped.
//!
//! An event says that a file was *written* (closed after writing, renamed to its name, linked), or that it *vanished*
//! from its name. Only the former is a reason to read it: a file that is back after having vanished may still be being
//! written, and its own event will come.
//!
//! A file that was *begun* (emptied or written to) is unfinished until one of these events comes: until then, it is not
//! read for any other reason.

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

/// A file that nobody has written to for this long counts as finished: it may be kept open forever, or have been
/// changed without being opened.
const ABANDONED: Duration = Duration::from_mins(5);

/// What an event may be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A manifest.
    File(PathBuf),
    /// All files that a folder lists.
    Folder(PathBuf),
}

/// What happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Files that have new content.
    pub(super) written: BTreeSet<PathBuf>,
    /// Files that are gone from their names; they may be back.
    pub(super) vanished: BTreeSet<PathBuf>,
    /// Files that may have become readable.
    pub(super) attributes: BTreeSet<PathBuf>,
    /// Folders that are other ones than before.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Files that were found to be there and may be complete, although no event said so.
    pub(super) found: BTreeSet<PathBuf>,
    /// Whether events were lost, or a watched folder is gone: look at everything.
    pub(super) everything: bool,
}

#[derive(Debug)]
struct Watch {
    path: PathBuf,
    /// The names under which this folder was given, if it was.
    folders: BTreeSet<PathBuf>,
    /// Single names in the folder, and what depends on them.
    names: HashMap<OsString, BTreeSet<Subject>>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    inotify: Inotify,
    watches: HashMap<WatchDescriptor, Watch>,
    /// The files that are being written, and when the last write was noticed.
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

    /// Watches a folder and the links on the way to it. May be called again and again: the folder may be another one by
    /// now.
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

    /// Stops watching the way to this file: if another file is put there, the watch of its folder notices.
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
            // This fails if the folder is gone, and the watch with it.
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

    /// All news that is available now; does not wait.
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
                        // A folder that was moved would stay watched, under a name that nobody gave. If it is gone, so
                        // is the watch, and this fails.
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
    /// Handles an event about this name. Called for every write to a file, so it reads no file.
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
                // The folder may have other files by now.
                unfinished.retain(|file, _| file.parent() != Some(folder));
                news.folders.insert(folder.clone());
            }
        }
    }
}

/// What an event says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Attributes,
    Begun,
    Found,
    Vanished,
    Written,
}

impl Said {
    /// What an event says about what is at the path; `None` if nothing is there any more.
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
        // A symbolic link, a folder, or another name of an existing file has its content from the beginning; any other
        // file is empty when it is made. If it is no longer empty, it is being written to, or had another name, or
        // none, before it got this one.
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

/// The symbolic links on the way to an absolute path, and where the way ends, as far as it exists.
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
