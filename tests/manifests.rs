//! The manifests source on real folders: what people and tools do to files, and the events that result.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kube_ipvs::api::manifests::{Error, ManifestSource};
use kube_ipvs::api::{Change, Event};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a withdrawal is delayed.
const CALM: Duration = Duration::from_millis(1500);

/// A Service of this name; `address` is the last byte of its address.
fn service(name: &str, address: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.0.0.{address}, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn slice(name: &str, service: &str, address: u8) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.1.0.{address}]}}]\n---\n"
    )
}

fn names<K, T>(
    change: &Change<K, T>,
    all: &str,
    name: impl Fn(&T) -> String,
    key: impl Fn(&K) -> String,
) -> String {
    match change {
        Change::Upsert(object) => name(object),
        Change::Delete(gone) => format!("{} gone", key(gone)),
        Change::Replace(objects) => {
            format!("{all} {}", objects.iter().map(name).collect::<Vec<_>>().join(", ")).trim_end().to_owned()
        }
    }
}

/// Events in short: `a=10.0.0.1`, `a gone`, `services: a=10.0.0.1, b=10.0.0.2`.
fn short(event: &Event) -> String {
    match event {
        Event::Service(change) => names(
            change,
            "services:",
            |service| format!("{}={}", service.key.name(), service.cluster_ips[0]),
            |key| key.name().to_owned(),
        ),
        Event::Slice(change) => names(
            change,
            "slices:",
            |slice| format!("{}={}", slice.key.name(), slice.endpoints[0].address),
            |key| key.name().to_owned(),
        ),
        Event::Node(change) => names(change, "nodes:", |node| node.name.to_string(), ToString::to_string),
        event @ (Event::NodeAddresses(_) | Event::OtherNode(_)) => panic!("not from manifests: {event:?}"),
    }
}

struct Running {
    folder: TempDir,
    events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// A source of a folder with these files.
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let paths = vec![folder.path().to_owned()];
        Self::of(folder, paths)
    }

    fn of(folder: TempDir, paths: Vec<PathBuf>) -> Self {
        let source = ManifestSource::new(paths, "here");
        let shutdown = CancellationToken::new();
        let (sender, events) = mpsc::channel(100);
        let task = tokio::spawn(source.run(sender, shutdown.clone()));
        Self { folder, events, shutdown, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    async fn next(&mut self) -> String {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        short(&event.expect("the source runs"))
    }

    async fn first(&mut self) -> [String; 3] {
        [self.next().await, self.next().await, self.next().await]
    }

    async fn quiet(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.events.recv()).await {
            panic!("unexpected: {:?}", event.map(|event| short(&event)));
        }
    }

    /// Waits until everything done so far has been noticed, although nothing may be reported about it: news come in
    /// order.
    async fn noticed(&mut self) {
        let name = format!("last{}", self.folder.path().read_dir().expect("a folder").count());
        self.write(&format!("{name}.yaml"), &service(&name, 99));
        assert_eq!(self.next().await, format!("{name}=10.0.0.99"));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

#[tokio::test]
async fn the_complete_sets_come_first() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: NAME}\n---\n";
    let mut running = Running::with(&[
        ("b.yaml", &(service("b", 2) + &node.replace("NAME", "elsewhere"))),
        ("a.yml", &(service("a", 1) + &slice("a-1", "a", 1))),
        ("c.json", r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod"}]}"#),
        ("d.yaml", &node.replace("NAME", "here")),
        ("notes.txt", "not: [yaml"),
        (".hidden.yaml", "not: [yaml"),
    ]);
    assert_eq!(
        running.first().await,
        ["services: a=10.0.0.1, b=10.0.0.2", "slices: a-1=10.1.0.1", "nodes: here"]
    );
    running.quiet(CALM).await;
    running.stop().await;
}

#[tokio::test]
async fn an_empty_folder_is_a_complete_set_too() {
    let mut running = Running::with(&[]);
    assert_eq!(running.first().await, ["services:", "slices:", "nodes:"]);
    running.write("a.yaml", &service("a", 1));
    assert_eq!(running.next().await, "a=10.0.0.1");
    running.stop().await;
}

#[tokio::test]
async fn files_are_added_changed_and_deleted() {
    let mut running = Running::with(&[("a.yaml", &service("a", 1))]);
    running.first().await;
    running.write("b.yaml", &(service("b", 2) + &slice("b-1", "b", 1)));
    assert_eq!(running.next().await, "b=10.0.0.2");
    assert_eq!(running.next().await, "b-1=10.1.0.1");
    running.write("b.yaml", &(service("b", 2) + &slice("b-1", "b", 7)));
    assert_eq!(running.next().await, "b-1=10.1.0.7");
    fs::remove_file(running.path("b.yaml")).expect("removed");
    assert_eq!(running.next().await, "b gone");
    assert_eq!(running.next().await, "b-1 gone");
    fs::rename(running.path("a.yaml"), running.path("a.yaml.off")).expect("renamed");
    assert_eq!(running.next().await, "a gone");
    running.stop().await;
}

#[tokio::test]
async fn a_change_comes_at_once() {
    let mut running = Running::with(&[("a.yaml", &service("a", 1))]);
    running.first().await;
    let mut fastest = PATIENCE;
    for address in 2..20 {
        let since = Instant::now();
        running.write("a.yaml", &service("a", address));
        assert_eq!(running.next().await, format!("a=10.0.0.{address}"));
        fastest = fastest.min(since.elapsed());
    }
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
    running.stop().await;
}

#[tokio::test]
async fn nothing_changed_nothing_said() {
    let mut running = Running::with(&[("a.yaml", &(service("a", 1) + &service("b", 2)))]);
    running.first().await;
    running.write("a.yaml", &(service("b", 2) + "# only a comment\n---\n" + &service("a", 1)));
    running.noticed().await;
    running.write("other.txt", &service("other", 3));
    running.quiet(CALM).await;
    running.stop().await;
}

#[tokio::test]
async fn editors_do_not_interrupt_anything() {
    let mut running = Running::with(&[("a.yaml", &(service("a", 1) + &service("b", 2)))]);
    running.first().await;
    // An editor that writes a new file and renames it over the old one.
    running.write(".a.yaml.tmp", &(service("a", 3) + &service("b", 2)));
    fs::rename(running.path(".a.yaml.tmp"), running.path("a.yaml")).expect("renamed");
    assert_eq!(running.next().await, "a=10.0.0.3");
    // An editor that moves the old file away, and takes its time.
    fs::rename(running.path("a.yaml"), running.path("a.yaml~")).expect("renamed");
    running.noticed().await;
    let mut file = fs::File::create(running.path("a.yaml")).expect("a file");
    file.write_all(service("a", 4).as_bytes()).expect("written");
    running.quiet(Duration::from_millis(100)).await;
    file.write_all(service("b", 2).as_bytes()).expect("written");
    drop(file);
    assert_eq!(running.next().await, "a=10.0.0.4");
    running.quiet(CALM).await;
    running.stop().await;
}

/// The second editor, and a mistake in what it writes.
#[tokio::test]
async fn a_broken_file_that_replaces_one_moved_away_withdraws_nothing() {
    for broken in ["kind: [".to_owned(), service("a", 4).replace("port: 80", "port: 0") + &service("b", 2)] {
        let mut running = Running::with(&[("a.yaml", &(service("a", 1) + &service("b", 2)))]);
        running.first().await;
        fs::rename(running.path("a.yaml"), running.path("a.yaml~")).expect("renamed");
        running.noticed().await;
        running.write("a.yaml", &broken);
        running.noticed().await;
        running.quiet(CALM).await;
        running.write("a.yaml", &(service("a", 5) + &service("b", 2)));
        assert_eq!(running.next().await, "a=10.0.0.5");
        running.quiet(CALM).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn objects_that_move_between_files_stay() {
    let mut running = Running::with(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 2))]);
    running.first().await;
    fs::rename(running.path("a.yaml"), running.path("z.yaml")).expect("renamed");
    running.write("b.yaml", "# moved to c.yaml");
    running.write("c.yaml", &service("b", 3));
    assert_eq!(running.next().await, "b=10.0.0.3");
    running.quiet(CALM).await;
    running.stop().await;
}

/// An empty file is what a failed `kubectl get ... > FILE` leaves, and what there is while it runs.
#[tokio::test]
async fn a_file_without_a_byte_says_nothing() {
    let mut running = Running::with(&[("a.yaml", &service("a", 1))]);
    running.first().await;
    running.write("a.yaml", "");
    running.quiet(CALM).await;
    running.write("a.yaml", "---");
    assert_eq!(running.next().await, "a gone");
    running.stop().await;

    for name in ["a.yaml", "a.json"] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(name), "").expect("a file");
        let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
        let error = source.load().expect_err("nothing is done at its word").to_string();
        assert!(error.contains(name) && error.contains("has no content, perhaps because"), "{error}");
    }
}

/// No event says that such a file is complete.
#[tokio::test]
async fn a_file_that_is_put_in_its_place_by_a_link_is_read_soon() {
    let mut running = Running::with(&[]);
    running.first().await;
    running.write("new", &service("a", 1));
    fs::hard_link(running.path("new"), running.path("a.yaml")).expect("linked");
    fs::remove_file(running.path("new")).expect("removed");
    assert_eq!(running.next().await, "a=10.0.0.1");
    running.stop().await;
}

#[tokio::test]
async fn a_file_half_written_is_not_read() {
    let mut running = Running::with(&[("a.yaml", &(service("a", 1) + &service("b", 2)))]);
    running.first().await;
    let mut file = fs::File::create(running.path("a.yaml")).expect("a file");
    file.write_all(service("a", 5).as_bytes()).expect("written");
    // Meanwhile something else happens.
    running.write("c.yaml", &service("c", 3));
    assert_eq!(running.next().await, "c=10.0.0.3");
    running.quiet(CALM).await;
    file.write_all(service("b", 6).as_bytes()).expect("written");
    drop(file);
    assert_eq!(running.next().await, "a=10.0.0.5");
    assert_eq!(running.next().await, "b=10.0.0.6");
    running.stop().await;
}

#[tokio::test]
async fn a_broken_file_withdraws_nothing_until_it_is_mended() {
    let mut running = Running::with(&[("a.yaml", &service("a", 1)), ("b.json", "{}")]);
    running.first().await;
    let whole = service("a", 1) + &service("b", 2);
    running.write("a.yaml", &whole[..whole.len() - 30]);
    running.noticed().await;
    running.quiet(CALM).await;
    running.write("a.yaml", &whole);
    assert_eq!(running.next().await, "b=10.0.0.2");
    running.stop().await;
}

#[tokio::test]
async fn a_bad_object_is_skipped_and_keeps_what_it_was() {
    let text = service("a", 1) + &service("bad", 0).replace("port: 80", "port: 0");
    let mut running = Running::with(&[("a.yaml", &text)]);
    assert_eq!(
        running.first().await[0],
        "services: a=10.0.0.1",
        "not even at the start does it stop the others"
    );
    running.write("a.yaml", &(service("a", 1).replace("10.0.0.1", "10.0.0.999") + &service("b", 2)));
    assert_eq!(running.next().await, "b=10.0.0.2");
    running.quiet(CALM).await;
    running.stop().await;
}

#[tokio::test]
async fn the_first_of_two_files_has_an_object() {
    let mut running = Running::with(&[("b.yaml", &service("a", 2))]);
    running.first().await;
    running.write("a.yaml", &service("a", 1));
    assert_eq!(running.next().await, "a=10.0.0.1");
    running.write("b.yaml", &service("a", 3));
    fs::remove_file(running.path("a.yaml")).expect("removed");
    assert_eq!(running.next().await, "a=10.0.0.3");
    running.quiet(CALM).await;
    running.stop().await;
}

/// Updates a volume as kubelet does.
fn publish(root: &Path, version: &str, files: &[(&str, &str)]) {
    fs::create_dir(root.join(version)).expect("a folder");
    for (name, text) in files {
        fs::write(root.join(version).join(name), text).expect("a file");
    }
    let old = fs::read_link(root.join("..data")).ok();
    symlink(version, root.join("..data_tmp")).expect("a link");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    for (name, _) in files {
        let _ = symlink(Path::new("..data").join(name), root.join(name)); // there already, or not
    }
    if let Some(old) = old {
        for entry in fs::read_dir(root.join(&old)).expect("a folder").map(|entry| entry.expect("an entry")) {
            if !root.join(version).join(entry.file_name()).exists() {
                fs::remove_file(root.join(entry.file_name())).expect("removed");
            }
        }
        fs::remove_dir_all(root.join(old)).expect("removed");
    }
}

#[tokio::test]
async fn a_config_map_changes_by_a_swapped_link() {
    for single in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        publish(folder.path(), "..1", &[("a.yaml", &service("a", 1))]);
        let path = if single { folder.path().join("a.yaml") } else { folder.path().to_owned() };
        let mut running = Running::of(folder, vec![path]);
        running.first().await;
        publish(running.folder.path(), "..2", &[("a.yaml", &service("a", 2))]);
        assert_eq!(running.next().await, "a=10.0.0.2");
        publish(
            running.folder.path(),
            "..3",
            &[("a.yaml", &(service("a", 3))), ("b.yaml", &service("b", 4))],
        );
        assert_eq!(running.next().await, "a=10.0.0.3");
        if !single {
            assert_eq!(running.next().await, "b=10.0.0.4");
            publish(running.folder.path(), "..4", &[("b.yaml", &service("b", 4))]);
            assert_eq!(running.next().await, "a gone");
        }
        running.quiet(CALM).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_was_given_goes_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("manifest"); // any name will do, if it is given
    fs::write(&path, service("a", 1)).expect("a file");
    let mut running = Running::of(folder, vec![path.clone(), path.clone()]);
    assert_eq!(running.first().await[0], "services: a=10.0.0.1");
    running.write("other.yaml", &service("other", 9));
    fs::remove_file(&path).expect("removed");
    assert_eq!(running.next().await, "a gone");
    fs::write(&path, service("a", 2)).expect("a file");
    assert_eq!(running.next().await, "a=10.0.0.2");
    running.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_away_says_nothing() {
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("manifests");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("a.yaml"), service("a", 1)).expect("a file");
    let mut running = Running::of(top, vec![folder.clone()]);
    running.first().await;
    fs::rename(&folder, folder.with_extension("away")).expect("renamed");
    running.quiet(CALM).await;
    let away = folder.with_extension("away");
    fs::write(away.join("b.yaml"), service("b", 2)).expect("a file");
    fs::rename(&away, &folder).expect("renamed");
    assert_eq!(running.next().await, "b=10.0.0.2");
    fs::write(folder.join("a.yaml"), service("a", 3)).expect("a file");
    assert_eq!(running.next().await, "a=10.0.0.3", "it is watched again");
    running.stop().await;
}

#[test]
fn at_the_start_a_missing_path_or_a_broken_file_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    // As the program prints it, with all causes.
    let load = |path: PathBuf| {
        let error = ManifestSource::new(vec![path], "here").load().expect_err("an error");
        format!("{:#}", anyhow::Error::from(error))
    };
    let missing = folder.path().join("missing");
    assert_eq!(
        load(missing.clone()),
        format!("manifests: {}: No such file or directory (os error 2)", missing.display())
    );
    assert_eq!(load("/dev/null".into()), "manifests: /dev/null: found neither a file nor a folder");

    fs::write(folder.path().join("a.yaml"), service("a", 1)).expect("a file");
    fs::write(folder.path().join("b.yaml"), "kind: Service\nspec: [\n").expect("a file");
    let line = load(folder.path().to_owned());
    assert!(line.starts_with(&format!("manifests: {}/b.yaml:3: ", folder.path().display())), "{line}");
    assert!(!line.contains('\n'), "{line}");

    let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
    for _ in 0..2 {
        assert!(matches!(source.load(), Err(Error::Broken(_))), "it does not go away by asking again");
    }

    symlink("nowhere", folder.path().join("c.yaml")).expect("a link");
    let line = load(folder.path().to_owned());
    assert!(line.ends_with("/c.yaml: No such file or directory (os error 2)"), "{line}");
}

#[tokio::test]
async fn loaded_before_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.yaml");
    fs::write(&path, service("a", 1)).expect("a file");
    let mut source = ManifestSource::new(vec![folder.path().to_owned()], "here");
    let first: Vec<String> = source.load().expect("good files").iter().map(short).collect();
    assert_eq!(first, ["services: a=10.0.0.1", "slices:", "nodes:"]);
    fs::write(&path, service("a", 2)).expect("a file");
    let (sender, mut events) = mpsc::channel(1);
    let task = tokio::spawn(source.run(sender, CancellationToken::new()));
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
    assert_eq!(short(&event), "a=10.0.0.2", "what changed in between is not lost, and nothing is sent twice");
    drop(events);
    fs::write(&path, service("a", 3)).expect("a file");
    tokio::time::timeout(PATIENCE, task)
        .await
        .expect("nobody listens: it ends")
        .expect("no panic")
        .expect("well");
}
