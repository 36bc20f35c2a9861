//! The poller: looks at the kernel from outside, by netlink messages of its own and with administrators' tools.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kube_ipvs::kernel::netlink::{Attribute, Body, Protocol, Socket};

use crate::input::PORT;
use crate::newest;

/// The pause between two looks. The lab has one processor for both sides, and a look takes a tenth of a millisecond of
/// it: more looks would slow down what they wait for.
const PAUSE: Duration = Duration::from_micros(200);
/// The pause where the wait takes tens of milliseconds, of which looking should use few.
const LONG_PAUSE: Duration = Duration::from_millis(1);
/// A change that takes longer is lost.
const LIMIT: Duration = Duration::from_mins(2);

/// `IPVS_CMD_GET_DEST` (`linux/ip_vs.h`).
const GET_DEST: u8 = 8;
const AF_INET: u16 = 2;
const TCP: u16 = 6;

/// A socket for requests to IPVS.
pub(crate) struct Ipvs {
    pub(crate) socket: Socket,
    /// The number of IPVS in generic netlink.
    pub(crate) family: u16,
}

impl Ipvs {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::open(Protocol::Generic)?;
        // `CTRL_CMD_GETFAMILY` of `GENL_ID_CTRL`, `CTRL_ATTR_FAMILY_NAME`, `CTRL_ATTR_FAMILY_ID`.
        let ask = |body: &mut Body<'_>| {
            body.fixed(&[3, 1, 0, 0]);
            body.text(2, "IPVS");
        };
        let family =
            socket.get(0x10, ask, |message| Ok(message.attributes(4).get(1).and_then(Attribute::u16)))?;
        Ok(Self { socket, family: family.context("this kernel has no IPVS")? })
    }

    /// The addresses of a virtual server's real servers with a weight above 0.
    pub(crate) fn real_servers(&mut self, address: Ipv4Addr) -> anyhow::Result<Vec<Ipv4Addr>> {
        let ask = |body: &mut Body<'_>| {
            body.fixed(&[GET_DEST, 1, 0, 0]);
            body.nest(1, |body| service(body, address));
        };
        let dump = self.socket.dump(self.family, ask, |message| {
            let found = message.attributes(4).get(2).map(Attribute::nested);
            Ok(found.and_then(|found| {
                let weight = found.get(4)?.u32()?;
                let address: [u8; 4] = *found.get(1)?.value.first_chunk()?;
                (weight > 0).then(|| Ipv4Addr::from(address))
            }))
        })?;
        Ok(dump.items)
    }

    /// Waits until the kernel has this real server; returns when it was seen.
    pub(crate) fn wait_for(&mut self, service: Ipv4Addr, endpoint: Ipv4Addr) -> anyhow::Result<Instant> {
        wait(service, endpoint, PAUSE, || self.real_servers(service))
    }

    /// Does the same where many changes are on their way, and this is the last of them.
    pub(crate) fn wait_for_last(&mut self, service: Ipv4Addr, endpoint: Ipv4Addr) -> anyhow::Result<Instant> {
        wait(service, endpoint, LONG_PAUSE, || self.real_servers(service))
    }

    /// Does the same where this is the newest of many real servers: listing all of them would take longer than the
    /// change.
    pub(crate) fn wait_for_newest(&self, service: Ipv4Addr, endpoint: Ipv4Addr) -> anyhow::Result<Instant> {
        wait(service, endpoint, PAUSE, || newest::real_servers(self.family, service))
    }
}

fn wait(
    service: Ipv4Addr,
    endpoint: Ipv4Addr,
    pause: Duration,
    mut look: impl FnMut() -> anyhow::Result<Vec<Ipv4Addr>>,
) -> anyhow::Result<Instant> {
    let end = Instant::now() + LIMIT;
    // A virtual server that does not exist yet has no real servers.
    while !look()?.contains(&endpoint) {
        ensure!(Instant::now() < end, "{endpoint} is not a real server of {service} after {LIMIT:?}");
        std::thread::sleep(pause);
    }
    Ok(Instant::now())
}

/// The key of a virtual server.
pub(crate) fn service(body: &mut Body<'_>, address: Ipv4Addr) {
    body.u16(1, AF_INET);
    body.u16(2, TCP);
    body.attribute(3, &union(address));
    body.be16(4, PORT);
}

/// `union nf_inet_addr`.
pub(crate) fn union(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address.octets());
    bytes
}

/// How many virtual and real servers there are.
pub(crate) fn servers() -> anyhow::Result<(usize, usize)> {
    // In the network namespace of the calling thread: each test has its own.
    let table = std::fs::read_to_string("/proc/thread-self/net/ip_vs")?;
    let count = |start: &str| table.lines().filter(|line| line.starts_with(start)).count();
    // The header has a line that begins like those of real servers.
    Ok((count("TCP  "), count("  -> ") - 1))
}

/// How many addresses are on the device.
pub(crate) fn addresses() -> anyhow::Result<usize> {
    Ok(shell("ip -o -4 addr show dev kube-ipvs0")?.lines().count())
}

/// Checks that the kernel holds the whole state.
pub(crate) fn verify(services: u32, endpoints: u32) -> anyhow::Result<()> {
    let (services, endpoints) = (services as usize, endpoints as usize);
    let found = servers()?;
    ensure!(found == (services, endpoints), "virtual and real servers in the kernel: {found:?}");
    let addresses = addresses()?;
    ensure!(addresses == services, "addresses on kube-ipvs0: {addresses}");
    let set = shell("nft -j list set ip kube-ipvs cluster-addresses")?;
    let set: serde_json::Value = serde_json::from_str(&set).context("nft")?;
    let elements = set["nftables"][1]["set"]["elem"].as_array().map_or(0, Vec::len);
    ensure!(elements == services, "elements in the set: {elements}");
    Ok(())
}

/// The output of a command.
pub(crate) fn shell(line: &str) -> anyhow::Result<String> {
    let output = Command::new("sh").arg("-c").arg(line).output()?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
