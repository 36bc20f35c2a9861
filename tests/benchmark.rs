//! Tests of the benchmark's tools, and a guard for its findings: figures that grow with the cluster when they should
//! not. The program here is the one that tests use, not optimised, and the machine may be busy, so the bounds are wide:
//! they catch mistakes of another order of magnitude, such as looking at everything when one endpoint changes.

#[path = "../benches/lab/feed.rs"]
mod feed;
#[allow(dead_code, reason = "the benchmark uses more of it")]
#[path = "../benches/lab/figures.rs"]
mod figures;
#[path = "../benches/lab/floor.rs"]
mod floor;
#[path = "../benches/lab/input.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod input;
#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/lab.rs"]
mod lab;
#[path = "../benches/lab/live.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod live;
#[path = "../benches/lab/look.rs"]
mod look;
#[path = "../benches/lab/newest.rs"]
mod newest;
#[path = "../benches/lab/program.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod program;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the tests of the API server use more of it"
)]
#[path = "common/protobuf.rs"]
mod protobuf;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use feed::{Feed, Resource};
use input::{Size, endpoint_address, service_address, slice};

const SMALL: Size = Size { services: 100, endpoints: 5 };
const LARGE: Size = Size { services: 1000, endpoints: 5 };

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        the_load_generator_lists_and_watches,
        the_floor_is_the_whole_state,
        the_poller_sees_what_comes_and_not_what_is_not_there,
        times_do_not_grow_with_the_cluster,
    ])
}

/// Opens a connection, sends a request, and reads until this text has come.
fn ask(feed: &Feed, target: &str, until: &str) -> (TcpStream, String) {
    let address = feed.url();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").expect("it reads");
    let text = read(&mut stream, until);
    (stream, text)
}

fn read(stream: &mut TcpStream, until: &str) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(until) {
        let length = stream.read(&mut piece).unwrap_or_else(|error| panic!("{until}: {error}"));
        assert_ne!(length, 0, "the end, without {until}");
        text.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn the_load_generator_lists_and_watches() {
    let feed = live::filled(Size { services: 3, endpoints: 2 }).expect("a server");
    assert!(feed.listed().is_none());
    let watch = "watch=true&sendInitialEvents=true";
    let (_services, text) = ask(&feed, &format!("/api/v1/services?{watch}"), "initial-events-end");
    assert_eq!(text.matches("\"type\":\"ADDED\"").count(), 4, "with default/kubernetes: {text}");
    assert!(feed.listed().is_none(), "the slices are missing");
    let target = format!("/apis/discovery.k8s.io/v1/endpointslices?{watch}");
    let (mut slices, text) = ask(&feed, &target, "initial-events-end");
    assert!(text.contains("10.128.0.6") && !text.contains("10.128.0.7"), "{text}");
    assert!(feed.listed().is_some());

    feed.put(Resource::Slices, slice(1, &[endpoint_address(77)])).expect("a change");
    let text = read(&mut slices, "}\n\r\n");
    assert!(text.contains("MODIFIED") && text.contains("10.128.0.78"), "{text}");
    feed.delete_all(Resource::Slices, vec![slice(1, &[])]).expect("a change");
    assert!(read(&mut slices, "}\n\r\n").contains("DELETED"));
    let (_list, text) = ask(&feed, "/apis/discovery.k8s.io/v1/endpointslices?limit=500", "]}");
    assert_eq!(text.matches("\"kind\":\"EndpointSlice\"").count(), 3, "{text}");
    assert!(ask(&feed, "/version", "}").1.starts_with("HTTP/1.1 404"));

    let wanted = "application/vnd.kubernetes.protobuf";
    let target =
        format!("/api/v1/services?{watch} HTTP/1.1\r\nAccept: {wanted},application/json\r\nX-Ignored:");
    let (_services, text) = ask(&feed, &target, "initial-events-end");
    assert!(text.contains(&format!("Content-Type: {wanted}\r\n")), "{text}");
    assert_eq!(text.matches("k8s\0").count(), 5, "four Services and a bookmark: {text:?}");
}

fn the_floor_is_the_whole_state() {
    // `measure` itself verifies with administrators' tools that the state is complete.
    let figures = floor::measure(Size { services: 30, endpoints: 4 }).expect("a floor");
    for figure in ["cold_seconds", "dump_seconds", "change_milliseconds", "service_milliseconds"] {
        assert!(figures[figure] > 0.0, "{figures:?}");
    }
    // The single changes added a hundred real servers, and twenty Services have ten each.
    assert_eq!(look::servers().expect("a table"), (50, 30 * 4 + 100 + 200));
    lab::shell("ipvsadm -C");
}

fn the_poller_sees_what_comes_and_not_what_is_not_there() {
    let size = Size { services: 2, endpoints: 3 };
    floor::Floor::open().and_then(|mut floor| floor.fill(size)).expect("a floor");
    look::verify(2, 6).expect("the whole state");
    assert!(look::verify(2, 7).is_err(), "a real server is missing");
    let mut ipvs = look::Ipvs::open().expect("IPVS");
    assert_eq!(ipvs.real_servers(service_address(1)).expect("a list").len(), 3);
    assert!(ipvs.real_servers(service_address(2)).expect("a list").is_empty(), "there is no such Service");
    ipvs.wait_for(service_address(1), endpoint_address(5)).expect("it is there");
    lab::shell("ipvsadm -C");
}

fn times_do_not_grow_with_the_cluster() {
    let measure = |size: Size| {
        lab::new_namespace();
        let figures = live::measure_briefly(size).unwrap_or_else(|error| panic!("{size}: {error:#}"));
        // /proc/net/ip_vs omits some servers of a namespace while other namespaces have some, too.
        lab::shell("ipvsadm -C");
        figures
    };
    let (small, large) = (measure(SMALL), measure(LARGE));
    let times = |figure: &str| large[figure] / small[figure];
    // Ten times the cluster.
    assert!(times("cold_seconds") < 25.0, "cold start: {small:?}, {large:?}");
    assert!(times("change_milliseconds") < 4.0, "one change: {small:?}, {large:?}");
}
