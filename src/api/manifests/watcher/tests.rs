use std::os::unix::fs::symlink;

use super::*;

fn set<const N: usize>(paths: [&Path; N]) -> BTreeSet<PathBuf> {
    paths.into_iter().map(Path::to_owned).collect()
}

#[test]
fn names_of_manifests() {
    for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml"] {
        assert!(is_manifest(OsStr::new(name)), "{name}");
    }
    for name in [
        ".a.yaml",
        "..data",
        "a.yaml~",
        "#a.yaml#",
        ".a.yaml.swp",
        "a.yaml.tmp",
        "a.YAML",
        "yaml",
        ".yaml",
        "4913",
    ] {
        assert!(!is_manifest(OsStr::new(name)), "{name}");
    }
}

#[test]
fn the_way_to_a_file_in_a_config_map() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("..1")).unwrap();
    fs::write(root.join("..1/a.yaml"), "").unwrap();
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    let (links, end) = resolve(&root.join("a.yaml"));
    assert_eq!(links, [(root.clone(), "a.yaml".into()), (root.clone(), "..data".into())]);
    assert_eq!(end, Some((root.join("..1"), "a.yaml".into())));
    assert_eq!(resolve(&root.join("x/../..1/./a.yaml")).1, end);
    // A circle of links ends somewhere.
    symlink("b.yaml", root.join("b.yaml")).unwrap();
    assert_eq!(resolve(&root.join("b.yaml")).0.len(), 40);
    assert_eq!(resolve(Path::new("/")), (vec![], None));
}

#[test]
fn a_file_is_news_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new().unwrap();
    watcher.watch_folder(folder.path()).unwrap();
    assert_eq!(watcher.news().unwrap(), News::default());

    let file = folder.path().join("a.yaml");
    let mut open = fs::File::create(&file).unwrap();
    io::Write::write_all(&mut open, b"half").unwrap();
    fs::write(folder.path().join("other.txt"), "").unwrap();
    assert_eq!(watcher.news().unwrap(), News::default());
    drop(open);
    assert_eq!(watcher.news().unwrap(), News { written: set([&file]), ..News::default() });

    let link = folder.path().join("b.yaml");
    fs::hard_link(&file, &link).unwrap();
    let news = watcher.news().unwrap();
    assert_eq!(news.written, set([&link]));

    // Some programs put a file in its place like this: at the next look it has only one name, and no other event will
    // come.
    let placed = folder.path().join("placed.yaml");
    fs::write(folder.path().join("new"), "whole").unwrap();
    fs::hard_link(folder.path().join("new"), &placed).unwrap();
    fs::remove_file(folder.path().join("new")).unwrap();
    assert_eq!(watcher.news().unwrap(), News { found: set([&placed]), ..News::default() });

    fs::rename(&link, folder.path().join("c.yaml")).unwrap();
    fs::remove_file(&file).unwrap();
    let news = watcher.news().unwrap();
    assert_eq!(news.written, set([&folder.path().join("c.yaml")]));
    assert_eq!(news.vanished, set([&file, &link]));
}

#[test]
fn a_file_is_unfinished_until_it_is_closed_or_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new().unwrap();
    watcher.watch_folder(folder.path()).unwrap();
    let file = folder.path().join("a.yaml");
    let begun = |watcher: &mut Watcher| {
        let mut open = fs::File::create(&file).unwrap();
        io::Write::write_all(&mut open, b"half").unwrap();
        watcher.news().unwrap();
        assert!(watcher.is_unfinished(&file));
        open
    };
    let is_unfinished = |watcher: &mut Watcher| {
        watcher.news().unwrap();
        watcher.is_unfinished(&file)
    };
    drop(begun(&mut watcher));
    assert!(!is_unfinished(&mut watcher));
    let _open = begun(&mut watcher);
    fs::write(folder.path().join("new"), "whole").unwrap();
    fs::rename(folder.path().join("new"), &file).unwrap();
    assert!(!is_unfinished(&mut watcher));
    let _open = begun(&mut watcher);
    fs::remove_file(&file).unwrap();
    assert!(!is_unfinished(&mut watcher));
    // A file that is kept open forever.
    let _open = begun(&mut watcher);
    *watcher.unfinished.get_mut(&file).unwrap() -= ABANDONED;
    assert!(!is_unfinished(&mut watcher));
    // The lost event may have been the end of the write.
    let _open = begun(&mut watcher);
    fs::rename(folder.path(), folder.path().with_extension("old")).unwrap();
    assert!(!is_unfinished(&mut watcher));
    fs::rename(folder.path().with_extension("old"), folder.path()).unwrap();
}

#[test]
fn links_are_followed_to_where_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["given", "target", "one", "two"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let file = root.join("given/a.yaml");
    fs::write(root.join("target/x"), "").unwrap();
    symlink("../target/x", &file).unwrap();
    symlink("one", root.join("current")).unwrap();
    let mut watcher = Watcher::new().unwrap();
    watcher.watch_file(&file).unwrap();
    watcher.watch_folder(&root.join("current")).unwrap();

    fs::write(root.join("target/x"), "new").unwrap();
    fs::write(root.join("target/y"), "other").unwrap();
    assert_eq!(watcher.news().unwrap(), News { written: set([&file]), ..News::default() });

    symlink("two", root.join("next")).unwrap();
    fs::rename(root.join("next"), root.join("current")).unwrap();
    assert_eq!(watcher.news().unwrap(), News { folders: set([&root.join("current")]), ..News::default() });
    watcher.watch_folder(&root.join("current")).unwrap();
    fs::write(root.join("two/b.yaml"), "").unwrap();
    assert_eq!(watcher.news().unwrap().written, set([&root.join("current/b.yaml")]));
}

#[test]
fn a_folder_that_goes_is_a_reason_to_look_at_everything() {
    let folder = tempfile::tempdir().unwrap();
    let given = folder.path().join("given");
    let mut watcher = Watcher::new().unwrap();
    assert!(watcher.watch_folder(&given).is_err());
    for go in
        [|given: &Path| fs::remove_dir(given), |given: &Path| fs::rename(given, given.with_extension("old"))]
    {
        fs::create_dir(&given).unwrap();
        watcher.watch_folder(&given).unwrap();
        go(&given).unwrap();
        assert!(watcher.news().unwrap().everything);
        assert!(watcher.watches.is_empty());
    }
}
