//! Stale entries of connection tracking, created and shown by the `conntrack` tool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::purge::Purge;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Kernel as _, StaleEntry};
use kube_ipvs::state::{RealServerKey, VirtualServerKey};

use crate::build::kernel;
use crate::lab::{self, Test, shell};
use crate::speed::report;

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![stale_udp_entries_are_deleted, speed_of_purging];

/// The command that creates an entry: where its first packet went, and where the replies come from. Each has a client
/// port of its own.
fn track(number: usize, protocol: &str, destination: &str, replies_from: &str) -> String {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
    let (to, from) = (parse(destination), parse(replies_from));
    let client = if to.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
    let port = 1024 + number;
    let state = if protocol == "tcp" { "--state ESTABLISHED" } else { "" };
    format!(
        "conntrack -I -p {protocol} -t 100 {state} -s {client} --sport {port} -d {} --dport {} \
         -r {} --reply-port-src {} -q {client} --reply-port-dst {port}\n",
        to.ip(),
        to.port(),
        from.ip(),
        from.port(),
    )
}

/// The entries: protocol, destination of the original direction, source of the reply direction.
fn entries() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        for line in shell(&format!("conntrack -L -f {family} 2>/dev/null")).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let value = |name: &str, which: usize| {
                let mut values = words.iter().filter_map(|word| word.strip_prefix(name));
                values.nth(which).unwrap_or_else(|| panic!("{name} in {line}")).to_owned()
            };
            let end = |address: &str, port: &str, which| {
                let address = value(address, which).parse().expect("an address");
                SocketAddr::new(address, value(port, which).parse().expect("a port"))
            };
            let (to, from) = (end("dst=", "dport=", 0), end("src=", "sport=", 1));
            found.insert(format!("{} {to} {from}", words[0]));
        }
    }
    found
}

fn purge(servers: &[(&str, &[&str])]) -> Purge {
    let parse = |text: &&str| text.parse::<SocketAddr>().expect("an address and a port");
    let live = servers.iter().map(|(server, live)| {
        let server = parse(server);
        let key = VirtualServerKey { address: server.ip(), protocol: Protocol::Udp, port: server.port() };
        let live = live.iter().map(parse).map(|real| RealServerKey { address: real.ip(), port: real.port() });
        (key, live.collect())
    });
    Purge { live: live.collect() }
}

/// What is stale, and how much of it there is in each family.
fn found(kernel: &mut LinuxKernel, purge: &Purge) -> (Vec<StaleEntry>, BTreeMap<Family, usize>) {
    let found = kernel.find_stale(purge);
    assert_eq!(found.failure, None);
    let mut counts = BTreeMap::new();
    for entry in &found.entries {
        *counts.entry(entry.flow.family()).or_default() += 1;
    }
    (found.entries, counts)
}

/// Deletes what is stale, and says how much it was.
fn deleted(kernel: &mut LinuxKernel, purge: &Purge) -> BTreeMap<Family, usize> {
    let (entries, counts) = found(kernel, purge);
    let purged = kernel.delete_stale(&entries);
    assert_eq!((purged.failure, purged.deleted), (None, entries.len() as u64));
    counts
}

fn stale_udp_entries_are_deleted() {
    let mut script = String::new();
    for (address, live, gone) in
        [("10.96.0.10", "10.244.1.2", "10.244.1.3"), ("[fd00::10]", "[fd00:244::2]", "[fd00:244::3]")]
    {
        let vip = |port: u16| format!("{address}:{port}");
        let (live, gone) = (format!("{live}:5353"), format!("{gone}:5353"));
        let flows = [
            (vip(53), &live),
            (vip(53), &gone),
            (vip(53), &vip(53)),
            (vip(54), &live),
            (vip(55), &gone),
            (gone.clone(), &gone),
        ];
        for (number, (destination, replies_from)) in flows.into_iter().enumerate() {
            for protocol in ["udp", "tcp"] {
                script += &track(number, protocol, &destination, replies_from);
            }
        }
    }
    shell(&script);
    let all = entries();
    assert_eq!(all.len(), 24, "{all:?}");

    let mut kernel = kernel();
    let stale = purge(&[
        ("10.96.0.10:53", &["10.244.1.2:5353"]),
        ("10.96.0.10:54", &[]),
        ("[fd00::10]:53", &["[fd00:244::2]:5353"]),
        ("[fd00::10]:54", &[]),
        ("10.96.0.11:53", &[]),
    ]);
    assert_eq!(found(&mut kernel, &stale).1, [(Family::V4, 3), (Family::V6, 3)].into());
    assert_eq!(entries(), all, "they are only found");
    assert_eq!(deleted(&mut kernel, &stale), [(Family::V4, 3), (Family::V6, 3)].into());
    let gone: BTreeSet<_> = all.difference(&entries()).cloned().collect();
    let expected = [
        "udp 10.96.0.10:53 10.244.1.3:5353",
        "udp 10.96.0.10:53 10.96.0.10:53",
        "udp 10.96.0.10:54 10.244.1.2:5353",
        "udp [fd00::10]:53 [fd00:244::3]:5353",
        "udp [fd00::10]:53 [fd00::10]:53",
        "udp [fd00::10]:54 [fd00:244::2]:5353",
    ];
    assert_eq!(gone, expected.map(str::to_owned).into());

    // Of one family only; and what is gone is gone.
    let of_v4 = purge(&[("10.96.0.10:55", &[]), ("10.96.0.10:53", &[])]);
    let (twice, _) = found(&mut kernel, &of_v4);
    assert_eq!(deleted(&mut kernel, &of_v4), [(Family::V4, 2)].into());
    let again = kernel.delete_stale(&twice);
    assert_eq!((again.failure, again.deleted), (None, 0), "they went by themselves");
    let of_v6 = purge(&[("[fd00::10]:53", &[])]);
    assert_eq!(deleted(&mut kernel, &of_v6), [(Family::V6, 1)].into());
    assert_eq!(deleted(&mut kernel, &of_v6), [].into());
    assert_eq!(entries().iter().filter(|entry| entry.starts_with("tcp")).count(), 12);
}

/// How many entries there are during the speed measurement.
const ENTRIES: u16 = 20_000;

/// What it costs to look at each entry.
fn speed_of_purging() {
    shell(
        "ip link add eth0 type dummy; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up
         nft 'add table ip t; add chain ip t o { type filter hook output priority 0; }'
         nft add rule ip t o ct state new accept",
    );
    let socket = std::net::UdpSocket::bind("192.0.2.1:0").expect("a socket");
    for port in 1..=ENTRIES {
        socket.send_to(b"?", ("192.0.2.7", port)).expect("a datagram");
    }
    assert_eq!(shell("conntrack -C").trim(), ENTRIES.to_string());
    let mut kernel = kernel();
    let started = Instant::now();
    assert_eq!(deleted(&mut kernel, &purge(&[("10.96.0.10:53", &[])])), [].into());
    report("find no stale entry", started.elapsed(), usize::from(ENTRIES));
}
