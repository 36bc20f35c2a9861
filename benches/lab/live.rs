//! The program on an API server: its cold start, and changes while it runs.
//!
//! The server is a [`Feed`], so that the measurement is of the program: see there.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kube::Client;
use kube_ipvs::api::watch::ApiSource;
use kube_ipvs::api::{Change, Event, client};
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::feed::{Feed, Resource};
use crate::figures::{Figures, median_milliseconds, percentile_milliseconds};
use crate::floor::BURST;
use crate::input::{self, Size, endpoint_address, service_address, slice};
use crate::look::{Ipvs, servers, verify};
use crate::program::Program;

/// How many single changes are measured.
const CHANGES: u32 = 200;
/// How many Services are created one after the other.
const CREATED: u32 = 20;
/// Endpoints in the large slice: as many as a slice can have.
const LARGE: u32 = 1000;
/// How many times one of these endpoints changes.
const LARGE_CHANGES: u32 = 40;
/// How many slices change while a Service is created, and how long receiving them takes.
const CROWD: u32 = 2000;
const RECEIVED: Duration = Duration::from_millis(50);
/// How many bursts are measured.
const ROUNDS: u32 = 3;
/// The pause between two changes, which are to be seen one by one.
const PAUSE: Duration = Duration::from_millis(15);
/// After this time without work, memory that is still in use stays in use.
const SETTLED: Duration = Duration::from_secs(3);

/// When the servers stay the same for this long, nothing drains any more: connections are counted every five seconds.
const DRAINED: Duration = Duration::from_secs(8);

/// Measurements that take too long for every size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Long {
    /// How long changes roll at 100 a second.
    pub(crate) rolling: Duration,
    /// How long nothing happens.
    pub(crate) idle: Duration,
}

/// The cluster, its server, and the means to look at the kernel.
struct Live {
    size: Size,
    feed: Feed,
    ipvs: Ipvs,
    program: Program,
    /// The number of the next unused endpoint.
    fresh: u32,
}

/// Starts the program on a cluster of this size and measures.
pub(crate) fn measure(size: Size, long: Option<Long>) -> anyhow::Result<Figures> {
    let feed = filled(size)?;
    let mut figures = Figures::new();
    let fetched =
        one_thread()?.block_on(async { fetch(client::connect(None, Some(&feed.url())).await?).await })?;
    figures.insert("fetch_seconds".into(), fetched.as_secs_f64());
    if size.services >= BURST {
        figures.insert("receiving_milliseconds".into(), receive_burst(&feed, size)?);
    }
    let mut live = Live::start(size, feed, &mut figures)?;
    live.memory(&mut figures)?;
    live.single_changes(&mut figures)?;
    live.created(&mut figures)?;
    live.large(&mut figures)?;
    if size.services >= BURST {
        live.burst(&mut figures)?;
    }
    if let Some(long) = &long {
        live.rolling(long.rolling, &mut figures)?;
        live.idle(long.idle, &mut figures)?;
    }
    let mut live = live.restart(&mut figures)?;
    // Measured last: IPVS keeps removed real servers for a minute or two in one list, which it walks for each new one
    // (`ip_vs_trash_get_dest`), so thousands of removed ones slow down whatever is measured afterwards.
    if size.services >= BURST && long.is_none() {
        live.crowded(&mut figures)?;
    }
    Ok(figures)
}

/// Measures what takes a few seconds: the cold start, and single changes.
pub(crate) fn measure_briefly(size: Size) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let mut live = Live::start(size, filled(size)?, &mut figures)?;
    live.single_changes(&mut figures)?;
    Ok(figures)
}

/// A server with the cluster and `default/kubernetes`.
pub(crate) fn filled(size: Size) -> anyhow::Result<Feed> {
    let feed = Feed::start()?;
    // In parts: only the server's own form of the objects should stay in memory.
    for first in (0..size.services).step_by(1000) {
        let numbers = first..(first + 1000).min(size.services);
        feed.put_all(Resource::Services, numbers.clone().map(input::service).collect())?;
        let slices = numbers.map(|number| slice(number, &input::endpoints(size, number)));
        feed.put_all(Resource::Slices, slices.collect())?;
    }
    let [service, slice] = input::kubernetes();
    feed.put(Resource::Services, service)?;
    feed.put(Resource::Slices, slice)?;
    Ok(feed)
}

/// How long it takes to receive the complete lists as events.
pub(crate) async fn fetch(client: Client) -> anyhow::Result<Duration> {
    let (sender, mut events) = tokio::sync::mpsc::channel(1024);
    let started = Instant::now();
    let source = ApiSource::new(client, Arc::from("node"));
    let end = CancellationToken::new();
    let running = tokio::spawn(source.run(sender, end.clone()));
    let mut complete = 0;
    while complete < 2 {
        match events.recv().await.context("the source ended")? {
            Event::Service(Change::Replace(_)) | Event::Slice(Change::Replace(_)) => complete += 1,
            _ => {}
        }
    }
    let elapsed = started.elapsed();
    end.cancel();
    running.await??;
    Ok(elapsed)
}

/// How long it takes to receive a burst of changed slices as events, in milliseconds. One thread receives them all, as
/// in the program: passing each event to another thread would cost more than receiving it.
fn receive_burst(feed: &Feed, size: Size) -> anyhow::Result<f64> {
    let end = CancellationToken::new();
    let (sender, received) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| one_thread()?.block_on(receive(feed.url(), sender, end.clone())));
        let times = tell_bursts(feed, size, &received);
        end.cancel();
        receiver.join().expect("the receiver does not panic")?;
        Ok(median_milliseconds(times?))
    })
}

/// Changes slices, one burst after the other; returns how long each took to be received.
fn tell_bursts(feed: &Feed, size: Size, received: &Receiver<Instant>) -> anyhow::Result<Vec<Duration>> {
    received.recv().context("a complete list")?;
    let mut times = Vec::new();
    // The last round restores the original slices.
    for more in (0..=ROUNDS).rev() {
        sleep(Duration::from_millis(500));
        let changed = |number| {
            let mut endpoints = input::endpoints(size, number);
            endpoints.extend((0..more).map(|index| endpoint_address(u32::MAX / 512 + index)));
            slice(number, &endpoints)
        };
        let told = feed.put_all(Resource::Slices, (0..BURST).map(changed).collect())?;
        times.push(received.recv().context("a burst")? - told);
    }
    Ok(times)
}

/// Reports when the slices are complete, and then whenever a whole burst of them has changed.
async fn receive(url: String, complete: Sender<Instant>, end: CancellationToken) -> anyhow::Result<()> {
    let (sender, mut events) = tokio::sync::mpsc::channel(BURST as usize);
    let source = ApiSource::new(client::connect(None, Some(&url)).await?, Arc::from("node"));
    let running = tokio::spawn(source.run(sender, end));
    let mut changed = 0;
    while let Some(event) = events.recv().await {
        changed += u32::from(matches!(event, Event::Slice(Change::Upsert(_))));
        if changed == BURST || matches!(event, Event::Slice(Change::Replace(_))) {
            changed = 0;
            complete.send(Instant::now())?;
        }
    }
    running.await?.map_err(Into::into)
}

fn one_thread() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Live {
    fn start(size: Size, feed: Feed, figures: &mut Figures) -> anyhow::Result<Self> {
        Program::warm_up()?;
        let mut ipvs = Ipvs::open()?;
        feed.forget_listed();
        let started = Instant::now();
        let program = Program::start(&["--master", &feed.url()])?;
        let listed = loop {
            if let Some(listed) = feed.listed() {
                break listed;
            }
            sleep(Duration::from_millis(1));
        };
        ipvs.wait_for(input::KUBERNETES, input::API_SERVER)?;
        let first = await_address(input::KUBERNETES)?;
        figures.insert("first_milliseconds".into(), (first - listed).as_secs_f64() * 1e3);
        program.wait_complete()?;
        figures.insert("cold_seconds".into(), started.elapsed().as_secs_f64());
        program.signal(Signal::STOP)?;
        verify(size.services + 1, size.services * size.endpoints + 1)?;
        program.signal(Signal::CONT)?;
        Ok(Self { size, feed, ipvs, program, fresh: size.services * size.endpoints })
    }

    fn memory(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        sleep(SETTLED);
        let memory = self.program.memory()?;
        figures.insert("steady_mebibytes".into(), memory.now);
        figures.insert("peak_mebibytes".into(), memory.peak);
        Ok(())
    }

    /// An unused endpoint.
    fn fresh(&mut self) -> Ipv4Addr {
        self.fresh += 1;
        endpoint_address(self.fresh)
    }

    fn several_fresh(&mut self, count: u32) -> Vec<Ipv4Addr> {
        (0..count).map(|_| self.fresh()).collect()
    }

    /// The slice of a Service with one endpoint replaced, and the new endpoint.
    fn changed(&mut self, number: u32) -> (Value, Ipv4Addr) {
        let new = self.fresh();
        let mut endpoints = input::endpoints(self.size, number);
        endpoints.pop();
        endpoints.push(new);
        (slice(number, &endpoints), new)
    }

    /// Replaces an endpoint of one Service after the other.
    fn single_changes(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let number = change * 7919 % self.size.services;
            times.push(self.change(number)?);
            sleep(PAUSE);
        }
        figures.insert("change_milliseconds".into(), median_milliseconds(times.clone()));
        figures.insert("change_p99_milliseconds".into(), percentile_milliseconds(times, 99));
        Ok(())
    }

    fn change(&mut self, number: u32) -> anyhow::Result<Duration> {
        let (slice, new) = self.changed(number);
        let told = self.feed.put(Resource::Slices, slice)?;
        Ok(self.ipvs.wait_for(service_address(number), new)? - told)
    }

    /// Creates Services; each is usable when its address and the last of its ten endpoints are in place.
    fn created(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for number in self.size.services..self.size.services + CREATED {
            let endpoints = self.several_fresh(10);
            self.feed.put(Resource::Slices, slice(number, &endpoints))?;
            sleep(PAUSE);
            let told = self.feed.put(Resource::Services, input::service(number))?;
            self.ipvs.wait_for(service_address(number), endpoints[9])?;
            times.push(await_address(service_address(number))? - told);
            sleep(PAUSE);
        }
        figures.insert("service_milliseconds".into(), median_milliseconds(times));
        Ok(())
    }

    /// Changes single endpoints of a large slice.
    fn large(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let number = self.size.services + CREATED;
        let mut endpoints = self.several_fresh(LARGE);
        self.feed.put(Resource::Services, input::service(number))?;
        self.feed.put(Resource::Slices, slice(number, &endpoints))?;
        let end = Instant::now() + Duration::from_mins(1);
        while self.ipvs.real_servers(service_address(number))?.len() < LARGE as usize {
            ensure!(Instant::now() < end, "{LARGE} endpoints are not there after a minute");
        }
        let mut times = Vec::new();
        for _ in 0..LARGE_CHANGES {
            sleep(PAUSE);
            let new = self.fresh();
            endpoints.remove(0);
            endpoints.push(new);
            let told = self.feed.put(Resource::Slices, slice(number, &endpoints))?;
            times.push(self.ipvs.wait_for_newest(service_address(number), new)? - told);
        }
        figures.insert("large_milliseconds".into(), median_milliseconds(times));
        Ok(())
    }

    /// Changes many slices at once.
    fn burst(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut times = Vec::new();
        let mut all: Vec<_> = (0..BURST).map(|number| input::endpoints(self.size, number)).collect();
        let last = *input::in_chains(0..BURST).last().context("a burst of none")?;
        for _ in 0..ROUNDS {
            sleep(Duration::from_secs(1));
            let mut news = Vec::new();
            let mut slices = Vec::new();
            for (number, endpoints) in (0..).zip(&mut all) {
                // One more endpoint each, as in the floor.
                let new = self.fresh();
                endpoints.push(new);
                slices.push(slice(number, endpoints));
                news.push(new);
            }
            let told = self.feed.put_all(Resource::Slices, slices)?;
            // The end of the kernel's last hash chain is written last, if all is written at once; a sample of the
            // others makes sure.
            let mut seen = told;
            for number in [last, BURST - 1, 0, BURST / 2, BURST / 3] {
                seen = self.ipvs.wait_for_last(service_address(number), news[number as usize])?;
            }
            times.push(seen - told);
        }
        figures.insert("burst_milliseconds".into(), median_milliseconds(times));
        Ok(())
    }

    /// Replaces all endpoints of many Services, and creates one while they are written: it must not wait for all of
    /// them.
    fn crowded(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut times = Vec::new();
        let (created, last) = (self.size.services + CREATED + 1, CROWD.min(self.size.services) - 1);
        let endpoints = self.several_fresh(10);
        self.feed.put(Resource::Slices, slice(created, &endpoints))?;
        for _ in 0..ROUNDS {
            sleep(Duration::from_secs(1));
            let (mut crowd, mut new) = (Vec::new(), Vec::new());
            for number in 0..=last {
                new = self.several_fresh(10);
                crowd.push(slice(number, &new));
            }
            self.feed.put_all(Resource::Slices, crowd)?;
            // Until the crowd has been received, the created Service would be part of it.
            sleep(RECEIVED);
            let told = self.feed.put(Resource::Services, input::service(created))?;
            self.ipvs.wait_for(service_address(created), endpoints[9])?;
            let used = await_address(service_address(created))?;
            ensure!(
                !self.ipvs.real_servers(service_address(last))?.contains(&new[9]),
                "they were written before"
            );
            times.push(used - told);
            self.ipvs.wait_for_last(service_address(last), new[9])?;
            self.feed.delete_all(Resource::Services, vec![input::service(created)])?;
        }
        figures.insert("crowded_milliseconds".into(), median_milliseconds(times));
        Ok(())
    }

    /// Makes 100 changes a second.
    fn rolling(&mut self, how_long: Duration, figures: &mut Figures) -> anyhow::Result<()> {
        const PERIOD: Duration = Duration::from_millis(10);
        sleep(SETTLED);
        let before = self.program.processor_time()?;
        let started = Instant::now();
        let mut times = Vec::new();
        while started.elapsed() < how_long {
            let index = u32::try_from(times.len()).context("a number")?;
            times.push(self.change(index % self.size.services.min(500))?);
            // The kernel counts processor time in ticks of ten milliseconds: in step with the ticks, it would count all
            // or nothing.
            let out_of_step = Duration::from_micros(u64::from(index * 7919 % 100) * 100);
            let due = started + PERIOD * (index + 1) + out_of_step;
            sleep(due.saturating_duration_since(Instant::now()));
        }
        let share = self.program.share_since(before, started)?;
        figures.insert("rolling_processor_percent".into(), share * 100.0);
        figures.insert("rolling_latest_milliseconds".into(), percentile_milliseconds(times, 100));
        Ok(())
    }

    fn idle(&mut self, how_long: Duration, figures: &mut Figures) -> anyhow::Result<()> {
        sleep(SETTLED);
        let (before, started) = (self.program.processor_time()?, Instant::now());
        sleep(how_long);
        let share = self.program.share_since(before, started)?;
        figures.insert("idle_processor_percent".into(), share * 100.0);
        Ok(())
    }

    /// Ends the program and starts it again: it finds everything in place.
    fn restart(self, figures: &mut Figures) -> anyhow::Result<Self> {
        // What drained is gone after some seconds.
        let mut before = servers()?;
        loop {
            sleep(DRAINED);
            let now = servers()?;
            if now == before {
                break;
            }
            before = now;
        }
        self.program.end()?;
        let started = Instant::now();
        let program = Program::start(&["--master", &self.feed.url()])?;
        program.wait_complete()?;
        figures.insert("restart_seconds".into(), started.elapsed().as_secs_f64());
        figures.insert("restart_writes".into(), Program::writes()?);
        let after = servers()?;
        ensure!(before == after, "a restart made {after:?} servers of {before:?}");
        Ok(Self { program, ..self })
    }
}

/// Waits until the node accepts packets for this address, that is, until a socket can bind to it.
fn await_address(address: Ipv4Addr) -> anyhow::Result<Instant> {
    let end = Instant::now() + Duration::from_mins(2);
    while UdpSocket::bind((address, 0)).is_err() {
        ensure!(Instant::now() < end, "{address} is not local after two minutes");
        sleep(Duration::from_micros(200));
    }
    Ok(Instant::now())
}
