//! Services created and deleted by the thousand: how much memory stays in use.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::feed::Resource;
use crate::figures::Figures;
use crate::input::{self, Size, endpoint_address, service_address, slice};
use crate::live::filled;
use crate::look::{Ipvs, addresses, servers};
use crate::program::Program;

/// How many Services are created and deleted together.
const TOGETHER: u32 = 1000;
/// One Service in this many has an endpoint. The kernel keeps each removed real server for two minutes, and walks
/// through all of them whenever one is added: with more endpoints, this would measure that walk.
const ENDPOINT_OF: u32 = 10;
/// How long to wait for free memory to be returned: twice the time between two looks for the foundations.
const REST: Duration = Duration::from_secs(20);
/// A round that takes longer has lost something.
const LIMIT: Duration = Duration::from_mins(1);

/// Creates and deletes so many Services in a cluster of this size.
pub(crate) fn measure(size: Size, services: u32) -> anyhow::Result<Figures> {
    let feed = filled(size)?;
    let mut ipvs = Ipvs::open()?;
    let program = Program::start(&["--master", &feed.url()])?;
    program.wait_complete()?;
    let before = servers()?;
    let first = size.services;
    let endpoint = endpoint_address(size.services * size.endpoints + 1);
    let mut first_mebibytes = None;
    // The first round fills what is kept for reuse, so growth is measured from its end on.
    for round in 0..=services / TOGETHER {
        // Different Services each time, so that anything kept of deleted ones adds up.
        let first = first + round * TOGETHER;
        let numbers = || first..first + TOGETHER;
        let with_endpoint = || numbers().filter(|number| number % ENDPOINT_OF == 0);
        let last = first + (TOGETHER - 1) / ENDPOINT_OF * ENDPOINT_OF;
        feed.put_all(Resource::Slices, with_endpoint().map(|number| slice(number, &[endpoint])).collect())?;
        feed.put_all(Resource::Services, numbers().map(input::service).collect())?;
        ipvs.wait_for(service_address(last), endpoint)?;
        feed.delete_all(Resource::Services, numbers().map(input::service).collect())?;
        feed.delete_all(Resource::Slices, with_endpoint().map(|number| slice(number, &[])).collect())?;
        wait_until_gone(before, size).with_context(|| format!("round {round}"))?;
        if first_mebibytes.is_none() {
            first_mebibytes = Some(at_rest(&program)?);
        }
    }
    let busy = program.memory()?.now;
    let (before, after) = (first_mebibytes.context("a first round")?, at_rest(&program)?);
    Ok(Figures::from([
        ("before_mebibytes".into(), before),
        ("busy_mebibytes".into(), busy),
        ("after_mebibytes".into(), after),
        ("growth_percent".into(), (after / before - 1.0) * 100.0),
    ]))
}

/// Waits until the kernel has nothing more of what was deleted.
///
/// Each round waits for that. Otherwise the addresses, which the program removes last, would be more from round to
/// round: each takes the kernel longer the more there are.
fn wait_until_gone(before: (usize, usize), size: Size) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    while addresses()? != size.services as usize + 1 || servers()? != before {
        ensure!(Instant::now() < end, "after {LIMIT:?}: {:?} servers, of {before:?} before", servers()?);
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The memory in use, in MiB, once free memory was returned.
fn at_rest(program: &Program) -> anyhow::Result<f64> {
    sleep(REST);
    Ok(program.memory()?.now)
}
