//! A configuration file that is written to or renamed ends the program, which is then started anew (contract 2.4).
//!
//! The watch is on the file itself, as in kube-proxy, and not on its name: the update of a `ConfigMap`, whose files are
//! swapped behind a link, does not end every proxy of a cluster at once.

use std::path::Path;
use std::thread;

use anyhow::{Context as _, bail};
use inotify::{Inotify, WatchMask};
use tokio::sync::oneshot;

/// Starts to watch the file. The returned task ends when the file has changed, or cannot be watched any more.
///
/// # Errors
/// The file cannot be watched.
pub(super) fn watch(path: &Path) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let mut inotify = Inotify::init().context("cannot watch files")?;
    let mask = WatchMask::MODIFY | WatchMask::MOVE_SELF;
    inotify.watches().add(path, mask).with_context(|| format!("cannot watch --config={}", path.display()))?;
    let (changed, news) = oneshot::channel();
    // A thread that mostly sleeps: the inotify crate's own stream would need more of its features, for one event.
    let wait = move || {
        let mut buffer = [0; 1024];
        // Both kinds of change mean the same here. A removed file yields one event, IGNORED, which says that its watch
        // is gone, and then never another one.
        let event = loop {
            let events = inotify.read_events_blocking(&mut buffer);
            let told = |mut events: inotify::Events<'_>| {
                events.any(|event| !event.mask.contains(inotify::EventMask::IGNORED))
            };
            match events.map(told) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        // Nobody listens any more when the program ends.
        let _ = changed.send(event);
    };
    thread::Builder::new().name("config".to_owned()).spawn(wait).context("cannot watch --config")?;
    Ok(async {
        news.await.context("the thread that watches --config is gone")?.context("cannot watch --config")?;
        bail!("content of the proxy server's configuration file was updated")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Duration;

    use super::*;

    /// Whether the program ends when `what` is done to the file.
    async fn ends(what: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.conf");
        fs::create_dir(folder.path().join("first")).unwrap();
        fs::write(folder.path().join("first/config.conf"), "a").unwrap();
        // As in a ConfigMap: the file is a link, behind a link that is swapped.
        symlink("first", folder.path().join("..data")).unwrap();
        symlink("..data/config.conf", &file).unwrap();
        let changed = watch(&file).unwrap();
        what(folder.path());
        match tokio::time::timeout(Duration::from_millis(300), changed).await {
            Err(_) => false,
            Ok(ended) => {
                let error = ended.unwrap_err().to_string();
                assert_eq!(error, "content of the proxy server's configuration file was updated");
                true
            }
        }
    }

    #[tokio::test]
    async fn writing_and_renaming_end_the_program() {
        assert!(ends(|folder| fs::write(folder.join("config.conf"), "b").unwrap()).await);
        assert!(ends(|folder| fs::rename(folder.join("first/config.conf"), folder.join("x")).unwrap()).await);
    }

    #[tokio::test]
    async fn nothing_else_does() {
        assert!(!ends(|_| {}).await);
        assert!(!ends(|folder| drop(fs::read(folder.join("config.conf")).unwrap())).await);
        assert!(
            !ends(|folder| {
                let permissions = fs::Permissions::from_mode(0o600);
                fs::set_permissions(folder.join("config.conf"), permissions).unwrap();
            })
            .await
        );
        // The update of a ConfigMap.
        assert!(
            !ends(|folder| {
                fs::create_dir(folder.join("second")).unwrap();
                fs::write(folder.join("second/config.conf"), "b").unwrap();
                symlink("second", folder.join("new")).unwrap();
                fs::rename(folder.join("new"), folder.join("..data")).unwrap();
                fs::remove_dir_all(folder.join("first")).unwrap();
            })
            .await
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = watch(Path::new("/does/not/exist")).err().unwrap();
        assert_eq!(
            format!("{error:#}"),
            "cannot watch --config=/does/not/exist: No such file or directory (os error 2)"
        );
    }
}
