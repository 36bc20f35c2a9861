//! The floor: what the kernel needs for the state if nobody has to think about it.
//!
//! The messages are written here once more, from nothing but the addresses: this must know neither the program's
//! wanted state nor its plans. Only what sends them is the program's own (256 messages per system call).

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kube_ipvs::kernel::netlink::{
    Attribute, Body, CREATE, Commit, EXCLUSIVE, Frames, Protocol, Socket, Verdict,
};

use crate::input::{PORT, Size, TARGET_PORT, endpoint_address, service_address};
use crate::report::Floor;

/// How many single changes are measured.
const CHANGES: u32 = 100;

/// `IPVS_CMD_NEW_SERVICE`, `IPVS_CMD_NEW_DEST`, `IPVS_CMD_GET_DEST` (`linux/ip_vs.h`).
const NEW_SERVICE: u8 = 1;
const NEW_DEST: u8 = 5;
const GET_DEST: u8 = 8;
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWSETELEM`.
const NEW_ELEMENTS: u16 = u16::from_be_bytes([10, 12]);
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `RTM_NEWADDR`.
const NEW_ADDRESS: u16 = 20;
/// Elements in one message: its list must stay below 64 KiB.
const ELEMENTS: usize = 1000;
const AF_INET: u8 = 2;

/// Builds the state of this size and times the sending.
pub(crate) fn measure(size: Size) -> anyhow::Result<Floor> {
    shell("ip link add kube-ipvs0 type dummy")?;
    shell("nft add table ip kube-ipvs")?;
    shell("nft add set ip kube-ipvs cluster-addresses '{ type ipv4_addr; }'")?;
    let device = std::fs::read_to_string("/sys/class/net/kube-ipvs0/ifindex")?.trim().parse()?;

    let mut ipvs = Ipvs::open()?;
    let mut route = Socket::open(Protocol::Route)?;
    let mut netfilter = Socket::open(Protocol::Netfilter)?;
    let mut servers = Frames::new();
    let mut addresses = Frames::new();
    for number in 0..size.services {
        let service = service_address(number);
        ipvs.push_service(&mut servers, service);
        for endpoint in number * size.endpoints..(number + 1) * size.endpoints {
            ipvs.push_dest(&mut servers, service, endpoint_address(endpoint));
        }
        push_address(&mut addresses, device, service);
    }
    let mut elements = elements(size);

    let started = Instant::now();
    let made = ipvs.socket.batch(&mut servers);
    let added = netfilter.transaction(&mut elements);
    let bound = route.batch(&mut addresses);
    let elapsed = started.elapsed();

    for verdict in made.iter().chain(&bound) {
        ensure!(*verdict == Verdict::Done, "the kernel did not take a message: {verdict:?}");
    }
    ensure!(added == Commit::Done, "the kernel did not take the elements: {added:?}");
    verify(size)?;

    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let mut frame = Frames::new();
        let endpoint = endpoint_address(size.services * size.endpoints + change);
        ipvs.push_dest(&mut frame, service_address(change % size.services), endpoint);
        let started = Instant::now();
        let verdicts = ipvs.socket.batch(&mut frame);
        changes.push(started.elapsed());
        ensure!(verdicts == [Verdict::Done], "the kernel did not take a change: {verdicts:?}");
    }
    Ok(Floor { cold_seconds: elapsed.as_secs_f64(), change_milliseconds: milliseconds(median(changes)) })
}

/// Checks with the tools of administrators that the kernel holds the whole state.
pub(crate) fn verify(size: Size) -> anyhow::Result<()> {
    let (services, endpoints) = (size.services as usize, (size.services * size.endpoints) as usize);
    let table = std::fs::read_to_string("/proc/net/ip_vs")?;
    let count = |start: &str| table.lines().filter(|line| line.starts_with(start)).count();
    // The head has a line that begins like those of real servers.
    let found = (count("TCP  "), count("  -> ") - 1);
    ensure!(found == (services, endpoints), "virtual and real servers in the kernel: {found:?}");
    let addresses = shell("ip -o -4 addr show dev kube-ipvs0")?.lines().count();
    ensure!(addresses == services, "addresses on kube-ipvs0: {addresses}");
    let set = shell("nft -j list set ip kube-ipvs cluster-addresses")?;
    let set: serde_json::Value = serde_json::from_str(&set).context("nft")?;
    let elements = set["nftables"][1]["set"]["elem"].as_array().map_or(0, Vec::len);
    ensure!(elements == services, "elements in the set: {elements}");
    Ok(())
}

/// A socket that speaks to IPVS.
pub(crate) struct Ipvs {
    socket: Socket,
    family: u16,
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

    fn push_service(&self, frames: &mut Frames, address: Ipv4Addr) {
        frames.push(self.family, 0, |body| {
            body.fixed(&[NEW_SERVICE, 1, 0, 0]);
            body.nest(1, |body| {
                service(body, address);
                body.text(6, "rr");
                body.attribute(7, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]); // flags, and which are meant
                body.u32(8, 0); // timeout
                body.u32(9, u32::MAX); // netmask
            });
        });
    }

    fn push_dest(&self, frames: &mut Frames, address: Ipv4Addr, endpoint: Ipv4Addr) {
        frames.push(self.family, 0, |body| {
            body.fixed(&[NEW_DEST, 1, 0, 0]);
            body.nest(1, |body| service(body, address));
            body.nest(2, |body| {
                body.attribute(1, &union(endpoint));
                body.be16(2, TARGET_PORT);
                body.u32(3, 0); // masquerading
                body.u32(4, 1); // weight
                body.u32(5, 0); // no thresholds
                body.u32(6, 0);
                body.u16(11, AF_INET.into());
            });
        });
    }

    /// The addresses of a virtual server's real servers that get connections.
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
}

/// What a virtual server is known by.
fn service(body: &mut Body<'_>, address: Ipv4Addr) {
    body.u16(1, AF_INET.into());
    body.u16(2, 6); // TCP
    body.attribute(3, &union(address));
    body.be16(4, PORT);
}

/// `union nf_inet_addr`.
fn union(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address.octets());
    bytes
}

fn push_address(frames: &mut Frames, device: u32, address: Ipv4Addr) {
    frames.push(NEW_ADDRESS, CREATE | EXCLUSIVE, |body| {
        let [a, b, c, d] = device.to_ne_bytes();
        body.fixed(&[AF_INET, 32, 0, 0, a, b, c, d]);
        for kind in [2, 1, 4] {
            body.attribute(kind, &address.octets()); // local, address, broadcast
        }
    });
}

/// One transaction that puts all service addresses into the set.
fn elements(size: Size) -> Frames {
    let mut frames = Frames::new();
    frames.push(BATCH_BEGIN, 0, |body| body.fixed(&[0, 0, 0, 10]));
    let addresses: Vec<Ipv4Addr> = (0..size.services).map(service_address).collect();
    for addresses in addresses.chunks(ELEMENTS) {
        frames.push(NEW_ELEMENTS, CREATE | EXCLUSIVE, |body| {
            body.fixed(&[AF_INET, 0, 0, 0]);
            body.text(1, "kube-ipvs");
            body.text(2, "cluster-addresses");
            body.nest(3, |body| {
                for address in addresses {
                    body.nest(1, |body| body.nest(1, |body| body.attribute(1, &address.octets())));
                }
            });
        });
    }
    frames.push(BATCH_END, 0, |body| body.fixed(&[0, 0, 0, 10]));
    frames
}

/// What a command prints.
fn shell(line: &str) -> anyhow::Result<String> {
    let output = Command::new("sh").arg("-c").arg(line).output()?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
