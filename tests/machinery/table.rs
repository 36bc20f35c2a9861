//! The state that the kernel must hold for some Services, and a comparison with the state that it holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::control_plane::ControlPlane;
use crate::lab::shell;
use crate::tools::ipvsadm;

/// How long a change may take: usually milliseconds, but the machine may be busy.
pub const SOON: Duration = Duration::from_secs(5);
/// How long the idle real server of a removed endpoint may stay: it is checked every five seconds.
pub const DRAINED: Duration = Duration::from_secs(20);

/// The kernel state in the three places that hold service addresses.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    /// `ipvsadm -ln`, one text for each virtual server with its real servers, in any order.
    servers: BTreeSet<String>,
    /// `ip addr show kube-ipvs0`.
    addresses: BTreeSet<String>,
    /// `ip route show table local dev kube-ipvs0`.
    routes: BTreeSet<String>,
}

impl Table {
    fn read(with_draining: bool) -> Self {
        let words = |line: &str, index: usize| line.split_whitespace().nth(index).map(str::to_owned);
        let without_prefix = |address: String| address.split('/').next().map(str::to_owned);
        let addresses = shell("ip -o addr show kube-ipvs0 2>/dev/null || true");
        let routes = shell(
            "ip route show table local dev kube-ipvs0 2>/dev/null || true
             ip -6 route show table local dev kube-ipvs0 2>/dev/null || true",
        );
        let idle = |line: &&str| with_draining || !line.ends_with(" Masq 0 0 0");
        let servers = without_counts(&ipvsadm());
        Self {
            servers: servers_of(servers.lines().filter(idle)),
            addresses: addresses
                .lines()
                .filter_map(|line| words(line, 3))
                .filter_map(without_prefix)
                .collect(),
            routes: routes
                .lines()
                .filter(|line| line.starts_with("local "))
                .filter_map(|line| words(line, 1))
                .collect(),
        }
    }
}

/// Removes the connection counts of servers in use, which do not matter here.
fn without_counts(servers: &str) -> String {
    let counts = |line: &str| match line.rsplitn(3, ' ').nth(2) {
        Some(rest) if rest.contains(" -> ") && !rest.ends_with(" 0") => format!("{rest} 0 0\n"),
        _ => format!("{line}\n"),
    };
    servers.lines().map(counts).collect()
}

/// Attributes real servers to the virtual server before them; the kernel keeps no order.
fn servers_of<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut servers: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for line in lines {
        match (line.starts_with("  ->"), servers.last_mut()) {
            (true, Some((_, real_servers))) => drop(real_servers.insert(line)),
            _ => servers.push((line, BTreeSet::new())),
        }
    }
    servers
        .into_iter()
        .map(|(server, real_servers)| {
            let lines: Vec<&str> = std::iter::once(server).chain(real_servers).collect();
            lines.join("\n")
        })
        .collect()
}

fn wanted(control_plane: &ControlPlane, servers: &str, addresses: &[&str]) -> Table {
    let servers = format!("{}{servers}", control_plane.kubernetes());
    let addresses: BTreeSet<String> =
        addresses.iter().chain(&["10.96.0.1"]).map(|address| (*address).to_owned()).collect();
    Table { servers: servers_of(servers.lines()), routes: addresses.clone(), addresses }
}

fn compare(wanted: &Table, limit: Duration, with_draining: bool) {
    let begun = Instant::now();
    loop {
        let found = Table::read(with_draining);
        if found == *wanted {
            return;
        }
        assert!(begun.elapsed() < limit, "after {limit:?}\nfound  {found:#?}\nwanted {wanted:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the kernel has exactly these virtual servers (in the form of [`ipvsadm`]) and addresses, beside those of
/// `default/kubernetes`. Idle servers of removed endpoints may still be there, with weight 0.
pub fn shows(control_plane: &ControlPlane, servers: &str, addresses: &[&str]) {
    compare(&wanted(control_plane, servers, addresses), SOON, false);
}

/// Does the same, and waits until nothing drains.
pub fn comes_to(control_plane: &ControlPlane, servers: &str, addresses: &[&str]) {
    compare(&wanted(control_plane, servers, addresses), DRAINED, true);
}
