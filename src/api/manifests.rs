//! Files → events: Services, EndpointSlices and the own Node from manifests, without an API server.
//!
//! A given path is a file, or a folder whose `*.yaml`, `*.yml` and `*.json` are read, except hidden ones and those in
//! subfolders (as `kubectl apply -f` does; a subfolder with drafts should not take effect). Symbolic links are
//! followed. Kinds Service (v1), EndpointSlice (discovery.k8s.io/v1) and Node (v1), and lists of them, are used; other
//! objects are left alone. Nothing is made up that a cluster's controllers would have added: a Service needs its
//! `clusterIP`, and its endpoints come from slices.
//!
//! Folders are watched. What appears or changes applies at once, at the cost of reading the file that changed (so what
//! changes often belongs in small files). What disappears is withdrawn a second later, unless it is back by then:
//! editors move the old file away before they write the new one, and people move objects from file to file. If several
//! files have the same object, the first in the order of paths has it, and a warning names both. A file that somebody
//! has been seen to begin writing is not read until it is closed, or has not been written to for five minutes:
//! `kubectl get ... > FILE` empties it first.
//!
//! A folder that is gone says nothing, and neither does an empty one on another device than before: that is what an
//! unmounted file system leaves behind. (A manifest without objects says that there are none; a file without a byte in
//! it is broken, as a failed `kubectl get ... > FILE` leaves it.)
//!
//! **Broken files.** While running, a file that cannot be read keeps its last good content. At the start there is none,
//! and a broken file is an error that ends the program before it has touched the data plane. To go on without the file
//! would withdraw from an adopted kernel every Service that only that file has; to wait with everything until it is
//! repaired would look like a hang. A program that exits with the line of the mistake leaves the data plane as it is,
//! and its supervisor starts it again. A bad *object* in a valid file does not end anything, not even at the start: a
//! warning names it, and it is skipped, or keeps its last good content if it had any.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::convert::Converter;
use follow::{Stamp, listing, tell};
use store::{Notice, Store};
use watcher::Watcher;

mod follow;
mod object;
mod read;
mod store;
mod watcher;

/// Why the manifests cannot be a source of facts. Each error is one clear line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A given path does not exist, or may not be read.
    #[error("manifests: {}: {error}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A given path is something else.
    #[error("manifests: {}: found neither a file nor a folder", .0.display())]
    NeitherFileNorFolder(PathBuf),
    /// These files could not be read at the start: one line each, with file, line and reason.
    #[error("manifests: {}", .0.join("; "))]
    Broken(Vec<String>),
    /// inotify, which tells of changes, cannot be used.
    #[error("manifests: inotify: {0} (too many instances? see /proc/sys/fs/inotify/max_user_instances)")]
    Inotify(io::Error),
}

/// Manifests as a source of events.
#[derive(Debug)]
pub struct ManifestSource {
    given: Vec<PathBuf>,
    /// The given paths that are folders; absolute.
    folders: BTreeSet<PathBuf>,
    /// The given paths that are files; absolute.
    singles: BTreeSet<PathBuf>,
    /// The devices (`st_dev`) that the given folders, and the folders of the given files, were on when something was
    /// there.
    devices: HashMap<PathBuf, u64>,
    node_name: Arc<str>,
    converter: Converter,
    store: Store,
    /// Whether the complete sets were handed out.
    loaded: bool,
    /// Set at the beginning of `load`.
    watcher: Option<Watcher>,
    /// How each file is recognised as unchanged.
    stamps: HashMap<PathBuf, Stamp>,
    /// What cannot be watched or listed, or is not mounted, with what the user was told about it.
    amiss: HashMap<PathBuf, String>,
    /// Whether a file was too young to be read, or is not known to be complete.
    unsettled: bool,
    recheck_at: Instant,
}

impl ManifestSource {
    /// A source of the objects in these files and folders. Of Nodes it sees only `node_name`.
    pub fn new(paths: Vec<PathBuf>, node_name: impl Into<Arc<str>>) -> Self {
        Self {
            given: paths,
            folders: BTreeSet::new(),
            singles: BTreeSet::new(),
            devices: HashMap::new(),
            node_name: node_name.into(),
            converter: Converter::new(),
            store: Store::default(),
            loaded: false,
            watcher: None,
            stamps: HashMap::new(),
            amiss: HashMap::new(),
            unsettled: false,
            recheck_at: Instant::now(),
        }
    }

    /// Reads everything and starts watching. Returns the complete sets, one `Replace` for each kind. Blocks.
    ///
    /// # Errors
    /// If a path is missing or a file is broken: then nothing should be done on the word of the others.
    pub fn load(&mut self) -> Result<Vec<Event>, Error> {
        let started = Instant::now();
        self.store = Store::default(); // left by an attempt that failed
        self.watcher = Some(Watcher::new().map_err(Error::Inotify)?);
        let mut files = BTreeSet::new();
        for path in self.given.clone() {
            let failed = |error| Error::Path { path: path.clone(), error };
            let path = std::path::absolute(&path).map_err(failed)?;
            let metadata = fs::metadata(&path).map_err(failed)?;
            // Watch first, read afterwards: whatever changes in between is seen twice rather than never.
            if metadata.is_dir() {
                self.watch_folder(&path);
                files.extend(listing(&path).map_err(failed)?);
                self.devices.insert(path.clone(), metadata.dev());
                self.folders.insert(path);
            } else if metadata.is_file() {
                self.watch_file(&path);
                files.insert(path.clone());
                self.singles.insert(path);
            } else {
                return Err(Error::NeitherFileNorFolder(path));
            }
        }

        let mut broken = Vec::new();
        let mut bytes = 0;
        for file in &files {
            for notice in self.read(file) {
                match notice {
                    Notice::Warning(line) if self.store.is_broken(file) => broken.push(line),
                    other => tell(other),
                }
            }
            bytes += self.stamps.get(file).map_or(0, |stamp| stamp.size_bytes);
        }
        if !broken.is_empty() {
            return Err(Error::Broken(broken));
        }
        let events = self.store.everything();
        self.loaded = true;
        self.recheck_at = Instant::now() + self.recheck_period();
        tracing::debug!(files = files.len(), bytes, elapsed = ?started.elapsed(), "Read the manifests");
        Ok(events)
    }

    /// Sends the complete sets, unless [`ManifestSource::load`] has given them to the caller already, and then whatever
    /// changes, until `shutdown`, or until nobody listens any more.
    ///
    /// # Errors
    /// Those of [`ManifestSource::load`], or if changes can no longer be noticed.
    pub async fn run(
        mut self,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        if !self.loaded {
            let Some((source, first)) = apart(self, &shutdown, Self::load).await else { return Ok(()) };
            self = source;
            if !send(&events, &shutdown, first?).await {
                return Ok(());
            }
        }
        let descriptor = self.watcher.as_ref().expect("load made it").descriptor();
        let readable = descriptor.and_then(readable).map_err(Error::Inotify)?;
        loop {
            let next = self.store.next_withdrawal().map_or(self.recheck_at, |due| due.min(self.recheck_at));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ready = readable.readable() => ready.map_err(Error::Inotify)?.clear_ready(),
                () = tokio::time::sleep_until(next.into()) => {}
            }
            let Some((source, changes)) = apart(self, &shutdown, Self::refresh).await else { return Ok(()) };
            self = source;
            if !send(&events, &shutdown, changes?).await {
                return Ok(());
            }
        }
    }
}

fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor that is no socket")]
    // SAFETY: an `OwnedFd` is open, and the same one, for as long as it lives, and it lives in the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Runs blocking work where it delays nobody, not even the end of the program when a file system hangs. (Work that
/// hangs is left behind, with the source.)
async fn apart<R: Send + 'static>(
    mut source: ManifestSource,
    shutdown: &CancellationToken,
    work: impl FnOnce(&mut ManifestSource) -> R + Send + 'static,
) -> Option<(ManifestSource, R)> {
    let work = tokio::task::spawn_blocking(move || {
        let result = work(&mut source);
        (source, result)
    });
    match shutdown.run_until_cancelled(work).await? {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await, // the runtime is going down, and this task with it
        },
    }
}

/// Sends events; returns whether there is any point in going on.
async fn send(events: &mpsc::Sender<Event>, shutdown: &CancellationToken, news: Vec<Event>) -> bool {
    for event in news {
        tokio::select! {
            () = shutdown.cancelled() => return false,
            sent = events.send(event) => if sent.is_err() { return false },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_does_not_hold_up_the_end() {
        let shutdown = CancellationToken::new();
        let source = ManifestSource::new(Vec::new(), "here");
        let (end, hangs) = channel::<()>();
        let (begin, begun) = channel();
        let stop = shutdown.clone();
        let stopper = std::thread::spawn(move || {
            begun.recv().unwrap();
            stop.cancel();
        });
        let work = apart(source, &shutdown, move |_| {
            begin.send(()).unwrap();
            hangs.recv()
        });
        let done = tokio::time::timeout(Duration::from_secs(10), work).await.expect("it is left behind");
        assert!(done.is_none());
        stopper.join().unwrap();
        drop(end);
    }
}
