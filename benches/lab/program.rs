//! The measured program as a process: started, watched, stopped, and its costs read.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::input::{CLUSTER_CIDR, NODE};

/// The line that kube-ipvs logs when everything is written for the first time.
const COMPLETE: &str = "First sync complete";
/// The default address of its metrics.
const METRICS: &str = "127.0.0.1:10249";

/// A running program, killed on drop.
pub(crate) struct Program {
    child: Child,
    /// Its log, line by line. It is read continuously: the program would block on a full pipe.
    log: Receiver<String>,
}

/// Memory in use (`VmRSS`), and its peak (`VmHWM`), in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

/// kube-ipvs as Cargo built it for this bench: `cargo bench` uses the release settings.
fn kube_ipvs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-ipvs"));
    command.args(["--hostname-override", NODE, "--proxy-mode", "ipvs", "--cluster-cidr", CLUSTER_CIDR]);
    command
}

impl Program {
    /// Runs the program once, so that its file is in the page cache, as on a node that restarts it.
    pub(crate) fn warm_up() -> anyhow::Result<()> {
        let status = kube_ipvs().arg("--version").stdout(Stdio::null()).status();
        ensure!(status.context("kube-ipvs")?.success(), "kube-ipvs does not run");
        Ok(())
    }

    /// Starts kube-ipvs with these arguments, in addition to the common ones.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(kube_ipvs().args(arguments))
    }

    /// Starts another proxy by a shell command.
    pub(crate) fn start_peer(line: &str) -> anyhow::Result<Self> {
        // Nobody reads its log.
        Self::spawn(Command::new("sh").arg("-c").arg(format!("exec {line} 2>/dev/null")))
    }

    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let lines = BufReader::new(child.stderr.take().expect("its standard error is a pipe")).lines();
        let (sender, log) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, log })
    }

    /// Reads kube-ipvs's log until it reports that everything is written.
    pub(crate) fn wait_complete(&self) -> anyhow::Result<()> {
        let mut before = Vec::new();
        for line in &self.log {
            if line.contains(COMPLETE) {
                return Ok(());
            }
            before.push(line);
        }
        bail!("the program ended:\n{}", before.join("\n"))
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot signal the program")
    }

    /// Ends the program properly, and waits for its end.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        self.child.wait().context("the program's end").map(drop)
    }

    /// The processor time used so far by all its threads (`proc_pid_stat(5)`, fields 14 and 15).
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may contain anything.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).collect();
        ensure!(ticks.len() == 2, "/proc/PID/stat: {stat}");
        // USER_HZ is 100 on every Linux.
        Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
    }

    /// The share of a processor used since `then`, when the processor time was `before`.
    pub(crate) fn share_since(&self, before: Duration, then: Instant) -> anyhow::Result<f64> {
        let used = self.processor_time()?.saturating_sub(before);
        Ok(used.as_secs_f64() / then.elapsed().as_secs_f64())
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kibibytes.map(|kibibytes| kibibytes / 1024.0).with_context(|| format!("{name} of the program"))
        };
        Ok(Memory { now: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")? })
    }

    /// How many writes the running kube-ipvs has counted.
    pub(crate) fn writes() -> anyhow::Result<f64> {
        let mut stream = TcpStream::connect(METRICS).context(METRICS)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let series = page.lines().filter(|line| line.starts_with("kube_ipvs_writes_total{"));
        let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        let counts: Vec<f64> =
            series.map(|line| count(line).context("a count")).collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(!counts.is_empty(), "no series kube_ipvs_writes_total");
        Ok(counts.iter().sum())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The program may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
