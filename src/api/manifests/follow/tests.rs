use super::*;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
                       spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n";

/// A source of a folder with one file, or of the file, that believes it saw the folder on another device.
fn moved(single: bool) -> (tempfile::TempDir, PathBuf, ManifestSource) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, SERVICE).unwrap();
    let given = if single { file.clone() } else { folder.path().to_owned() };
    let mut source = ManifestSource::new(vec![given], "here");
    source.load().unwrap();
    *source.devices.get_mut(folder.path()).unwrap() += 1;
    (folder, file, source)
}

/// Looks at everything, as after an event about an unmounted file system.
fn look(source: &mut ManifestSource) -> usize {
    let mut news = News { everything: true, ..News::default() };
    source.recheck(&mut news);
    source.digest(news);
    source.store.changes(Instant::now());
    source.store.changes(Instant::now() + Duration::from_secs(2)).len()
}

#[test]
fn a_folder_that_is_empty_on_another_device_says_nothing() {
    let (folder, file, mut source) = moved(false);
    fs::remove_file(&file).unwrap();
    source.watcher().news().unwrap(); // when something is unmounted, no event tells of a file
    assert_eq!(look(&mut source), 0);
    assert_eq!(source.amiss[folder.path()], NOT_MOUNTED);
    assert_eq!(source.recheck_period(), RECHECK_SOON);
    // A manifest without objects says that there is nothing.
    fs::write(folder.path().join("none.yaml"), "# nothing\n").unwrap();
    assert_eq!(look(&mut source), 1);
    assert!(source.amiss.is_empty());
    // From then on, the folder's device is this one.
    fs::remove_file(folder.path().join("none.yaml")).unwrap();
    source.watcher().news().unwrap();
    look(&mut source);
    assert!(source.amiss.is_empty());
    assert_eq!(source.store.paths().count(), 0);
}

#[test]
fn a_folder_that_is_empty_on_its_device_is_empty() {
    let (folder, file, mut source) = moved(false);
    *source.devices.get_mut(folder.path()).unwrap() -= 1;
    fs::remove_file(&file).unwrap();
    source.watcher().news().unwrap();
    assert_eq!(look(&mut source), 1);
}

#[test]
fn a_file_that_is_missing_on_another_device_says_nothing() {
    let (folder, file, mut source) = moved(true);
    fs::remove_file(&file).unwrap();
    source.watcher().news().unwrap();
    assert_eq!(look(&mut source), 0);
    assert!(source.store.is_broken(&file));
    // The file is back, and then deleted from the device that it is on now.
    fs::write(&file, SERVICE).unwrap();
    source.watcher().news().unwrap();
    fs::File::open(&file).unwrap().set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
    assert_eq!(look(&mut source), 0);
    assert!(!source.store.is_broken(&file));
    fs::remove_file(&file).unwrap();
    source.watcher().news().unwrap();
    assert_eq!(look(&mut source), 1);
    drop(folder);
}

/// A source of a folder with one file, which somebody emptied a while ago and still has open.
fn emptied() -> (tempfile::TempDir, PathBuf, ManifestSource, fs::File) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, SERVICE).unwrap();
    let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
    source.load().unwrap();
    let open = fs::File::create(&file).unwrap();
    open.set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
    source.refresh().unwrap();
    (folder, file, source, open)
}

/// This is what `kubectl get ... > a.yaml` does with a slow server.
#[test]
fn a_file_in_the_making_is_not_looked_at() {
    let (folder, file, mut source, mut open) = emptied();
    assert_eq!(look(&mut source), 0);
    assert_eq!(source.recheck_period(), RECHECK, "its own event comes");
    // The file is written up to the end of one object.
    std::io::Write::write_all(&mut open, b"---\n").unwrap();
    open.set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
    source.refresh().unwrap();
    assert_eq!(look(&mut source), 0);
    drop(open);
    source.refresh().unwrap();
    assert_eq!(look(&mut source), 1, "that is all there is");
    // A new file takes the place of one that was moved away.
    fs::write(&file, SERVICE).unwrap();
    source.refresh().unwrap();
    fs::rename(&file, folder.path().join("a.yaml~")).unwrap();
    let open = fs::File::create(&file).unwrap();
    open.set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
    source.refresh().unwrap();
    assert_eq!(look(&mut source), 0);
    drop(open);
}

#[test]
fn a_file_that_is_written_again_at_once_is_read_when_that_ends() {
    let (_folder, file, mut source, open) = emptied();
    drop(open);
    let mut open = fs::File::create(&file).unwrap();
    source.refresh().unwrap();
    assert_eq!(look(&mut source), 0);
    std::io::Write::write_all(&mut open, SERVICE.as_bytes()).unwrap();
    drop(open);
    source.refresh().unwrap();
    assert_eq!(look(&mut source), 0, "nothing changed");
    assert_eq!(source.stamps[&file].size_bytes, SERVICE.len() as u64);
}

/// What is reported about a file when it is read again.
fn verdict(source: &mut ManifestSource, file: &Path) -> String {
    match &source.read(file)[..] {
        [Notice::Warning(line)] => line.clone(),
        others => panic!("{others:?}"),
    }
}

#[test]
fn what_is_no_file_any_more_keeps_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, SERVICE).unwrap();
    // A folder that was never a file is ignored.
    fs::create_dir(folder.path().join("b.yaml")).unwrap();
    let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
    source.load().unwrap();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let said = verdict(&mut source, &file);
    assert!(said.contains("a.yaml") && said.contains("is no longer a regular file"), "{said}");
    assert_eq!(look(&mut source), 0, "nothing is withdrawn");
    assert!(source.store.is_broken(&file));
    assert_eq!(source.store.paths().count(), 1);
}

#[test]
fn a_file_that_is_mostly_a_hole_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, SERVICE).unwrap();
    let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
    source.load().unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(4 << 40).unwrap();
    let said = verdict(&mut source, &file);
    assert!(said.contains("a.yaml") && said.contains("is larger than 1024 MiB"), "{said}");
    assert_eq!(look(&mut source), 0, "nothing is withdrawn");
}

/// This is a folder whose links have hashes in their names and lead into a store that keeps old content.
#[test]
fn links_that_are_gone_are_forgotten_with_the_way_they_led() {
    let (folder, file, mut source) = moved(false);
    let (given, store) = (folder.path().canonicalize().unwrap(), tempfile::tempdir().unwrap());
    source.refresh().unwrap();
    let before = source.watcher().watched();
    assert_eq!(before.len(), 1, "{before:?}");
    for number in 0..3 {
        let stored = store.path().join(format!("{number}"));
        fs::create_dir(&stored).unwrap();
        fs::write(stored.join("web.yaml"), SERVICE).unwrap();
        let link = given.join(format!("web-{number}.yaml"));
        std::os::unix::fs::symlink(stored.join("web.yaml"), &link).unwrap();
        source.refresh().unwrap();
        assert_eq!(source.watcher().watched().len(), 2, "the folder of its end, too");
        // The link's target may be exchanged in two steps.
        fs::remove_file(stored.join("web.yaml")).unwrap();
        source.refresh().unwrap();
        fs::write(stored.join("web.yaml"), SERVICE).unwrap();
        source.refresh().unwrap();
        assert!(source.store.paths().any(|path| path.ends_with(link.file_name().unwrap())));
        fs::remove_file(&link).unwrap();
        source.refresh().unwrap();
        assert_eq!(source.watcher().watched(), before);
    }
    assert!(source.store.paths().eq([&file]));
}
