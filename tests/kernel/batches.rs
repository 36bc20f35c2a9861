//! Many messages in one system call: failures, losses, and steps that depend on others.

use kube_ipvs::diff::{Phase, Plan, PlannedStep, Step};
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::netlink::{self, Frames, Socket, Verdict};
use kube_ipvs::kernel::{Kernel, Outcome};
use kube_ipvs::state::{Sysctl, VirtualServerKey};

use crate::build::{errno, kernel, must, real, saved, server, steps, tcp, weight};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    failures_in_the_middle_of_a_batch_stop_nothing,
    an_overrun_is_unknown_and_the_socket_goes_on,
    a_transaction_that_is_lost_is_unknown,
    steps_whose_need_was_not_met_are_skipped
];

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
        // Each step fails, and therefore gets an answer.
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

    // The socket is in step again: it attributes one failure among successes correctly.
    frames.clear();
    for port in [1, 1, 2] {
        let step = Step::AddVirtualServer(key(port), server(&key(port), "rr", 0, 0));
        assert!(ipvs.encode(&step, &mut frames));
    }
    let verdicts = small.batch(&mut frames);
    assert_eq!(verdicts[0], Verdict::Done);
    assert!(matches!(&verdicts[1], Verdict::Errno(refusal) if refusal.errno == 17), "{verdicts:?}");
    assert_eq!(verdicts[2], Verdict::Done);

    // A normal socket has room for the answers to a full datagram in which everything fails.
    let mut frames = Frames::new();
    for _ in 0..1000 {
        frames.push(NEW_ROUTE, 0, |body| body.fixed(&[0; 12]));
    }
    let verdicts = Socket::open(netlink::Protocol::Route).expect("a socket").batch(&mut frames);
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Errno(_))));
}

/// More errors than the buffer holds; the answer that ends the transaction is among the lost ones.
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
    let netlink::Commit::Refused { first, others } =
        socket.transaction(&mut transaction(&["three", "one", "four", "two"]))
    else {
        panic!("not refused")
    };
    assert_eq!(
        [first].iter().chain(&others).map(|(index, refusal)| (*index, refusal.errno)).collect::<Vec<_>>(),
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
