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
/// How long to wait for free memory to be returned: once per round of the audit, half a minute in a cluster of 1,000.
const REST: Duration = Duration::from_secs(45);
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
        let end = Instant::now() + LIMIT;
        while !ipvs.real_servers(service_address(last))?.is_empty() {
            ensure!(Instant::now() < end, "round {round}: what was deleted is there after {LIMIT:?}");
            sleep(Duration::from_millis(5));
        }
        if first_mebibytes.is_none() {
            sleep(REST);
            first_mebibytes = Some(program.memory()?.now);
        }
    }
    let busy = program.memory()?.now;
    sleep(REST);
    let end = Instant::now() + LIMIT;
    while servers()? != before || addresses()? != size.services as usize + 1 {
        ensure!(Instant::now() < end, "servers {:?}, of {before:?} before", servers()?);
        sleep(Duration::from_millis(100));
    }
    let (before, after) = (first_mebibytes.context("a first round")?, program.memory()?.now);
    Ok(Figures::from([
        ("before_mebibytes".into(), before),
        ("busy_mebibytes".into(), busy),
        ("after_mebibytes".into(), after),
        ("growth_percent".into(), (after / before - 1.0) * 100.0),
    ]))
}
