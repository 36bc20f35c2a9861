//! kube-ipvs is killed at any moment, while the cluster changes, and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::control_plane::{ControlPlane, cluster};
use crate::lab::shell;
use crate::objects::{ready, service, slice};
use crate::pods::{in_pod, pod};
use crate::table::comes_to;
use crate::tools::{ipvsadm, kernel};

/// A Service that nobody changes, and that a client uses all the time.
const LIVE: &str = "10.96.5.1:80";
/// The milliseconds after which it is killed: before, during and after the first sync, which takes some 200 ms on a
/// quiet machine and two seconds on a busy one.
const LIVES_MILLISECONDS: [u64; 16] =
    [40, 700, 130, 1500, 260, 90, 1000, 330, 200, 2000, 60, 450, 170, 850, 300, 1200];

pub fn killed_at_any_moment_it_takes_nothing_away() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    pod("client", "10.244.0.9", "10.244.0.254");
    pod("server", "10.244.0.2", "10.244.0.254");
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    cluster.create(service("live", json!({"clusterIP": "10.96.5.1", "ports": ports})));
    cluster.create(slice("live-1", "live", &[("", 8080, "TCP")], &["10.244.0.2"]));
    let mut proxy = cluster.proxy(&folder, "first");
    proxy.wait_synced();

    let monitor = folder.path().join("monitor");
    let mut watching = Command::new("ip")
        .args(["monitor", "link", "address", "route"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&monitor).unwrap())
        .spawn()
        .unwrap();
    serve();
    let mut connection = connect();
    talk(&mut connection, "first");

    let done = AtomicBool::new(false);
    let (mut proxy, mut churn, connections) = std::thread::scope(|scope| {
        let (control_plane, done) = (&*cluster, &done);
        let stop = StopOnDrop(done);
        let churn = scope.spawn(move || {
            let mut churn = Churn::new(control_plane);
            while !done.load(Ordering::Relaxed) {
                churn.change();
            }
            churn
        });
        let client = scope.spawn(move || {
            let mut connections = 1;
            while !done.load(Ordering::Relaxed) {
                talk(&mut connection, "again");
                talk(&mut connect(), "other");
                connections += 1;
                let servers = ipvsadm();
                assert!(
                    servers.contains(&format!("TCP {LIVE} rr\n  -> 10.244.0.2:8080 Masq 1 ")),
                    "{servers}"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            talk(&mut connection, "still");
            connections
        });
        for (round, milliseconds) in LIVES_MILLISECONDS.into_iter().enumerate() {
            proxy.kill();
            proxy = control_plane.proxy(&folder, &format!("round{round}"));
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        drop(stop);
        let churn = churn.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let connections = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (proxy, churn, connections)
    });
    assert!(churn.changes > 16, "the cluster changed all the while: {}", churn.changes);

    // The kernel holds what the cluster asks for, and all of it was found in time.
    churn.settle();
    proxy.wait_synced();
    let (servers, addresses) = churn.wanted();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let live = format!("TCP {LIVE} rr\n  -> 10.244.0.2:8080 Masq 1 0 0\n");
    comes_to(&cluster, &(servers + &live), &addresses);

    // One more restart finds everything as it should be.
    proxy.kill();
    let before = kernel();
    let mut proxy = cluster.proxy(&folder, "last");
    proxy.wait_synced();
    assert!(proxy.log().contains("\"First sync complete\" writes=0 "), "{}", proxy.log());
    assert_eq!(proxy.writes(), 0, "{}", proxy.log());
    assert_eq!(kernel(), before);

    // The live one was never recreated: otherwise its counters would have restarted, and its address would have been
    // announced.
    let counters = shell(&format!("ipvsadm -ln --stats --exact -t {LIVE}"));
    let line = counters.lines().find(|line| line.contains(LIVE)).expect("it is there");
    let counted: u64 = line.split_whitespace().nth(2).and_then(|count| count.parse().ok()).expect("a count");
    assert_eq!(counted, connections, "{counters}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    let seen = std::fs::read_to_string(monitor).unwrap();
    assert!(seen.contains("10.96.6."), "it monitors: {seen}");
    assert!(!seen.contains("10.96.5.1"), "{seen}");
}

/// Ends the loops, even if the test fails between them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the pod's server, which echoes everything.
fn serve() {
    let listener = in_pod("server", || TcpListener::bind("10.244.0.2:8080").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut heard = [0; 5];
                while stream.read_exact(&mut heard).is_ok() && stream.write_all(&heard).is_ok() {}
            });
        }
    });
}

fn connect() -> TcpStream {
    let stream = in_pod("client", || {
        TcpStream::connect_timeout(&LIVE.parse().unwrap(), Duration::from_secs(5)).unwrap_or_else(|error| {
            panic!("no connection through the service address: {error}\n{}", error.kind())
        })
    });
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn talk(stream: &mut TcpStream, word: &str) {
    let mut heard = [0; 5];
    stream.write_all(word.as_bytes()).unwrap();
    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("the connection broke: {error}"));
    assert_eq!(heard, word.as_bytes());
}

/// Services that come, change and go, and the kernel state that they ask for.
struct Churn<'a> {
    control_plane: &'a ControlPlane,
    random: u64,
    changes: u32,
    /// The existing Services: address and protocol by number.
    services: BTreeMap<u8, (String, &'static str)>,
    /// Their slices, which come and go independently: the last part of each endpoint's address, and the protocol.
    slices: BTreeMap<u8, (BTreeSet<u8>, &'static str)>,
}

impl<'a> Churn<'a> {
    fn new(control_plane: &'a ControlPlane) -> Self {
        let random = 0x9E37_79B9_7F4A_7C15;
        Self { control_plane, random, changes: 0, services: BTreeMap::new(), slices: BTreeMap::new() }
    }

    /// A number below the limit, the same in each run (xorshift).
    fn below(&mut self, limit: u8) -> u8 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u8::try_from(self.random % u64::from(limit)).expect("it is below a u8")
    }

    /// Changes one thing of one Service.
    fn change(&mut self) {
        self.changes += 1;
        let number = self.below(8);
        let (name, slice_name) = (format!("s{number}"), format!("s{number}-1"));
        // Both protocols alternate: TCP servers drain, UDP servers go at once.
        let protocol = if number.is_multiple_of(2) { "TCP" } else { "UDP" };
        let deletes = self.below(4) == 0;
        if self.below(3) == 0 {
            if !self.services.contains_key(&number) {
                let address = format!("10.96.6.{}", 1 + number + 100 * self.below(2));
                let ports = json!([{"port": 80, "protocol": protocol}]);
                self.control_plane.create(service(&name, json!({"clusterIP": address, "ports": ports})));
                self.services.insert(number, (address, protocol));
            } else if deletes {
                self.control_plane.delete("Service", &name);
                self.services.remove(&number);
            }
            return;
        }
        if deletes && self.slices.remove(&number).is_some() {
            self.control_plane.delete("EndpointSlice", &slice_name);
            return;
        }
        let picked = self.below(16);
        let endpoints: BTreeSet<u8> = (0..4).filter(|bit| picked & (1 << bit) != 0).collect();
        let addresses: Vec<String> = endpoints.iter().map(|last| format!("10.244.9.{}", last + 1)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        if self.slices.insert(number, (endpoints, protocol)).is_some() {
            let change = json!({"endpoints": ready(&addresses)});
            self.control_plane.patch("EndpointSlice", &slice_name, change);
        } else {
            let slice = slice(&slice_name, &name, &[("", 8080, protocol)], &addresses);
            self.control_plane.create(slice);
        }
    }

    /// Makes sure that there are objects of every kind at the end.
    fn settle(&mut self) {
        while !(self.services.len() >= 4 && self.slices.len() >= 4) {
            self.change();
        }
    }

    /// The virtual servers and addresses that the kernel must have.
    fn wanted(&self) -> (String, BTreeSet<String>) {
        let mut servers = String::new();
        let mut addresses = BTreeSet::from(["10.96.5.1".to_owned()]);
        for (number, (address, protocol)) in &self.services {
            addresses.insert(address.clone());
            let endpoints = self.slices.get(number).map(|(endpoints, _)| endpoints);
            let Some(endpoints) = endpoints.filter(|endpoints| !endpoints.is_empty()) else { continue };
            writeln!(servers, "{protocol} {address}:80 rr").unwrap();
            for last in endpoints {
                writeln!(servers, "  -> 10.244.9.{}:8080 Masq 1 0 0", last + 1).unwrap();
            }
        }
        (servers, addresses)
    }
}
