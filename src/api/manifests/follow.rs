//! Turns news from the file system into changes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::read::{self, Broken};
use super::store::Notice;
use super::watcher::{News, Watcher, is_manifest};
use super::{Error, ManifestSource};
use crate::api::Event;

/// How often all files are looked at, in case no event told of a change: on network file systems, none does if the
/// change was made elsewhere.
const RECHECK: Duration = Duration::from_secs(30);
/// How often they are looked at while a folder cannot be watched, or a file is not old enough yet.
const RECHECK_SOON: Duration = Duration::from_secs(1);
/// A file that no event told of and that is younger than this may still be being written.
const SETTLED: Duration = Duration::from_secs(2);

/// The largest file that is read, in bytes: more than 100,000 Services with ten endpoints each need. A sparse file may
/// be of any size, and costs nothing before it is read.
const MOST_BYTES: u64 = 1 << 30;

/// How a file is recognised as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size_bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What is wrong with a folder whose file system seems to be unmounted.
const NOT_MOUNTED: &str = "is empty and on another device than before: its file system is probably not mounted (if \
     there are really no objects, put a manifest without objects there)";

/// What is wrong with a file without a byte. Nobody writes one on purpose, but every command with `> FILE` leaves one
/// if it fails, and has one while it runs; so does a full disk.
const EMPTY: &str = "has no content, perhaps because the command that writes it failed (if there are really no \
     objects, write a comment or a list without items)";

/// The device that a path is on.
fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

fn cannot_be_watched(error: &io::Error) -> String {
    format!("cannot be watched: {error}")
}

/// The manifests in a folder.
pub(super) fn listing(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_manifest(&entry.file_name()) {
            files.insert(entry.path());
        }
    }
    Ok(files)
}

/// Logs a notice for the user.
pub(super) fn tell(notice: Notice) {
    match notice {
        Notice::Warning(line) => tracing::warn!("{line}"),
        Notice::Mended(file) => tracing::info!("{}: can be read again", file.display()),
    }
}

impl ManifestSource {
    /// Returns what changed since the last call. Blocks for as long as the changed files take to read.
    pub(super) fn refresh(&mut self) -> Result<Vec<Event>, Error> {
        let mut news = self.watcher().news().map_err(Error::Inotify)?;
        let recheck = news.everything || Instant::now() >= self.recheck_at;
        for folder in std::mem::take(&mut news.folders) {
            self.list_again(&folder, false, &mut news);
        }
        if recheck {
            self.recheck(&mut news);
        }
        self.unsettled |= !news.found.is_empty();
        self.digest(news);
        let soon = Instant::now() + self.recheck_period();
        self.recheck_at = if recheck { soon } else { self.recheck_at.min(soon) };
        Ok(self.store.changes(Instant::now()))
    }

    fn watcher(&mut self) -> &mut Watcher {
        self.watcher.as_mut().expect("load made it, and nothing works without")
    }

    pub(super) fn recheck_period(&self) -> Duration {
        if self.amiss.is_empty() && !self.unsettled { RECHECK } else { RECHECK_SOON }
    }

    /// Looks at all files, and adds those that changed unnoticed to the news.
    fn recheck(&mut self, news: &mut News) {
        self.unsettled = false;
        for folder in self.folders.clone() {
            self.list_again(&folder, true, news);
        }
        for file in self.singles.clone() {
            self.watch_file(&file);
            self.look_at(&file, true, news);
        }
    }

    /// Lists a folder that may be another one than before. A folder that cannot be listed says nothing.
    fn list_again(&mut self, folder: &Path, settled: bool, news: &mut News) {
        let watched = self.watcher().watch_folder(folder);
        // The device is looked up twice, since a file system may be unmounted before or after the listing. Listed files
        // were on the first device, but that there are none must hold for the second.
        let listed = watched.and_then(|()| Ok((device(folder)?, listing(folder)?, device(folder)?)));
        let (before, files, after) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.amiss(folder, &cannot_be_watched(&error));
                return;
            }
        };
        let known = self.store.paths().filter(|file| file.parent() == Some(folder));
        let missing: Vec<_> = known
            .filter(|file| !files.contains(*file) && !self.singles.contains(*file))
            .map(Path::to_owned)
            .collect();
        if files.is_empty() && !missing.is_empty() && self.devices.get(folder) != Some(&after) {
            self.amiss(folder, NOT_MOUNTED);
            return;
        }
        self.well(folder);
        self.devices.insert(folder.to_owned(), before);
        news.vanished.extend(missing);
        for file in files {
            self.look_at(&file, settled, news);
        }
    }

    /// Adds a file to the news unless it is as it was when it was read.
    fn look_at(&mut self, file: &Path, settled: bool, news: &mut News) {
        if self.watcher().is_unfinished(file) {
            return; // its own event will come
        }
        match fs::metadata(file) {
            Ok(metadata) if self.stamps.get(file) == Some(&Stamp::of(&metadata)) => {}
            Ok(metadata) => {
                let age =
                    metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
                if settled && age.is_some_and(|age| age < SETTLED) {
                    self.unsettled = true;
                } else {
                    news.written.insert(file.to_owned());
                }
            }
            Err(_) => {
                news.written.insert(file.to_owned()); // reading it gives the reason
            }
        }
    }

    fn digest(&mut self, news: News) {
        let News { mut written, vanished, attributes, .. } = news;
        written.extend(attributes.into_iter().filter(|file| self.store.is_broken(file)));
        for file in vanished {
            match fs::symlink_metadata(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.gone(&file),
                // A link that is back, or that stayed while what it leads to vanished.
                Ok(metadata) if metadata.is_symlink() => {
                    written.insert(file);
                }
                // Back again: its own event will come when it is complete.
                _ => {}
            }
        }
        for file in written {
            // Somebody else may have begun to write the file since it was complete.
            if self.watcher().is_unfinished(&file) {
                continue;
            }
            self.read(&file).into_iter().for_each(tell);
        }
    }

    fn gone(&mut self, file: &Path) {
        self.store.gone(file);
        self.stamps.remove(file);
        if !self.singles.contains(file) {
            self.amiss.remove(file);
            // A link whose target is gone stays watched: it will soon lead to another one.
            if fs::symlink_metadata(file).is_err() {
                self.watcher().forget_file(file);
            }
        }
    }

    /// Reads a file, whatever is now under its name.
    pub(super) fn read(&mut self, file: &Path) -> Vec<Notice> {
        let is_link = fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_symlink());
        if is_link {
            self.watch_file(file);
        }
        let unreadable = |error: &dyn std::fmt::Display| Broken::new(None, error.to_string());
        let content = match contents(file) {
            Ok(Some((stamp, bytes))) => {
                self.stamps.insert(file.to_owned(), stamp);
                if let Some(folder) = file.parent().filter(|_| self.singles.contains(file))
                    && let Ok(device) = device(folder)
                {
                    self.devices.insert(folder.to_owned(), device);
                }
                let json = file.extension().is_some_and(|extension| extension == "json");
                if bytes.is_empty() {
                    Err(Broken::new(None, EMPTY.to_owned()))
                } else {
                    read::read(&bytes, json, &mut self.converter, &self.node_name)
                }
            }
            // A folder may have a manifest's name, but not the name of a file whose objects are in force.
            Ok(None) if !self.store.knows(file) => return Vec::new(),
            Ok(None) => Err(unreadable(&"is no longer a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link => {
                // Deleted, if that can be known: a folder that is gone with all its files, or is another one, may just
                // not be mounted at the moment.
                if file.parent().is_some_and(|folder| self.is_mounted(folder)) {
                    self.gone(file);
                    return Vec::new();
                }
                if !self.store.knows(file) {
                    return Vec::new();
                }
                Err(unreadable(&error))
            }
            Err(error) => Err(unreadable(&error)),
        };
        match content {
            Ok(content) => self.store.readable(file, content),
            Err(broken) => self.store.unreadable(file, broken).into_iter().collect(),
        }
    }

    /// Whether a folder exists, on the device that it was on.
    fn is_mounted(&self, folder: &Path) -> bool {
        let known = self.devices.get(folder);
        folder.is_dir() && known.is_none_or(|known| device(folder).is_ok_and(|device| device == *known))
    }

    pub(super) fn watch_folder(&mut self, folder: &Path) {
        match self.watcher().watch_folder(folder) {
            Ok(()) => self.well(folder),
            Err(error) => self.amiss(folder, &cannot_be_watched(&error)),
        }
    }

    pub(super) fn watch_file(&mut self, file: &Path) {
        match self.watcher().watch_file(file) {
            Ok(()) => self.well(file),
            Err(error) => self.amiss(file, &cannot_be_watched(&error)),
        }
    }

    fn amiss(&mut self, path: &Path, text: &str) {
        if self.amiss.get(path).is_none_or(|told| told != text) {
            let period = RECHECK_SOON.as_secs();
            tracing::warn!(
                "{}: {text}; the objects in force stay, and it is checked again every {period} s",
                path.display()
            );
            self.amiss.insert(path.to_owned(), text.to_owned());
        }
    }

    fn well(&mut self, path: &Path) {
        if self.amiss.remove(path).is_some() {
            tracing::info!("{}: is watched again", path.display());
        }
    }
}

/// The content of a file; `None` if it is not a regular file (a folder, a socket, ...).
fn contents(file: &Path) -> io::Result<Option<(Stamp, Vec<u8>)>> {
    // Checked by name before it is opened: opening a pipe would wait for somebody to write into it.
    if !fs::metadata(file)?.is_file() {
        return Ok(None);
    }
    let opened = fs::File::open(file)?;
    let stamp = Stamp::of(&opened.metadata()?);
    let too_large = || io::Error::other(format!("is larger than {} MiB", MOST_BYTES >> 20));
    if stamp.size_bytes > MOST_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size_bytes).unwrap_or_default() + 1);
    // The file may grow meanwhile.
    opened.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES { Err(too_large()) } else { Ok(Some((stamp, bytes))) }
}

#[cfg(test)]
mod tests;
