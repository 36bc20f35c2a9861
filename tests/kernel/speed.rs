//! A report of how long the kernel takes.

use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::netlink::{Frames, Verdict};
use kube_ipvs::kernel::{Kernel, Outcome, Selection};
use kube_ipvs::state::Key;

use crate::build::{kernel, must, read_virtual_servers, real, server, steps, tcp, weight};
use crate::lab::{self, Test};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![speed_of_writing_and_reading];

/// A report without a limit: figures in the lab depend on the machine. `SPEED=10000` makes a large one.
fn speed_of_writing_and_reading() {
    let services: u32 = std::env::var("SPEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let key = |n: u32| tcp(&format!("10.{}.{}.{}", 96 + (n >> 16), (n >> 8) & 255, n & 255), 80);
    let mut all: Vec<Step> =
        (0..services).map(|n| Step::AddVirtualServer(key(n), server(&key(n), "rr", 0, 0))).collect();
    for n in 0..services {
        all.extend((0..10).map(|m| {
            let endpoint = format!("172.{}.{}.{}", 16 + (n >> 12), (n >> 4) & 255, (n & 15) * 10 + m + 1);
            Step::AddRealServer(key(n), real(&endpoint, 8080), weight(1))
        }));
    }
    let mut frames = Frames::new();
    let begin = Instant::now();
    for step in &all {
        assert!(ipvs.encode(step, &mut frames));
    }
    report("encode", begin.elapsed(), all.len());
    let begin = Instant::now();
    let verdicts = ipvs.socket().batch(&mut frames);
    report("write, 256 messages per datagram", begin.elapsed(), verdicts.len());
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Done));

    must(&mut kernel, [Step::AddDevice]);
    let begin = Instant::now();
    let outcomes = kernel.apply(&steps((0..services).map(|n| Step::AddAddress(key(n).address))));
    report("write addresses", begin.elapsed(), outcomes.len());
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));

    let begin = Instant::now();
    let list = ipvs.list().expect("the list");
    report("list virtual servers", begin.elapsed(), list.len());
    let begin = Instant::now();
    let read = read_virtual_servers(&mut ipvs);
    report("read virtual servers with real servers", begin.elapsed(), read.len());
    assert_eq!(read.len(), services as usize);
    assert!(read.values().all(|server| server.real_servers.len() == 10));
    let begin = Instant::now();
    let text = std::fs::read_to_string("/proc/thread-self/net/ip_vs").expect("/proc/thread-self/net/ip_vs");
    report("read /proc/thread-self/net/ip_vs, unparsed", begin.elapsed(), text.lines().count());
    let begin = Instant::now();
    let addresses = kernel.read(&Selection::Addresses(Family::V4)).expect("the addresses").addresses;
    report("read addresses and routes", begin.elapsed(), addresses.len());
    assert_eq!(addresses.len(), services as usize);
    let begin = Instant::now();
    let one = kernel.read(&Selection::Keys([Key::VirtualServer(key(7))].into())).expect("one");
    report("read one virtual server", begin.elapsed(), one.virtual_servers.len());
    let begin = Instant::now();
    let one = kernel.read(&Selection::Keys([Key::Address(key(7).address)].into())).expect("one");
    report("read one address", begin.elapsed(), one.addresses.len());
}

pub(crate) fn report(what: &str, time: Duration, count: usize) {
    let micros = time.as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = micros / count.max(1) as f64;
    println!("  {what}: {count} in {:.1} ms, {each:.2} µs each", micros / 1000.0);
}
