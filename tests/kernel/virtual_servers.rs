//! Virtual and real servers, as `ipvsadm` shows and creates them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::{Kernel, Outcome, probe};
use kube_ipvs::state::{RealServer, RealServers, VirtualServer, VirtualServerKey, Weight};

use crate::build::{address, errno, kernel, must, read_virtual_servers, real, saved, server, tcp, weight};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    ipvs_knows_both_families,
    virtual_servers_are_as_ipvsadm_shows_them,
    virtual_servers_of_ipvsadm_are_read,
    servers_are_changed_in_place,
    a_threshold_is_seen_and_taken_away,
    every_scheduler_of_the_kernel_works,
    some_virtual_servers_are_named_without_the_rest,
    chains_are_those_of_the_kernel,
    a_scheduler_is_tried_without_harm,
    ipvs_is_found_again_under_another_number
];

fn virtual_servers_are_as_ipvsadm_shows_them() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let mut wanted = BTreeMap::new();
    for (service, endpoint) in [("10.96.0.10", "172.18.219.67"), ("fd00:10:96::a", "fd00:10:244::67")] {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let persistent = VirtualServer::PERSISTENT;
            for (port, scheduler, flags, timeout) in
                [(53, "rr", 0, 0), (443, "wlc", persistent, 10800), (80, "mh", VirtualServer::MH_PORT, 0)]
            {
                let key = VirtualServerKey { address: address(service), protocol, port };
                let mut server = server(&key, scheduler, flags, timeout);
                server.real_servers =
                    RealServers::from([(real(endpoint, 8080), weight(1)), (real(endpoint, 8081), weight(0))]);
                wanted.insert(key, server);
            }
        }
    }
    for (key, server) in &wanted {
        let reals = server.real_servers.iter().map(|(real, value)| Step::AddRealServer(*key, *real, *value));
        must(&mut kernel, [Step::AddVirtualServer(*key, server.clone())].into_iter().chain(reals));
    }
    assert_eq!(read_virtual_servers(&mut ipvs), wanted);

    let expected = |protocol: &str| {
        [("10.96.0.10", "172.18.219.67"), ("[fd00:10:96::a]", "[fd00:10:244::67]")]
            .into_iter()
            .flat_map(|(service, endpoint)| {
                [("53", "-s rr"), ("443", "-s wlc -p 10800"), ("80", "-s mh -b mh-port")]
                    .into_iter()
                    .flat_map(move |(port, settings)| {
                        [
                            format!("-A {protocol} {service}:{port} {settings}"),
                            format!("-a {protocol} {service}:{port} -r {endpoint}:8080 -m -w 1"),
                            format!("-a {protocol} {service}:{port} -r {endpoint}:8081 -m -w 0"),
                        ]
                    })
            })
            .collect::<Vec<_>>()
    };
    let mut all: Vec<String> = ["-t", "-u", "--sctp-service"].into_iter().flat_map(expected).collect();
    all.sort();
    assert_eq!(saved(), all);

    for key in wanted.keys() {
        must(&mut kernel, [Step::DeleteVirtualServer(*key)]);
    }
    assert_eq!(saved(), Vec::<String>::new());
    assert_eq!(kernel.list_virtual_servers().expect("the list"), BTreeSet::new());
}

fn virtual_servers_of_ipvsadm_are_read() {
    shell(
        "ipvsadm -A -t 10.0.0.1:80 -s wrr
         ipvsadm -A -u 10.0.0.1:80 -s rr -p 60 -M 255.255.255.0
         ipvsadm -A -t [2001:db8::1]:80 -s sh -b sh-port,sh-fallback -p 7 -M 64
         ipvsadm -A -t 10.0.0.2:21 -s rr -p 5
         ipvsadm -A -f 77 -s rr
         ipvsadm -a -f 77 -r 10.1.0.1:80 -m
         ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:81 -m -w 65535
         ipvsadm -a -t 10.0.0.1:80 -r 127.0.0.1:80 -g -w 3",
    );
    let mut ipvs = Ipvs::open().expect("IPVS");
    let read = read_virtual_servers(&mut ipvs);
    let summary: Vec<_> = read
        .iter()
        .map(|(key, server)| {
            let settings = (&*server.scheduler, server.flags, server.timeout_seconds, server.netmask_bits);
            (key.to_string(), settings, server.real_servers.len())
        })
        .collect();
    assert_eq!(
        summary,
        [
            ("TCP 10.0.0.1:80".to_owned(), ("wrr", 0, 0, 32), 2),
            ("UDP 10.0.0.1:80".to_owned(), ("rr", 1, 60, 24), 0),
            ("TCP 10.0.0.2:21".to_owned(), ("rr", 1, 5, 32), 0),
            ("TCP [2001:db8::1]:80".to_owned(), ("sh", 0x19, 7, 64), 0),
        ]
    );
    let reals = &read[&tcp("10.0.0.1", 80)].real_servers;
    assert_eq!(reals[&real("10.1.0.1", 81)], weight(65535));
    assert_eq!(reals[&real("127.0.0.1", 80)].weight, Weight::Exactly(3));
    assert_ne!(reals[&real("127.0.0.1", 80)].forwarding, RealServer::MASQUERADE);
}

fn servers_are_changed_in_place() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let (key, endpoint) = (tcp("10.96.0.1", 443), real("10.1.0.1", 6443));
    let other = real("10.1.0.2", 6443);
    must(
        &mut kernel,
        [
            Step::AddVirtualServer(key, server(&key, "rr", 0, 0)),
            Step::AddRealServer(key, endpoint, weight(1)),
            Step::AddRealServer(key, other, weight(1)),
            Step::EditRealServer(key, endpoint, weight(0)),
        ],
    );
    let read = |ipvs: &mut Ipvs| ipvs.read(&key).expect("an answer").expect("the virtual server");
    assert_eq!(read(&mut ipvs).real_servers, RealServers::from([(endpoint, weight(0)), (other, weight(1))]));
    must(&mut kernel, [Step::EditRealServer(key, endpoint, weight(1)), Step::DeleteRealServer(key, other)]);
    assert_eq!(read(&mut ipvs).real_servers, RealServers::from([(endpoint, weight(1))]));

    // Flags are replaced, not added to; the real servers stay.
    for settings in [
        server(&key, "sh", VirtualServer::PERSISTENT, 300),
        server(&key, "mh", VirtualServer::MH_PORT, 0),
        server(&key, "rr", VirtualServer::PERSISTENT, 60),
        server(&key, "rr", 0, 0),
    ] {
        must(&mut kernel, [Step::EditVirtualServer(key, settings.clone())]);
        let now = read(&mut ipvs);
        assert!(now.same_settings(&settings), "{now:?} is not {settings:?}");
        assert_eq!(now.real_servers.len(), 1);
    }
    assert_eq!(ipvs.connections(&BTreeSet::from([key, tcp("10.96.0.2", 1)])).expect("an answer"), {
        BTreeMap::from([((key, endpoint), 0)])
    });
}

fn a_threshold_is_seen_and_taken_away() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let (key, endpoint) = (tcp("10.96.0.1", 443), real("10.1.0.1", 6443));
    must(
        &mut kernel,
        [
            Step::AddVirtualServer(key, server(&key, "rr", 0, 0)),
            Step::AddRealServer(key, endpoint, weight(1)),
        ],
    );
    let mut read = || ipvs.read(&key).expect("an answer").expect("the virtual server").real_servers;
    let ours = saved();
    for threshold in ["-x 50", "-x 50 -y 20"] {
        shell(&format!("ipvsadm -e -t 10.96.0.1:443 -r 10.1.0.1:6443 -m -w 1 {threshold}"));
        let limited = RealServer { is_limited: true, ..weight(1) };
        assert_eq!(read(), RealServers::from([(endpoint, limited)]), "{threshold}");
        must(&mut kernel, [Step::EditRealServer(key, endpoint, weight(1))]);
        assert_eq!(read(), RealServers::from([(endpoint, weight(1))]), "{threshold}");
        assert_eq!(saved(), ours, "{threshold}");
    }
}

fn every_scheduler_of_the_kernel_works() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let usable = probe::usable_schedulers(&mut ipvs);
    for name in ["rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"] {
        assert!(usable.contains(&name), "{name} is not among {usable:?}");
    }
    for name in usable {
        kernel.check_scheduler(name).expect(name);
        let key = tcp("10.96.0.1", 80);
        must(
            &mut kernel,
            [
                Step::AddVirtualServer(key, server(&key, name, 0, 0)),
                Step::AddRealServer(key, real("10.1.0.1", 80), weight(1)),
            ],
        );
        assert!(shell("ipvsadm -S -n").contains(&format!("-A -t 10.96.0.1:80 -s {name}\n")), "{name}");
        must(&mut kernel, [Step::DeleteVirtualServer(key)]);
    }
}

/// `/proc/net/ip_vs` walks the kernel's table, chain by chain. The table of Linux 7.3 grows, and its chains cannot be
/// known from outside: there `chain` is an arbitrary order, and all servers are listed.
fn chains_are_those_of_the_kernel() {
    let mut kernel = kernel();
    let mut wanted = BTreeSet::new();
    for number in 0..400_u16 {
        let [high, low] = number.wrapping_mul(7919).to_be_bytes();
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(number % 3)];
        let address = if number % 2 == 0 {
            address(&format!("10.{high}.3.{low}"))
        } else {
            address(&format!("fd00:10:{high:x}:5:{low:x}:7:{number:x}:9"))
        };
        wanted.insert(VirtualServerKey { address, protocol, port: 80 + number * 13 });
    }
    let added = wanted.iter().map(|key| Step::AddVirtualServer(*key, server(key, "rr", 0, 0)));
    must(&mut kernel, added);

    // "TCP  0A600001:0050 rr", "UDP  [fd00:0010:0096:0000:0000:0000:0000:0001]:0035 rr"
    let parse = |line: &str| -> Option<VirtualServerKey> {
        let mut words = line.split_whitespace();
        let protocol = match words.next()? {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        };
        let (written, port) = words.next()?.rsplit_once(':')?;
        let address = match written.strip_prefix('[') {
            Some(written) => address(written.trim_end_matches(']')),
            None => Ipv4Addr::from_bits(u32::from_str_radix(written, 16).ok()?).into(),
        };
        Some(VirtualServerKey { address, protocol, port: u16::from_str_radix(port, 16).ok()? })
    };
    let page = shell("cat /proc/net/ip_vs");
    let listed: Vec<_> = page.lines().filter_map(parse).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), wanted, "{page}");
    if fs::exists("/proc/sys/net/ipv4/vs/svc_lfactor").expect("a look") {
        println!("left out, this kernel's table grows: its chains");
        return;
    }
    let mut chains: Vec<u8> = listed.iter().map(VirtualServerKey::chain).collect();
    let all: BTreeSet<u8> = chains.iter().copied().collect();
    chains.dedup();
    assert!(all.len() < wanted.len(), "some are on one chain");
    assert_eq!(chains.len(), all.len(), "each chain is one run of\n{page}");
}

fn some_virtual_servers_are_named_without_the_rest() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    assert_eq!(ipvs.some().expect("an answer").len(), 0);
    let keys: BTreeSet<_> = (1..=1000).map(|port| tcp("10.96.0.1", port)).collect();
    must(&mut kernel, keys.iter().map(|key| Step::AddVirtualServer(*key, server(key, "wlc", 0, 0))));
    let some = ipvs.some().expect("an answer");
    assert!((1..1000).contains(&some.len()), "{} of 1000", some.len());
    for (key, server) in some {
        assert!(keys.contains(&key), "{key}");
        assert_eq!(&*server.scheduler, "wlc");
    }
    // The abandoned dump does not disturb what follows.
    assert_eq!(ipvs.list().expect("an answer").into_keys().collect::<BTreeSet<_>>(), keys);
}

fn a_scheduler_is_tried_without_harm() {
    let mut kernel = kernel();
    kernel.check_scheduler("rr").expect("rr");
    assert_eq!(saved(), Vec::<String>::new(), "the probe left something");

    // Somebody else's virtual server, where the probe would create its own.
    shell("ipvsadm -A -t 198.51.100.0:20000 -s wlc; ipvsadm -a -t 198.51.100.0:20000 -r 10.1.0.1:80 -m");
    let before = saved();
    kernel.check_scheduler("sh").expect("sh");
    assert_eq!(saved(), before);

    let error = kernel.check_scheduler("weighted").expect_err("no such scheduler").to_string();
    assert_eq!(
        error,
        "IPVS scheduler \"weighted\" cannot be used on this kernel (No such file or directory (os error 2)); \
         usable are: rr, wrr, lc, wlc, fo, ovf, lblc, lblcr, dh, sh, mh, sed, nq"
    );
    for name in ["", "none", "a-name-that-is-too-long-for-the-kernel", "r\0r"] {
        kernel.check_scheduler(name).expect_err(name);
    }
    assert_eq!(saved(), before);
}

/// As after the module was loaded again.
fn ipvs_is_found_again_under_another_number() {
    /// An id that no generic netlink family has (`GENL_MAX_ID`).
    const NOBODY: u16 = 1023;
    let numbered_otherwise = || Ipvs::with_family(NOBODY).expect("a socket");
    let key = tcp("10.96.0.1", 80);
    let endpoints = [real("10.1.0.1", 80), real("10.1.0.2", 80)];
    let add = Step::AddVirtualServer(key, server(&key, "rr", 0, 0));
    let [first, second] = endpoints.map(|real| Step::AddRealServer(key, real, weight(1)));

    // Writes.
    let mut ipvs = numbered_otherwise();
    assert_eq!(ipvs.apply(&[&add, &first, &second]), [Outcome::Done, Outcome::Done, Outcome::Done]);
    assert_eq!(saved().len(), 3);
    // What the kernel itself does not find is not tried twice, and its error stays as it is.
    let absent = tcp("10.96.0.2", 80);
    let unschedulable = Step::AddVirtualServer(absent, server(&absent, "nosuch", 0, 0));
    let gone = Step::DeleteRealServer(key, real("10.1.0.3", 80));
    for mut ipvs in [ipvs, numbered_otherwise()] {
        let outcomes = ipvs.apply(&[&unschedulable, &gone, &add]);
        assert_eq!(outcomes.iter().map(errno).collect::<Vec<_>>(), [2, 2, 17], "ENOENT, ENOENT, EEXIST");
    }

    // Reads.
    let wanted = read_virtual_servers(&mut Ipvs::open().expect("IPVS"));
    assert_eq!(wanted[&key].real_servers.len(), 2);
    assert_eq!(read_virtual_servers(&mut numbered_otherwise()), wanted);
    assert_eq!(numbered_otherwise().read(&key).expect("an answer"), wanted.get(&key).cloned());
    assert!(numbered_otherwise().exists(&key).expect("an answer"));
    assert!(!numbered_otherwise().exists(&absent).expect("an answer"));
    assert_eq!(numbered_otherwise().some().expect("an answer").len(), 1);
    assert_eq!(numbered_otherwise().connections(&BTreeSet::from([key])).expect("an answer").len(), 2);
    assert!(numbered_otherwise().timeouts().expect("an answer").tcp_seconds > 0);
    assert!(numbered_otherwise().version().expect("an answer") > 0);
}

/// An IPVS without IPv6 would answer this question with a refusal.
fn ipvs_knows_both_families() {
    let mut kernel = kernel();
    for family in Family::ALL {
        assert_eq!(kernel.lacks_virtual_servers(family), None, "{family}");
    }
}
