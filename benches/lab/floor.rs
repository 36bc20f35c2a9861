//! The floor: what the kernel itself needs for the state, without anybody computing it.
//!
//! The messages are written here independently, from nothing but the addresses: this code must know neither the
//! program's wanted state nor its plans. Only the sending is the program's own (256 messages per system call).

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, ensure};
use kube_ipvs::kernel::netlink::{Body, CREATE, Commit, EXCLUSIVE, Frames, Protocol, Socket, Verdict};

use crate::figures::{Figures, median_milliseconds};
use crate::input::{Size, TARGET_PORT, endpoint_address, in_chains, service_address};
use crate::look::{Ipvs, service, shell, union, verify};

/// How many single changes are measured.
const CHANGES: u32 = 100;
/// How many real servers a burst adds: one to each of this many virtual servers.
pub(crate) const BURST: u32 = 1000;

/// `IPVS_CMD_NEW_SERVICE`, `IPVS_CMD_GET_SERVICE`, `IPVS_CMD_NEW_DEST`, `IPVS_CMD_GET_DEST` (`linux/ip_vs.h`).
const NEW_SERVICE: u8 = 1;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const GET_DEST: u8 = 8;
/// `NFNL_SUBSYS_NFTABLES` with `NFT_MSG_NEWSETELEM`, `NFT_MSG_GETSETELEM`.
const NEW_ELEMENTS: u16 = u16::from_be_bytes([10, 12]);
const GET_ELEMENTS: u16 = u16::from_be_bytes([10, 13]);
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `RTM_NEWADDR`, `RTM_GETADDR`, `RTM_GETROUTE`.
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESSES: u16 = 22;
const GET_ROUTES: u16 = 26;
/// Elements in one message: its list must stay below 64 KiB.
const ELEMENTS: usize = 1000;
const AF_INET: u8 = 2;

/// The three sockets through which the state is written.
pub(crate) struct Floor {
    ipvs: Ipvs,
    route: Socket,
    netfilter: Socket,
    device: u32,
}

/// Builds the state of this size, and times the writes; then times single changes.
pub(crate) fn measure(size: Size) -> anyhow::Result<Figures> {
    let mut floor = Floor::open()?;
    let mut figures = Figures::new();
    figures.insert("cold_seconds".into(), floor.fill(size)?);
    verify(size.services, size.services * size.endpoints)?;
    figures.insert("dump_seconds".into(), floor.dump(size)?);
    figures.insert("change_milliseconds".into(), floor.changes(size)?);
    if size.services >= BURST {
        figures.insert("burst_milliseconds".into(), floor.burst(size)?);
    }
    figures.insert("service_milliseconds".into(), floor.services(size)?);
    Ok(figures)
}

impl Floor {
    /// Creates the device and the set, and opens the sockets.
    pub(crate) fn open() -> anyhow::Result<Self> {
        shell("ip link add kube-ipvs0 type dummy")?;
        shell("nft add table ip kube-ipvs")?;
        shell("nft add set ip kube-ipvs cluster-addresses '{ type ipv4_addr; }'")?;
        let link = shell("ip -o link show dev kube-ipvs0")?;
        Ok(Self {
            ipvs: Ipvs::open()?,
            route: Socket::open(Protocol::Route)?,
            netfilter: Socket::open(Protocol::Netfilter)?,
            device: link.split(':').next().unwrap_or_default().parse().context("its number")?,
        })
    }

    /// Writes the whole state; returns the seconds that this took.
    pub(crate) fn fill(&mut self, size: Size) -> anyhow::Result<f64> {
        let mut servers = Frames::new();
        let mut addresses = Frames::new();
        for number in in_chains(0..size.services) {
            let service = service_address(number);
            push_service(self.ipvs.family, &mut servers, service);
            for endpoint in number * size.endpoints..(number + 1) * size.endpoints {
                push_dest(self.ipvs.family, &mut servers, service, endpoint_address(endpoint));
            }
            push_address(&mut addresses, self.device, service);
        }
        let mut elements = elements(0..size.services);
        let started = Instant::now();
        self.write(&mut elements, &mut servers, &mut addresses)?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn write(
        &mut self,
        elements: &mut Frames,
        servers: &mut Frames,
        addresses: &mut Frames,
    ) -> anyhow::Result<()> {
        let added = self.netfilter.transaction(elements);
        let made = self.ipvs.socket.batch(servers);
        let bound = self.route.batch(addresses);
        ensure!(added == Commit::Done, "the kernel did not take the elements: {added:?}");
        for verdict in made.iter().chain(&bound) {
            ensure!(*verdict == Verdict::Done, "the kernel did not take a message: {verdict:?}");
        }
        Ok(())
    }

    /// Reads everything back; returns the seconds that this took.
    fn dump(&mut self, size: Size) -> anyhow::Result<f64> {
        let started = Instant::now();
        let family = self.ipvs.family;
        let socket = &mut self.ipvs.socket;
        let services =
            socket.dump(family, |body| body.fixed(&[GET_SERVICE, 1, 0, 0]), |_| Ok(Some(())))?.items.len();
        let mut dests = 0;
        for number in 0..size.services {
            let ask = |body: &mut Body<'_>| {
                body.fixed(&[GET_DEST, 1, 0, 0]);
                body.nest(1, |body| service(body, service_address(number)));
            };
            dests += socket.dump(family, ask, |_| Ok(Some(())))?.items.len();
        }
        let device = self.device;
        self.route.dump(
            GET_ADDRESSES,
            |body| body.fixed(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]),
            |_| Ok(Some(())),
        )?;
        let routes = |body: &mut Body<'_>| {
            // `RT_TABLE_LOCAL`, `RTN_LOCAL`, `RTA_OIF`.
            body.fixed(&[AF_INET, 0, 0, 0, 255, 0, 0, 2, 0, 0, 0, 0]);
            body.u32(4, device);
        };
        self.route.dump(GET_ROUTES, routes, |_| Ok(Some(())))?;
        let set = |body: &mut Body<'_>| {
            body.fixed(&[AF_INET, 0, 0, 0]);
            body.text(1, "kube-ipvs");
            body.text(2, "cluster-addresses");
        };
        self.netfilter.dump(GET_ELEMENTS, set, |_| Ok(Some(())))?;
        let elapsed = started.elapsed();
        let wanted = (size.services as usize, (size.services * size.endpoints) as usize);
        ensure!((services, dests) == wanted, "read back: {services} virtual servers, {dests} real servers");
        Ok(elapsed.as_secs_f64())
    }

    /// Adds real servers one by one; returns the median in milliseconds.
    fn changes(&mut self, size: Size) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let mut frame = Frames::new();
            let endpoint = endpoint_address(size.services * size.endpoints + change);
            push_dest(self.ipvs.family, &mut frame, service_address(change % size.services), endpoint);
            let started = Instant::now();
            let verdicts = self.ipvs.socket.batch(&mut frame);
            times.push(started.elapsed());
            ensure!(verdicts == [Verdict::Done], "the kernel did not take a change: {verdicts:?}");
        }
        Ok(median_milliseconds(times))
    }

    /// Adds a real server to each of many virtual servers, in the order of their hash chains; returns the milliseconds
    /// of all together.
    fn burst(&mut self, size: Size) -> anyhow::Result<f64> {
        let mut frames = Frames::new();
        for number in in_chains(0..BURST) {
            let endpoint = endpoint_address(size.services * size.endpoints + CHANGES + number);
            push_dest(self.ipvs.family, &mut frames, service_address(number), endpoint);
        }
        let started = Instant::now();
        let verdicts = self.ipvs.socket.batch(&mut frames);
        let elapsed = started.elapsed();
        ensure!(verdicts.iter().all(|verdict| *verdict == Verdict::Done), "the kernel refused a burst");
        Ok(elapsed.as_secs_f64() * 1e3)
    }

    /// Adds Services with ten endpoints each, one by one; returns the median in milliseconds.
    fn services(&mut self, size: Size) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for number in size.services..size.services + 20 {
            let address = service_address(number);
            let (mut servers, mut addresses) = (Frames::new(), Frames::new());
            push_service(self.ipvs.family, &mut servers, address);
            for endpoint in 0..10 {
                push_dest(self.ipvs.family, &mut servers, address, endpoint_address(endpoint));
            }
            push_address(&mut addresses, self.device, address);
            let mut elements = elements(number..number + 1);
            let started = Instant::now();
            self.write(&mut elements, &mut servers, &mut addresses)?;
            times.push(started.elapsed());
        }
        Ok(median_milliseconds(times))
    }
}

fn push_service(family: u16, frames: &mut Frames, address: Ipv4Addr) {
    frames.push(family, 0, |body| {
        body.fixed(&[NEW_SERVICE, 1, 0, 0]);
        body.nest(1, |body| {
            service(body, address);
            body.text(6, "rr");
            body.attribute(7, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]); // flags, and the mask of valid ones
            body.u32(8, 0); // timeout
            body.u32(9, u32::MAX); // netmask
        });
    });
}

fn push_dest(family: u16, frames: &mut Frames, address: Ipv4Addr, endpoint: Ipv4Addr) {
    frames.push(family, 0, |body| {
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

fn push_address(frames: &mut Frames, device: u32, address: Ipv4Addr) {
    frames.push(NEW_ADDRESS, CREATE | EXCLUSIVE, |body| {
        let [a, b, c, d] = device.to_ne_bytes();
        body.fixed(&[AF_INET, 32, 0, 0, a, b, c, d]);
        for kind in [2, 1, 4] {
            body.attribute(kind, &address.octets()); // local, address, broadcast
        }
    });
}

/// One transaction that puts the addresses of these Services into the set.
fn elements(services: Range<u32>) -> Frames {
    let mut frames = Frames::new();
    frames.push(BATCH_BEGIN, 0, |body| body.fixed(&[0, 0, 0, 10]));
    let addresses: Vec<Ipv4Addr> = services.map(service_address).collect();
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
