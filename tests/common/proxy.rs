//! A running kube-ipvs: started, watched, killed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A kube-ipvs process in the caller's network namespace. It is killed when this is dropped.
pub(crate) struct Proxy {
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts it with these arguments; its log goes to a file of this name in `folder`.
    pub(crate) fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::spawn(folder, name, Command::new(env!("CARGO_BIN_EXE_kube-ipvs")).args(arguments))
    }

    /// Starts it on a node of this name, with these pod networks and these additional arguments.
    #[allow(dead_code, reason = "each test program uses its own part of this")]
    pub(crate) fn on_node(folder: &Path, name: &str, node: &str, pods: &str, more: &[&str]) -> Self {
        let usual = ["--hostname-override", node, "--proxy-mode", "ipvs", "--cluster-cidr", pods, "-v", "2"];
        Self::start(folder, name, &[&usual, more].concat())
    }

    /// Starts it by shell lines that end with it, with these variables, in a mount namespace of its own.
    #[allow(dead_code, reason = "each test program uses its own part of this")]
    pub(crate) fn of_shell(folder: &Path, name: &str, lines: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", lines]).envs(variables.iter().copied());
        Self::spawn(folder, name, &mut command)
    }

    fn spawn(folder: &Path, name: &str, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("kube-ipvs can be started");
        Self { child, log }
    }

    /// Its process id.
    #[allow(dead_code, reason = "each test program uses its own part of this")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Waits until the first sync is complete.
    pub(crate) fn wait_synced(&mut self) -> &mut Self {
        let synced = eventually(Duration::from_secs(30), || {
            assert!(self.child.try_wait().expect("a child").is_none(), "it ended:\n{}", self.log());
            self.log().contains("First sync complete")
        });
        assert!(synced, "it does not sync:\n{}", self.log());
        self
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end; returns its exit status and its log.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        (self.wait(), self.log())
    }

    /// Waits for it to end; returns its exit status.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually(Duration::from_secs(20), || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.log())).code()
    }

    /// How many writes it has counted with the verdict `done`.
    pub(crate) fn writes(&self) -> u64 {
        self.count("kube_ipvs_writes_total", "verdict=\"done\"")
    }

    /// The sum over a counter's series that have this label.
    pub(crate) fn count(&self, name: &str, label: &str) -> u64 {
        let page = get("127.0.0.1:10249", "/metrics");
        let series: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))
            .collect();
        assert!(!series.is_empty(), "{name} with {label} is missing:\n{page}\n{}", self.log());
        let count = |line: &&str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        series.iter().map(|line| count(line).expect("a count")).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of an HTTP response.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    body.to_owned()
}

/// Waits until the condition holds; returns whether it did within the limit.
pub(crate) fn eventually(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
