use super::super::read;
use super::*;
use crate::api::convert::Converter;

/// A store, a clock, and short names for what happens.
struct World {
    store: Store,
    now: Instant,
}

/// A Service of this name, with its address's last byte; 0 makes it unusable.
fn service(name: &str, address: u8) -> String {
    let port = if address == 0 { 0 } else { 80 };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.0.0.{address}, ports: [{{port: {port}}}]}}\n---\n"
    )
}

/// A slice with these endpoints, each the last byte of an address.
fn slice(endpoints: &[&str]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|last| format!("{{addresses: [10.1.0.{last}]}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\n\
         endpoints: [{}]\n---\n",
        endpoints.join(", ")
    )
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut world = Self { store: Store::default(), now: Instant::now() };
        for (path, text) in files {
            assert_eq!(world.write(path, text), [""; 0]);
        }
        world.store.everything();
        world
    }

    fn write(&mut self, path: &str, text: &str) -> Vec<String> {
        let notices = match read::read(text.as_bytes(), false, &mut Converter::new(), "") {
            Ok(content) => self.store.readable(Path::new(path), content),
            Err(broken) => self.store.unreadable(Path::new(path), broken).into_iter().collect(),
        };
        let line = |notice| match notice {
            Notice::Warning(line) => line,
            Notice::Mended(path) => format!("{} mended", path.display()),
        };
        notices.into_iter().map(line).collect()
    }

    /// The files, and whether they are broken.
    fn files(&self) -> Vec<(&str, bool)> {
        self.store.files.iter().map(|(path, file)| (path.to_str().expect("text"), file.broken)).collect()
    }

    fn delete(&mut self, path: &str) {
        self.store.gone(Path::new(path));
    }

    fn changes(&mut self) -> Vec<String> {
        let short = |event| match event {
            Event::Service(Change::Upsert(service)) => {
                format!("{} {}", service.key.name(), service.cluster_ips[0])
            }
            Event::Service(Change::Delete(key)) => format!("{} gone", key.name()),
            Event::Slice(Change::Upsert(slice)) => format!("slice of {}", slice.endpoints.len()),
            Event::Slice(Change::Delete(_)) => "slice gone".to_owned(),
            other => panic!("{other:?}"),
        };
        self.store.changes(self.now).into_iter().map(short).collect()
    }

    fn later(&mut self) -> Vec<String> {
        self.now += GRACE;
        self.changes()
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn only_differences_are_sent() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2)))]);
    assert_eq!(world.changes(), NOTHING);
    world.write("f", &(service("b", 2) + "# a comment\n" + &service("a", 1)));
    assert_eq!(world.changes(), NOTHING);
    world.write("f", &(service("a", 3) + &service("b", 2) + &service("c", 4)));
    assert_eq!(world.changes(), ["a 10.0.0.3", "c 10.0.0.4"]);
    world.write("g", &service("d", 5));
    assert_eq!(world.changes(), ["d 10.0.0.5"]);
    assert_eq!(world.later(), NOTHING);
}

#[test]
fn the_complete_sets_are_sorted_and_there_even_when_empty() {
    let events = Store::default().everything();
    assert_eq!(
        events,
        [
            Event::Service(Change::Replace(vec![])),
            Event::Slice(Change::Replace(vec![])),
            Event::Node(Change::Replace(vec![])),
        ]
    );
    let mut world = World::new(&[("g", &service("a", 1)), ("f", &(slice(&["1"]) + &service("b", 1)))]);
    let events = world.store.everything();
    let Event::Service(Change::Replace(services)) = &events[0] else { panic!("{events:?}") };
    assert_eq!(services.iter().map(|service| service.key.name()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(&events[1], Event::Slice(Change::Replace(slices)) if slices.len() == 1));
}

#[test]
fn what_disappears_is_withdrawn_a_little_later() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2) + &slice(&["1"])))]);
    world.write("f", &service("b", 2));
    assert_eq!(world.changes(), NOTHING);
    assert_eq!(world.store.next_withdrawal(), Some(world.now + GRACE));
    assert_eq!(world.later(), ["a gone", "slice gone"]);
    assert_eq!(world.store.next_withdrawal(), None);
    world.delete("f");
    assert_eq!(world.changes(), NOTHING);
    assert_eq!(world.later(), ["b gone"]);
    world.write("f", &service("b", 2));
    assert_eq!(world.changes(), ["b 10.0.0.2"]);
}

#[test]
fn what_comes_back_in_time_was_never_gone() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2)))]);
    world.delete("f");
    assert_eq!(world.changes(), NOTHING);
    world.now += GRACE / 2;
    assert_eq!(
        world.write("g", &(service("a", 1) + &service("b", 3))),
        NOTHING,
        "no double: the other is gone"
    );
    assert_eq!(world.changes(), ["b 10.0.0.3"]);
    assert_eq!(world.later(), NOTHING);
    assert_eq!(world.store.next_withdrawal(), None);
}

#[test]
fn a_broken_file_keeps_its_last_good_content() {
    let mut world = World::new(&[("f", &service("a", 1))]);
    let told = world.write("f", "kind: [");
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("f:2: ") && told[0].ends_with("; its last good content stays in force"),
        "{told:?}"
    );
    assert_eq!(world.write("f", "kind: ["), NOTHING, "told once");
    assert_eq!(world.later(), NOTHING);
    assert_eq!(world.files(), [("f", true)]);
    assert_eq!(world.write("f", &service("a", 2)), ["f mended"]);
    assert_eq!(world.changes(), ["a 10.0.0.2"]);
    assert_eq!(world.files(), [("f", false)]);
    assert_eq!(world.write("f", "kind: [").len(), 1, "told anew");
    // A file that is deleted while it is broken is gone all the same.
    world.delete("f");
    assert_eq!(world.changes(), NOTHING);
    assert_eq!(world.later(), ["a gone"]);
    assert_eq!(world.files(), []);
}

#[test]
fn a_file_that_comes_back_broken_keeps_its_last_good_content() {
    for (broken, whole) in [("kind: [".to_owned(), true), (service("a", 0) + &service("b", 2), false)] {
        let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2)))]);
        world.delete("f");
        assert_eq!(world.changes(), NOTHING);
        world.now += GRACE / 2;
        let told = world.write("f", &broken);
        assert!(told.len() == 1 && told[0].ends_with("; its last good content stays in force"), "{told:?}");
        assert_eq!(world.changes(), NOTHING);
        assert_eq!(world.store.next_withdrawal(), None);
        assert_eq!(world.later(), NOTHING);
        assert_eq!(world.files(), [("f", whole)]);
        // Once more, as an editor does it: the last good content still holds.
        world.delete("f");
        world.changes();
        assert_eq!(world.write("f", &broken), NOTHING, "told once");
        assert_eq!(world.later(), NOTHING);
        // Then the file is deleted for good.
        world.delete("f");
        world.changes();
        assert_eq!(world.later(), ["a gone", "b gone"]);
        assert_eq!(world.files(), []);
        assert!(world.store.departed.is_empty());
        let told = world.write("f", &broken);
        assert!(
            told.len() == 1 && !told[0].contains("last good"),
            "what was withdrawn is forgotten: {told:?}"
        );
    }
}

#[test]
fn what_another_file_has_by_then_is_not_taken_back() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2) + &service("c", 3)))]);
    world.delete("f");
    world.changes();
    assert_eq!(world.write("g", &service("a", 5)), NOTHING);
    assert_eq!(world.write("f", "kind: [").len(), 1);
    assert_eq!(world.changes(), ["a 10.0.0.5"]);
    assert_eq!(world.later(), NOTHING);
    assert_eq!(world.write("f", &(service("b", 4))), ["f mended"]);
    assert_eq!(world.changes(), ["b 10.0.0.4"]);
    assert_eq!(world.later(), ["c gone"]);
    world.delete("g");
    world.changes();
    assert_eq!(world.later(), ["a gone"]);
}

#[test]
fn a_file_that_was_never_good() {
    let mut world = World::new(&[]);
    let told = world.write("f", "kind: [");
    assert!(!told[0].contains("last good"), "{told:?}");
    assert_eq!(world.later(), NOTHING);
    assert_eq!(world.write("f", &service("a", 1)), ["f mended"]);
    assert_eq!(world.changes(), ["a 10.0.0.1"]);
}

#[test]
fn a_bad_object_keeps_its_last_good_content_and_is_told_once() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2)))]);
    let told = world.write("f", &(service("a", 0) + &service("b", 3)));
    assert_eq!(
        told,
        [
            "f:4: Service default/a: spec.ports[0].port: found 0, allowed 1 to 65535; its last good content stays in force"
        ]
    );
    assert_eq!(world.changes(), ["b 10.0.0.3"]);
    assert_eq!(world.write("f", &("# moved\n".to_owned() + &service("a", 0) + &service("b", 3))), NOTHING);
    assert_eq!(world.later(), NOTHING);
    // The object is removed for good.
    world.write("f", &service("b", 3));
    world.changes();
    assert_eq!(world.later(), ["a gone"]);
}

#[test]
fn an_object_that_lost_its_name_may_be_any() {
    let mut world = World::new(&[("f", &(service("a", 1) + &service("b", 2)))]);
    world.write("f", &(service("''", 1) + &service("b", 3)));
    assert_eq!(world.changes(), ["b 10.0.0.3"]);
    assert_eq!(world.later(), NOTHING);
}

#[test]
fn a_flawed_slice_is_used_only_where_there_was_no_better() {
    let mut world = World::new(&[]);
    let told = world.write("f", &slice(&["1", "999"]));
    assert!(told.len() == 1 && !told[0].contains("last good"), "{told:?}");
    assert_eq!(world.changes(), ["slice of 1"]);
    world.write("f", &slice(&["1", "2", "999"]));
    assert_eq!(world.changes(), ["slice of 2"]);
    assert_eq!(world.write("f", &slice(&["1", "2", "3"])), NOTHING);
    assert_eq!(world.changes(), ["slice of 3"]);
    let told = world.write("f", &slice(&["1", "2", "999"]));
    assert!(told.len() == 1 && told[0].ends_with("; its last good content stays in force"), "{told:?}");
    assert_eq!(world.changes(), NOTHING);
    world.write("f", &slice(&["1", "2"]));
    assert_eq!(world.changes(), ["slice of 2"]);
}

/// A part that is closed because it cannot be read is closed at once, and no other part of a change waits for it: as
/// after a restart, which knows no older version.
#[test]
fn a_service_of_which_something_is_left_out_applies() {
    let balanced = |port: u16, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n\
             spec: {{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{{port: {port}}}], {spec}}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}\n"
        )
    };
    for (change, addresses, remark) in [
        ("loadBalancerSourceRanges: [198.51.100.0/24, nonsense]", 0, "are not served)"),
        (
            "loadBalancerSourceRanges: [2001:db8::/32]",
            1,
            "restricts nothing: the load balancer has no address of this IP family",
        ),
        ("externalIPs: [203.0.113.1, 999.0.0.1]", 1, "the others are served"),
        ("healthCheckNodePort: 99999, externalTrafficPolicy: Local", 1, "1 to 65535"),
    ] {
        let mut world = World::new(&[("f", &balanced(80, ""))]);
        let told = world.write("f", &balanced(81, change));
        assert!(told.len() == 1 && told[0].ends_with(remark), "{told:?}");
        let [Event::Service(Change::Upsert(live))] = &world.store.changes(world.now)[..] else {
            panic!("{change}: not applied")
        };
        assert_eq!(live.ports[0].port, 81, "{change}");
        let external = live.external.as_ref().expect("something besides the cluster IP");
        assert_eq!(external.load_balancer_ips.len(), addresses, "{change}");
        assert_eq!(external.external_ips.len(), usize::from(change.starts_with("externalIPs")), "{change}");

        let mut restarted = World::new(&[]);
        restarted.write("f", &balanced(81, change));
        let everything = restarted.store.everything();
        assert_eq!(everything[0], Event::Service(Change::Replace(vec![live.clone()])), "{change}");
    }
    // A type that nobody knows.
    let mut world = World::new(&[("f", &balanced(80, ""))]);
    let told = world.write("f", &balanced(80, "").replace("LoadBalancer", "Mesh").replace("0.0.1", "0.0.2"));
    assert!(told[0].ends_with("its cluster IP is served"), "{told:?}");
    assert_eq!(world.changes(), ["a 10.0.0.2"]);
}

#[test]
fn of_two_files_with_one_object_the_first_has_it() {
    let mut world = World::new(&[("g", &service("a", 1))]);
    let told = world.write("f", &(service("a", 2) + &service("b", 1)));
    assert_eq!(told, ["g: Service default/a: found in f too, allowed in one file; that of f is used"]);
    assert_eq!(world.changes(), ["a 10.0.0.2", "b 10.0.0.1"]);
    assert_eq!(world.write("f", &(service("a", 3) + &service("b", 1))), NOTHING, "told once");
    assert_eq!(world.changes(), ["a 10.0.0.3"]);
    world.write("g", &service("a", 4));
    assert_eq!(world.changes(), NOTHING);
    world.delete("f");
    assert_eq!(world.changes(), ["a 10.0.0.4"], "the next one takes over, at once");
    assert_eq!(world.later(), ["b gone"]);
    let told = world.write("h", &(service("a", 5) + &slice(&["1"])));
    assert_eq!(told, ["h: Service default/a: found in g too, allowed in one file; that of g is used"]);
    let told = world.write("i", &(service("a", 5) + &slice(&["1"])));
    assert_eq!(
        told,
        [
            "i: Service default/a: found in g too, allowed in one file; that of g is used",
            "i: Service default/a and 1 more: found in h too, allowed in one file; that of h is used",
        ]
    );
}

#[test]
fn an_object_that_becomes_none_of_ours_goes() {
    let mut world = World::new(&[("f", &service("a", 1))]);
    assert_eq!(world.write("f", &service("a", 1).replace("10.0.0.1", "None")), NOTHING);
    world.changes();
    assert_eq!(world.later(), ["a gone"]);
}
