//! The real kernel: what is written over netlink, read back with `ipvsadm`, `ip` and our own readers.

#[path = "kernel/conntrack.rs"]
mod conntrack;
#[path = "common/lab.rs"]
mod lab;
#[path = "kernel/node_addresses.rs"]
mod node_addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::plan::Needs;
use kube_ipvs::diff::{Phase, Plan, PlannedStep, Step};
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::netlink::{self, Frames, Socket, Verdict};
use kube_ipvs::kernel::{Kernel, Outcome, Selection, probe};
use kube_ipvs::state::{
    Address, Key, RealServer, RealServerKey, RealServers, State, Sysctl, Timeouts, VirtualServer,
    VirtualServerKey, Weight,
};
use lab::{shell, try_shell};

use conntrack::{speed_of_purging, stale_udp_entries_are_deleted};
use node_addresses::{
    a_port_that_leaves_its_bridge_keeps_its_addresses, addresses_of_the_node_are_listed,
    addresses_that_stay_are_always_told, after_an_overrun_losses_are_told_again, changes_are_told_each_once,
    ignored_messages_do_not_come, our_own_device_wakes_nobody, what_was_lost_is_listed_again,
};

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        every_test_has_a_network_of_its_own,
        virtual_servers_are_as_ipvsadm_shows_them,
        virtual_servers_of_ipvsadm_are_read,
        servers_are_changed_in_place,
        every_scheduler_of_the_kernel_works,
        some_virtual_servers_are_named_without_the_rest,
        a_scheduler_is_tried_without_harm,
        failures_in_the_middle_of_a_batch_stop_nothing,
        an_overrun_is_unknown_and_the_socket_goes_on,
        a_transaction_that_is_lost_is_unknown,
        steps_whose_need_was_not_met_are_skipped,
        the_device_is_made_down,
        the_device_is_adopted,
        a_device_of_another_kind_is_refused,
        addresses_are_as_kube_proxy_makes_them,
        addresses_are_changed_in_place,
        routes_are_put_back,
        addresses_and_routes_of_others_are_left_out,
        timeouts_are_set_and_kept,
        sysctls_are_written_and_read,
        keys_are_read_one_by_one,
        large_virtual_servers_are_read_whole,
        answers_are_complete_while_others_write,
        the_probe_changes_nothing,
        without_the_capability_the_probe_says_so,
        addresses_of_the_node_are_listed,
        changes_are_told_each_once,
        a_port_that_leaves_its_bridge_keeps_its_addresses,
        our_own_device_wakes_nobody,
        ignored_messages_do_not_come,
        after_an_overrun_losses_are_told_again,
        what_was_lost_is_listed_again,
        addresses_that_stay_are_always_told,
        stale_udp_entries_are_deleted,
        speed_of_writing_and_reading,
        speed_of_purging,
    ])
}

fn every_test_has_a_network_of_its_own() {
    let addresses = shell("ip -br address");
    assert_eq!(
        addresses.lines().filter(|line| line.split_whitespace().count() > 2).count(),
        1,
        "{addresses}"
    );
    assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    lab::new_namespace();
    assert_eq!(shell("ip -br address"), addresses);
    let (success, output) = try_shell("ip link show kube-ipvs0");
    assert!(!success && output.contains("does not exist"), "{output}");
}

// ---- builders ----

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tcp(text: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: address(text), protocol: Protocol::Tcp, port }
}

fn real(text: &str, port: u16) -> RealServerKey {
    RealServerKey { address: address(text), port }
}

fn server(key: &VirtualServerKey, scheduler: &str, flags: u32, timeout_seconds: u32) -> VirtualServer {
    VirtualServer {
        scheduler: scheduler.into(),
        flags,
        timeout_seconds,
        netmask_bits: Family::of(key.address).host_prefix(),
        real_servers: RealServers::default(),
    }
}

fn weight(weight: u32) -> RealServer {
    RealServer::with(Weight::Exactly(weight))
}

/// Independent steps, all of one phase.
fn steps(steps: impl IntoIterator<Item = Step>) -> Plan {
    let planned = |step| PlannedStep { step, phase: Phase(0), needs: Needs::new() };
    Plan { steps: steps.into_iter().map(planned).collect() }
}

fn kernel() -> LinuxKernel {
    LinuxKernel::open().expect("the lab's kernel")
}

/// Carries out steps one after the other, all of which must succeed.
fn must(kernel: &mut LinuxKernel, all: impl IntoIterator<Item = Step>) {
    for step in all {
        let outcomes = kernel.apply(&steps([step.clone()]));
        assert_eq!(outcomes, [Outcome::Done], "{step:?}");
    }
}

fn errno(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Refused(refusal) => refusal.errno,
        other => panic!("not refused: {other:?}"),
    }
}

/// The virtual servers as this program reads them all.
fn read_virtual_servers(ipvs: &mut Ipvs) -> BTreeMap<VirtualServerKey, VirtualServer> {
    ipvs.read_all().expect("all virtual servers")
}

// ---- virtual and real servers ----

/// `ipvsadm -S -n` prints what would make the same: one line for each.
fn saved() -> Vec<String> {
    let mut lines: Vec<String> =
        shell("ipvsadm -S -n").lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

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
    // The dump that was left does not stand in the way of what follows.
    assert_eq!(ipvs.list().expect("an answer").into_keys().collect::<BTreeSet<_>>(), keys);
}

fn a_scheduler_is_tried_without_harm() {
    let mut kernel = kernel();
    kernel.check_scheduler("rr").expect("rr");
    assert_eq!(saved(), Vec::<String>::new(), "the probe left something");

    // Somebody else's, where the probe would make its own.
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

// ---- batches ----

fn failures_in_the_middle_of_a_batch_stop_nothing() {
    let mut kernel = kernel();
    let key = |port| tcp("10.96.0.1", port);
    let add = |port| Step::AddVirtualServer(key(port), server(&key(port), "rr", 0, 0));
    must(&mut kernel, [add(1300)]);
    // 1,500 messages: several datagrams, and more than one part.
    let plan = steps((1..=1500).map(|port| match port {
        100 | 1400 => Step::DeleteVirtualServer(key(9)),
        101 => Step::EditRealServer(key(1300), real("10.1.0.1", 1), weight(1)),
        256 => Step::AddVirtualServer(key(256), server(&key(256), "nonesuch", 0, 0)),
        port => add(if port == 9 { 2000 } else { port }),
    }));
    let outcomes = kernel.apply(&plan);
    assert_eq!(outcomes.len(), 1500);
    for (port, outcome) in (1..=1500).zip(&outcomes) {
        match port {
            100 | 1400 => assert_eq!(errno(outcome), 3, "ESRCH: no such virtual server"),
            101 => assert_eq!(errno(outcome), 2, "ENOENT: no such real server"),
            256 => assert_eq!(errno(outcome), 2, "ENOENT: no such scheduler"),
            1300 => assert_eq!(errno(outcome), 17, "EEXIST"),
            _ => assert_eq!(*outcome, Outcome::Done, "{port}"),
        }
    }
    assert_eq!(kernel.list_virtual_servers().expect("the list").len(), 1500 - 4);
    let Outcome::Refused(refusal) = &outcomes[1299] else { unreachable!() };
    assert_eq!(refusal.to_string(), "File exists (os error 17)");
}

fn an_overrun_is_unknown_and_the_socket_goes_on() {
    const NEW_ROUTE: u16 = 24;
    let ipvs = Ipvs::open().expect("IPVS");
    let mut frames = Frames::new();
    let key = |port| tcp("10.96.0.1", port);
    for port in 1..=200 {
        // Each fails, and so each is answered.
        assert!(ipvs.encode(&Step::DeleteVirtualServer(key(port)), &mut frames));
    }
    let mut small = Socket::with_receive_buffer(netlink::Protocol::Generic, 4096).expect("a socket");
    let verdicts = small.batch(&mut frames);
    assert_eq!(verdicts.len(), 200);
    let unknown = verdicts.iter().filter(|verdict| **verdict == Verdict::Unknown).count();
    let refused =
        verdicts.iter().filter(|v| matches!(v, Verdict::Errno(refusal) if refusal.errno == 3)).count();
    assert_eq!(unknown + refused, 200, "none was done: {verdicts:?}");
    assert!(unknown > 0 && refused > 0, "{unknown} unknown, {refused} refused");

    // The same socket is in step again: one failure among successes is told apart.
    frames.clear();
    for port in [1, 1, 2] {
        let step = Step::AddVirtualServer(key(port), server(&key(port), "rr", 0, 0));
        assert!(ipvs.encode(&step, &mut frames));
    }
    let verdicts = small.batch(&mut frames);
    assert_eq!(verdicts[0], Verdict::Done);
    assert!(matches!(&verdicts[1], Verdict::Errno(refusal) if refusal.errno == 17), "{verdicts:?}");
    assert_eq!(verdicts[2], Verdict::Done);

    // A normal socket takes the answers of a full datagram in which everything fails.
    let mut frames = Frames::new();
    for _ in 0..1000 {
        frames.push(NEW_ROUTE, 0, |body| body.fixed(&[0; 12]));
    }
    let verdicts = Socket::open(netlink::Protocol::Route).expect("a socket").batch(&mut frames);
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Errno(_))));
}

/// More objections than the buffer takes, and the answer that ends the transaction among the lost ones.
fn a_transaction_that_is_lost_is_unknown() {
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    const NEW_TABLE: u16 = 10 << 8;
    const TABLES: [u8; 4] = [0, 0, 0, 10];
    let transaction = |names: &[&str]| {
        let mut frames = Frames::new();
        frames.push(BEGIN, 0, |body| body.fixed(&TABLES));
        for name in names {
            frames.push(NEW_TABLE, netlink::CREATE | netlink::EXCLUSIVE, |body| {
                body.fixed(&[2, 0, 0, 0]);
                body.text(1, name);
            });
        }
        frames.push(END, 0, |body| body.fixed(&TABLES));
        frames
    };
    let mut socket = Socket::open(netlink::Protocol::Netfilter).expect("a socket");
    assert_eq!(socket.transaction(&mut transaction(&["one", "two"])), netlink::Commit::Done);
    let netlink::Commit::Refused(refusals) =
        socket.transaction(&mut transaction(&["three", "one", "four", "two"]))
    else {
        panic!("not refused")
    };
    assert_eq!(
        refusals.iter().map(|(index, refusal)| (*index, refusal.errno)).collect::<Vec<_>>(),
        [(2, 17), (4, 17)]
    );
    let tables = shell("nft list tables");
    assert_eq!(tables.lines().collect::<Vec<_>>(), ["table ip one", "table ip two"]);

    let mut small = Socket::with_receive_buffer(netlink::Protocol::Netfilter, 4096).expect("a socket");
    let lost = small.transaction(&mut transaction(&["one"; 100]));
    assert!(!matches!(lost, netlink::Commit::Done), "{lost:?}");
    assert_eq!(small.transaction(&mut transaction(&["five"])), netlink::Commit::Done);
    assert_eq!(shell("nft list tables").lines().count(), 3);
}

fn steps_whose_need_was_not_met_are_skipped() {
    let mut kernel = kernel();
    let (good, bad) = (tcp("10.96.0.1", 80), tcp("10.96.0.2", 80));
    let vip = |key: &VirtualServerKey| key.address;
    let planned =
        |step, phase, needs: Vec<usize>| PlannedStep { step, phase: Phase(phase), needs: needs.into() };
    let plan = Plan {
        steps: vec![
            planned(Step::AddDevice, 0, vec![]),
            planned(Step::SetSysctl(Sysctl::VsConntrack, "1".into()), 0, vec![]),
            planned(Step::AddVirtualServer(bad, server(&bad, "nonesuch", 0, 0)), 1, vec![]),
            planned(Step::AddVirtualServer(good, server(&good, "rr", 0, 0)), 1, vec![]),
            planned(Step::AddRealServer(bad, real("10.1.0.1", 80), weight(1)), 2, vec![2]),
            planned(Step::AddRealServer(good, real("10.1.0.1", 80), weight(1)), 2, vec![3]),
            planned(Step::AddAddress(vip(&bad)), 3, vec![4]),
            planned(Step::AddAddress(vip(&good)), 3, vec![5]),
        ],
    };
    let outcomes = kernel.apply(&plan);
    assert_eq!(errno(&outcomes[2]), 2);
    assert_eq!(outcomes[4], Outcome::Skipped(2));
    assert_eq!(outcomes[6], Outcome::Skipped(4));
    for index in [0, 1, 3, 5, 7] {
        assert_eq!(outcomes[index], Outcome::Done, "{index}");
    }
    assert_eq!(saved(), ["-A -t 10.96.0.1:80 -s rr", "-a -t 10.96.0.1:80 -r 10.1.0.1:80 -m -w 1"]);
    assert!(!shell("ip address show kube-ipvs0").contains("10.96.0.2"));
    assert_eq!(kernel.apply(&Plan::default()), []);
}

// ---- the device ----

fn the_device_is_made_down() {
    let mut kernel = kernel();
    assert!(!kernel.read(&Selection::Settings).expect("the settings").device);
    must(&mut kernel, [Step::AddDevice]);
    let link = shell("ip -details link show kube-ipvs0");
    assert!(
        link.contains("<BROADCAST,NOARP>") && link.contains("state DOWN") && link.contains("dummy"),
        "{link}"
    );
    assert!(kernel.read(&Selection::Settings).expect("the settings").device);
    assert_eq!(errno(&kernel.apply(&steps([Step::AddDevice]))[0]), 17);
}

fn the_device_is_adopted() {
    shell("ip link add kube-ipvs0 type dummy; ip address add 10.96.0.1/32 dev kube-ipvs0");
    let mut kernel = kernel();
    assert!(kernel.read(&Selection::Keys([Key::Device].into())).expect("the device").device);
    let addresses = kernel.read(&Selection::Addresses(Family::V4)).expect("the addresses").addresses;
    assert_eq!(
        addresses,
        BTreeMap::from([(address("10.96.0.1"), Address { deprecated: false, routed: true })])
    );

    // Remade behind our back, with another number.
    shell("ip link del kube-ipvs0; ip link add another type dummy; ip link add kube-ipvs0 type dummy");
    must(&mut kernel, [Step::AddAddress(address("10.96.0.2"))]);
    assert!(shell("ip address show kube-ipvs0").contains("10.96.0.2/32"));
}

fn a_device_of_another_kind_is_refused() {
    shell("ip link add kube-ipvs0 type veth peer name other");
    let mut kernel = kernel();
    assert!(!kernel.read(&Selection::Settings).expect("the settings").device);
    let outcomes = kernel.apply(&steps([Step::AddDevice, Step::AddAddress(address("10.96.0.1"))]));
    let Outcome::Refused(refusal) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(refusal.text, "device kube-ipvs0 exists, but is veth, not a dummy: rename or remove it");
    assert_eq!(errno(&outcomes[1]), 19);
    assert!(!shell("ip address show kube-ipvs0").contains("10.96.0.1"));
    assert_eq!(kernel.read(&Selection::Addresses(Family::V4)).expect("none").addresses, BTreeMap::new());
}

// ---- addresses and routes ----

const V4: &str = "10.96.0.10";
const V6: &str = "fd00:10:96::a";

/// A kernel with the device and both addresses.
fn with_addresses() -> LinuxKernel {
    let mut kernel = kernel();
    must(&mut kernel, [Step::AddDevice, Step::AddAddress(address(V4)), Step::AddAddress(address(V6))]);
    kernel
}

fn read_addresses(kernel: &mut LinuxKernel) -> BTreeMap<IpAddr, Address> {
    let mut all = BTreeMap::new();
    for family in Family::ALL {
        all.extend(kernel.read(&Selection::Addresses(family)).expect("the addresses").addresses);
    }
    all
}

fn routes() -> String {
    shell("ip route show table local dev kube-ipvs0; ip -6 route show table local dev kube-ipvs0")
}

fn addresses_are_as_kube_proxy_makes_them() {
    let mut kernel = with_addresses();
    // At once, not after a while.
    let addresses = shell("ip address show dev kube-ipvs0");
    assert!(
        addresses.contains(
            "inet 10.96.0.10/32 brd 10.96.0.10 scope global kube-ipvs0\n       valid_lft forever preferred_lft forever"
        ),
        "{addresses}"
    );
    assert!(
        addresses.contains(
            "inet6 fd00:10:96::a/128 scope global nodad deprecated \n       valid_lft forever preferred_lft 0sec"
        ),
        "{addresses}"
    );
    assert!(!addresses.contains("tentative"), "{addresses}");
    assert_eq!(
        routes(),
        "local 10.96.0.10 proto kernel scope host src 10.96.0.10 \n\
         local fd00:10:96::a proto kernel metric 0 pref medium\n"
    );
    for vip in [V4, V6] {
        shell(&format!("ping -c 1 -W 2 {vip}"));
    }
    let wanted: BTreeMap<_, _> = [V4, V6].map(|vip| (address(vip), Address::wanted(address(vip)))).into();
    assert_eq!(read_addresses(&mut kernel), wanted);
    for vip in [V4, V6] {
        assert_eq!(errno(&kernel.apply(&steps([Step::AddAddress(address(vip))]))[0]), 17, "EEXIST");
    }

    must(&mut kernel, [Step::DeleteAddress(address(V4)), Step::DeleteAddress(address(V6))]);
    assert_eq!(routes(), "");
    assert_eq!(read_addresses(&mut kernel), BTreeMap::new());
    for vip in [V4, V6] {
        assert_eq!(errno(&kernel.apply(&steps([Step::DeleteAddress(address(vip))]))[0]), 99, "EADDRNOTAVAIL");
    }
}

/// As kube-proxy leaves them: preferred for ever.
fn addresses_are_changed_in_place() {
    shell(
        "ip link add kube-ipvs0 type dummy
         ip address add fd00:10:96::a/128 dev kube-ipvs0
         ip address add 10.96.0.10/32 brd 10.96.0.10 dev kube-ipvs0",
    );
    let mut kernel = kernel();
    let before = read_addresses(&mut kernel);
    assert_eq!(before[&address(V6)], Address { deprecated: false, routed: true });
    assert_eq!(before[&address(V4)], Address::wanted(address(V4)));

    shell("ip monitor address route >$TMPDIR/monitor 2>&1 & echo $! >$TMPDIR/monitor.id; sleep 0.3");
    must(&mut kernel, [Step::EditAddress(address(V6)), Step::EditAddress(address(V4))]);
    let monitor = shell("sleep 0.3; kill $(cat $TMPDIR/monitor.id); cat $TMPDIR/monitor");
    assert!(monitor.contains("inet6 fd00:10:96::a/128") && !monitor.contains("Deleted"), "{monitor}");
    let wanted: BTreeMap<_, _> = [V4, V6].map(|vip| (address(vip), Address::wanted(address(vip)))).into();
    assert_eq!(read_addresses(&mut kernel), wanted);
    assert!(shell("ip -6 address show dev kube-ipvs0").contains("deprecated"));
}

fn routes_are_put_back() {
    let mut kernel = with_addresses();
    let before = routes();
    for vip in [V4, V6] {
        shell(&format!("ip route del local {vip} dev kube-ipvs0 table local"));
        let state = kernel.read(&Selection::Keys([Key::Address(address(vip))].into())).expect("the address");
        assert_eq!(
            state.addresses,
            BTreeMap::from([(address(vip), Address { routed: false, ..Address::wanted(address(vip)) })])
        );
    }
    assert_eq!(routes(), "");
    let outcomes = kernel.apply(&steps([Step::AddRoute(address(V4)), Step::AddRoute(address(V6))]));
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);
    assert_eq!(routes(), before);
    assert_eq!(read_addresses(&mut kernel).len(), 2);
    // The kernel's own hand takes them away again.
    must(&mut kernel, [Step::DeleteAddress(address(V4)), Step::DeleteAddress(address(V6))]);
    assert_eq!(routes(), "");
    // Not on the device: nothing is put there.
    let outcomes = kernel.apply(&steps([Step::AddRoute(address(V6))]));
    assert_eq!(errno(&outcomes[0]), 99, "EADDRNOTAVAIL");
    assert_eq!(read_addresses(&mut kernel), BTreeMap::new());
}

fn addresses_and_routes_of_others_are_left_out() {
    let mut kernel = with_addresses();
    // At once, when the route of the IPv6 address may be still to come.
    let before = read_addresses(&mut kernel);
    assert!(before.values().all(|address| address.routed), "{before:?}");
    shell(
        "ip link add other type dummy
         ip link set other up
         ip address add 10.99.0.1/32 dev other
         ip address add fd00:99::1/128 dev other
         ip address add 10.98.0.1/24 dev kube-ipvs0
         ip address add fd00:98::1/64 dev kube-ipvs0
         ip route add local 10.97.0.0/24 dev kube-ipvs0 table local",
    );
    assert_eq!(read_addresses(&mut kernel), before);
}

// ---- timeouts, sysctls ----

fn timeouts_are_set_and_kept() {
    let mut kernel = kernel();
    let read = |kernel: &mut LinuxKernel| {
        let state = kernel.read(&Selection::Keys([Key::Timeouts].into())).expect("the timeouts");
        assert_eq!(state, State { timeouts: state.timeouts, ..State::default() });
        state.timeouts
    };
    assert_eq!(read(&mut kernel), Timeouts { tcp_seconds: 900, tcp_fin_seconds: 120, udp_seconds: 300 });
    let timeouts =
        |tcp_seconds, tcp_fin_seconds, udp_seconds| Timeouts { tcp_seconds, tcp_fin_seconds, udp_seconds };
    must(&mut kernel, [Step::SetTimeouts(timeouts(60, 0, 0))]);
    assert_eq!(shell("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 60 120 300\n");
    must(&mut kernel, [Step::SetTimeouts(timeouts(0, 30, 10))]);
    assert_eq!(shell("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 60 30 10\n");
    assert_eq!(read(&mut kernel), timeouts(60, 30, 10));
}

fn sysctls_are_written_and_read() {
    let mut kernel = kernel();
    let before = kernel.read(&Selection::Settings).expect("the settings").sysctls;
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), Sysctl::ALL, "the lab's kernel has all of them");
    for sysctl in Sysctl::ALL {
        must(&mut kernel, [Step::SetSysctl(sysctl, "1".into())]);
        assert_eq!(shell(&format!("cat /proc/sys/{sysctl}")), "1\n");
    }
    must(&mut kernel, [Step::SetSysctl(Sysctl::VsConntrack, "0".into())]);
    let state = kernel.read(&Selection::Keys([Key::Sysctl(Sysctl::VsConntrack)].into())).expect("the sysctl");
    assert_eq!(state.sysctls, BTreeMap::from([(Sysctl::VsConntrack, "0".to_owned())]));
    let outcome = &kernel.apply(&steps([Step::SetSysctl(Sysctl::VsConntrack, "many".into())]))[0];
    assert_eq!(errno(outcome), 22, "EINVAL");
}

// ---- reading ----

fn keys_are_read_one_by_one() {
    let mut kernel = with_addresses();
    let (here, absent) = (tcp(V4, 53), tcp(V4, 54));
    let settings = server(&here, "rr", 0, 0);
    must(
        &mut kernel,
        [
            Step::AddVirtualServer(here, settings.clone()),
            Step::AddRealServer(here, real("10.1.0.1", 53), weight(1)),
            Step::AddVirtualServer(tcp(V6, 53), server(&tcp(V6, 53), "rr", 0, 0)),
        ],
    );
    let keys = [Key::VirtualServer(here), Key::VirtualServer(absent), Key::Address(address(V4))];
    let state = kernel.read(&Selection::Keys(keys.into())).expect("the keys");
    let expected = State {
        virtual_servers: BTreeMap::from([(
            here,
            VirtualServer {
                real_servers: RealServers::from([(real("10.1.0.1", 53), weight(1))]),
                ..settings
            },
        )]),
        addresses: BTreeMap::from([(address(V4), Address::wanted(address(V4)))]),
        ..State::default()
    };
    assert_eq!(state, expected);
    assert_eq!(kernel.list_virtual_servers().expect("the list"), BTreeSet::from([here, tcp(V6, 53)]));
    assert_eq!(kernel.read(&Selection::Keys(BTreeSet::new())).expect("nothing"), State::default());
}

/// More real servers than a datagram of the kernel holds, beside virtual servers with none.
fn large_virtual_servers_are_read_whole() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    let (large, empty) = (tcp("10.96.0.1", 80), tcp("10.96.0.2", 80));
    must(&mut kernel, [large, empty].map(|key| Step::AddVirtualServer(key, server(&key, "rr", 0, 0))));
    let reals: Vec<RealServerKey> =
        (0..1000_u32).map(|n| real(&format!("10.1.{}.{}", n / 250, n % 250 + 1), 80)).collect();
    let outcomes =
        kernel.apply(&steps(reals.iter().map(|real| Step::AddRealServer(large, *real, weight(1)))));
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    let read = read_virtual_servers(&mut ipvs);
    assert_eq!(
        read[&large].real_servers.keys().copied().collect::<BTreeSet<_>>(),
        reals.into_iter().collect()
    );
    assert_eq!(read[&empty].real_servers, RealServers::default());
}

/// Ends the writer, whatever becomes of the reader.
struct Done<'a>(&'a AtomicBool);
impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody else adds and removes, all the time, while we read: an answer may be an error, but what was there all
/// along is never missing from it.
fn answers_are_complete_while_others_write() {
    let mut kernel = kernel();
    let mut ipvs = Ipvs::open().expect("IPVS");
    must(&mut kernel, [Step::AddDevice]);
    let stable: BTreeSet<VirtualServerKey> =
        (1..=1500_u16).map(|n| tcp(&format!("10.96.{}.{}", n / 250, n % 250 + 1), 80)).collect();
    // IPv6, where the kernel puts new addresses before the older ones.
    let vip = |key: &VirtualServerKey| address(&format!("fd00::{}", key.address));
    let make = |key: &VirtualServerKey| {
        [Step::AddVirtualServer(*key, server(key, "rr", 0, 0)), Step::AddAddress(vip(key))]
    };
    assert!(
        kernel.apply(&steps(stable.iter().flat_map(make))).iter().all(|outcome| *outcome == Outcome::Done)
    );

    let done = AtomicBool::new(false);
    let (mut complete, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // The new thread is in the same namespace.
        let writer = scope.spawn(|| {
            let mut kernel = LinuxKernel::open().expect("the lab's kernel");
            let mut rounds: u64 = 0;
            while !done.load(Ordering::Relaxed) {
                let key = |n| tcp(&format!("10.99.{}.{n}", rounds % 200), 80);
                let add = kernel.apply(&steps((1..=40).map(key).flat_map(|key| make(&key))));
                std::thread::sleep(Duration::from_millis(rounds % 4));
                let remove = (1..=40).map(key);
                let remove =
                    remove.flat_map(|key| [Step::DeleteAddress(vip(&key)), Step::DeleteVirtualServer(key)]);
                let remove = kernel.apply(&steps(remove));
                assert!(add.iter().chain(&remove).all(|outcome| *outcome == Outcome::Done));
                std::thread::sleep(Duration::from_millis(30 * (rounds % 3)));
                rounds += 1;
            }
            rounds
        });
        let reader = Done(&done);
        for _ in 0..60 {
            match ipvs.list() {
                Ok(list) => {
                    complete += 1;
                    assert_eq!(stable.iter().find(|key| !list.contains_key(key)), None, "missing");
                }
                Err(_) => refused += 1,
            }
            match kernel.read(&Selection::Addresses(Family::V6)) {
                Ok(state) => {
                    complete += 1;
                    let missing =
                        |key: &&VirtualServerKey| !state.addresses.get(&vip(key)).is_some_and(|a| a.routed);
                    assert_eq!(stable.iter().find(missing), None, "missing");
                }
                Err(_) => refused += 1,
            }
        }
        drop(reader);
        let rounds = writer.join().expect("the writer");
        println!("  {complete} complete answers, {refused} errors, during {rounds} rounds of changes");
        assert!(complete > 0 && rounds > 10);
    });
}

// ---- the probe ----

fn the_probe_changes_nothing() {
    let links = shell("ip -br link");
    probe::check().expect("the lab's kernel has all that is needed");
    assert_eq!(shell("ip -br link"), links);
    assert_eq!(saved(), Vec::<String>::new());
    assert_eq!(shell("nft list ruleset"), "");
}

fn without_the_capability_the_probe_says_so() {
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).expect("capabilities can be dropped");
    let error = LinuxKernel::open().err().expect("it may not").to_string();
    let (head, reason) = error.split_once(": ").expect("a head and a reason");
    assert!(head.starts_with("cannot use this kernel, "), "{error}");
    assert!(reason.starts_with("no permission to change its network: run as root"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

// ---- speed ----

/// Not a limit, a report: figures of the lab depend on the machine. `SPEED=10000` for the large one.
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

fn report(what: &str, time: Duration, count: usize) {
    let micros = time.as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = micros / count.max(1) as f64;
    println!("  {what}: {count} in {:.1} ms, {each:.2} µs each", micros / 1000.0);
}
