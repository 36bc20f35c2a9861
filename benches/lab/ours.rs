//! The program itself: started on a folder of manifests, watched, and given changes.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kube_ipvs::api::manifests::ManifestSource;
use rustix::process::{Pid, Signal, kill_process};

use crate::floor::{Ipvs, median, milliseconds, verify};
use crate::input::{CLUSTER_CIDR, Size, endpoint_address, service_address, write, write_one};
use crate::report::Ours;

/// The line that it logs when everything is written for the first time.
const COMPLETE: &str = "First sync complete";
/// How many changes are measured.
const CHANGES: u32 = 60;
/// Between two changes: they are to be seen one by one.
const PAUSE: Duration = Duration::from_millis(40);
/// Between two looks at the kernel. It has one processor for both sides, and a look takes a fifth of a millisecond of it:
/// more of them would slow down what they wait for.
const LOOK: Duration = Duration::from_micros(500);
/// A change that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts the program on a cluster of this size and measures.
pub(crate) fn measure(size: Size) -> anyhow::Result<Ours> {
    let folder = PathBuf::from(std::env::var_os("TMPDIR").context("TMPDIR")?).join("manifests");
    write(size, &folder)?;
    // From here on the program is in memory, as it is on a node that restarts it.
    Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().context(PROGRAM)?;

    let started = Instant::now();
    let mut proxy = Proxy::start(&folder)?;
    proxy.wait_complete()?;
    let cold = started.elapsed();
    // Whatever is not in the kernel now was not there when the program said so.
    proxy.signal(Signal::STOP)?;
    verify(size)?;
    let reading = reading(&folder)?;
    proxy.signal(Signal::CONT)?;

    let changes = changes(size, &folder)?;
    Ok(Ours {
        cold_seconds: cold.as_secs_f64(),
        reading_seconds: reading.as_secs_f64(),
        change_milliseconds: milliseconds(median(changes)),
    })
}

/// How long it takes to make events of the manifests.
fn reading(folder: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let events = ManifestSource::new(vec![folder.to_owned()], "node").load()?;
    let elapsed = started.elapsed();
    ensure!(!events.is_empty(), "the manifests hold nothing");
    Ok(elapsed)
}

/// Adds one endpoint after the other to one more Service, and waits each time until the kernel has it.
fn changes(size: Size, folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let number = size.services;
    let first = size.services * size.endpoints;
    let address = service_address(number);
    let mut endpoints: Vec<Ipv4Addr> = (first..first + size.endpoints).map(endpoint_address).collect();
    let mut ipvs = Ipvs::open()?;
    write_one(number, &endpoints, folder)?;
    await_real_server(&mut ipvs, address, endpoints[0])?;

    let mut times = Vec::new();
    for change in 0..CHANGES {
        std::thread::sleep(PAUSE);
        // A new one comes, the oldest goes: the slice stays as long as the others.
        let new = endpoint_address(first + size.endpoints + change);
        endpoints.remove(0);
        endpoints.push(new);
        let started = Instant::now();
        write_one(number, &endpoints, folder)?;
        await_real_server(&mut ipvs, address, new)?;
        times.push(started.elapsed());
    }
    Ok(times)
}

fn await_real_server(ipvs: &mut Ipvs, service: Ipv4Addr, endpoint: Ipv4Addr) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    // A virtual server that does not exist yet cannot be asked for its real servers.
    while !ipvs.real_servers(service).is_ok_and(|found| found.contains(&endpoint)) {
        ensure!(Instant::now() < end, "{endpoint} is not a real server of {service} after {LIMIT:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The program, as Cargo built it for this benchmark: with the settings of a release.
const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-ipvs");

/// A running kube-ipvs. It is killed when this is dropped.
struct Proxy {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Proxy {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(PROGRAM)
            .arg("--manifests")
            .arg(folder)
            .args(["--hostname-override", "node", "--proxy-mode", "ipvs", "--cluster-cidr", CLUSTER_CIDR])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(PROGRAM)?;
        let log = BufReader::new(child.stderr.take().expect("its standard error is a pipe"));
        Ok(Self { child, log })
    }

    /// Reads its log until it says that everything is written.
    fn wait_complete(&mut self) -> anyhow::Result<()> {
        let mut log = String::new();
        loop {
            let before = log.len();
            if self.log.read_line(&mut log)? == 0 {
                bail!("kube-ipvs ended:\n{log}");
            }
            if log[before..].contains(COMPLETE) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot signal kube-ipvs")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
