//! The program on a folder of manifests: its cold start, and single changes of a file.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kube_ipvs::api::manifests::ManifestSource;
use rustix::process::Signal;

use crate::figures::{Figures, median_milliseconds};
use crate::input::{Size, endpoint_address, service_address, write, write_one};
use crate::look::{Ipvs, verify};
use crate::program::Program;

/// How many changes are measured.
const CHANGES: u32 = 60;
/// The pause between two changes, which are to be seen one by one.
const PAUSE: Duration = Duration::from_millis(40);

/// Starts the program on a cluster of this size and measures.
pub(crate) fn measure(size: Size) -> anyhow::Result<Figures> {
    let folder = PathBuf::from(std::env::var_os("TMPDIR").context("TMPDIR")?).join("manifests");
    write(size, &folder)?;
    Program::warm_up()?;

    let mut figures = Figures::new();
    let started = Instant::now();
    let program = Program::start(&["--manifests", &folder.to_string_lossy()])?;
    program.wait_complete()?;
    figures.insert("cold_seconds".into(), started.elapsed().as_secs_f64());
    // Stopped, so that whatever is not in the kernel now was missing when the program said it was complete.
    program.signal(Signal::STOP)?;
    verify(size.services, size.services * size.endpoints)?;
    figures.insert("reading_seconds".into(), reading(&folder)?.as_secs_f64());
    program.signal(Signal::CONT)?;

    figures.insert("change_milliseconds".into(), median_milliseconds(changes(size, &folder)?));
    Ok(figures)
}

/// How long it takes to read the manifests into events.
fn reading(folder: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let events = ManifestSource::new(vec![folder.to_owned()], "node").load()?;
    let elapsed = started.elapsed();
    ensure!(!events.is_empty(), "the manifests hold nothing");
    Ok(elapsed)
}

/// Replaces the endpoints of an additional Service one by one, and waits each time until the kernel has the new one.
fn changes(size: Size, folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let number = size.services;
    let first = size.services * size.endpoints;
    let address = service_address(number);
    let mut endpoints: Vec<Ipv4Addr> = (first..first + size.endpoints).map(endpoint_address).collect();
    let mut ipvs = Ipvs::open()?;
    write_one(number, &endpoints, folder)?;
    ipvs.wait_for(address, endpoints[0])?;

    let mut times = Vec::new();
    for change in 0..CHANGES {
        std::thread::sleep(PAUSE);
        // The newest endpoint comes, the oldest goes: the slice keeps its length.
        let new = endpoint_address(first + size.endpoints + change);
        endpoints.remove(0);
        endpoints.push(new);
        let started = Instant::now();
        write_one(number, &endpoints, folder)?;
        times.push(ipvs.wait_for(address, new)? - started);
    }
    Ok(times)
}
