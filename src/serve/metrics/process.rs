//! What this process uses, read at each scrape: the `process_*` metrics under the names that Go programs give them, the
//! peak of resident memory, and `go_threads` and `go_goroutines`, which dashboards of Kubernetes components draw. The
//! other `go_*` metrics are about Go's garbage collector and are left out.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use rustix::process::{Resource, getrlimit};

/// Reads /proc/self at each scrape.
pub(super) struct ProcessCollector {
    /// Only for their descriptions: the values are made anew at each scrape, since two may run at once.
    counters: [Counter; 3],
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    most_virtual_bytes: Gauge,
    open_files: Gauge,
    most_files: Gauge,
    start_seconds: Gauge,
    peak_bytes: Gauge,
    threads: Gauge,
    tasks: Gauge,
}

/// `USER_HZ`, the unit of times in /proc: 100 on every architecture that Kubernetes runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What /proc says.
#[derive(Debug, PartialEq)]
struct Numbers {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_seconds: f64,
    peak_bytes: f64,
    threads: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> prometheus::Result<Self> {
        Ok(Self {
            counters: counters(),
            resident_bytes: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_bytes: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            most_virtual_bytes: Gauge::new(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            )?,
            open_files: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            most_files: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start_seconds: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
            peak_bytes: Gauge::new(
                "kube_ipvs_resident_memory_peak_bytes",
                "The most resident memory that the process ever had.",
            )?,
            threads: Gauge::new("go_threads", "Number of OS threads.")?,
            tasks: Gauge::new(
                "go_goroutines",
                "Number of tasks of the runtime that currently exist: what goroutines are to a Go program.",
            )?,
        })
    }

    fn gauges(&self) -> [&dyn Collector; 9] {
        [
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.most_virtual_bytes,
            &self.open_files,
            &self.most_files,
            &self.start_seconds,
            &self.peak_bytes,
            &self.threads,
            &self.tasks,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges().into_iter().flat_map(Collector::desc);
        self.counters.iter().flat_map(Collector::desc).chain(gauges).collect()
    }

    /// Returns nothing where /proc cannot be read: no number is better than a wrong one.
    fn collect(&self) -> Vec<MetricFamily> {
        let (Some(numbers), Some(open_files)) = (numbers(), open_files()) else { return Vec::new() };
        self.resident_bytes.set(numbers.resident_bytes);
        self.virtual_bytes.set(numbers.virtual_bytes);
        self.start_seconds.set(numbers.start_seconds);
        self.peak_bytes.set(numbers.peak_bytes);
        self.threads.set(numbers.threads);
        // Scrapes are answered inside the runtime; elsewhere there are no tasks to count.
        let runtime = tokio::runtime::Handle::try_current();
        let tasks = runtime.map_or(0, |runtime| runtime.metrics().num_alive_tasks());
        self.tasks.set(as_float(tasks as u64));
        self.open_files.set(open_files);
        let limit = |resource| getrlimit(resource).current;
        self.most_files.set(limit(Resource::Nofile).map_or(f64::INFINITY, as_float));
        // What Go programs report where there is no limit.
        self.most_virtual_bytes.set(as_float(limit(Resource::As).unwrap_or(u64::MAX)));
        let network = fs::read_to_string("/proc/self/net/netstat").ok();
        let octets = |name| octets(network.as_deref()?, name);
        let counted = [Some(numbers.cpu_seconds), octets("InOctets"), octets("OutOctets")];
        let counters = counters().into_iter().zip(counted).filter_map(|(counter, counted)| {
            counter.inc_by(counted?);
            Some(counter.collect())
        });
        counters.flatten().chain(self.gauges().into_iter().flat_map(Collector::collect)).collect()
    }
}

/// Processor time, bytes received, and bytes sent. The latter two are, as in Go programs, those of the whole network
/// namespace, which is the node's if the pod uses the host's network.
fn counters() -> [Counter; 3] {
    [
        ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
        ("process_network_receive_bytes_total", "Number of bytes received by the process over the network."),
        ("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network."),
    ]
    .map(|(name, help)| Counter::new(name, help).expect("the name is valid"))
}

#[expect(clippy::cast_precision_loss, reason = "a metric; exact up to 2^53")]
pub(super) fn as_float(number: u64) -> f64 {
    number as f64
}

fn open_files() -> Option<f64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory that is being read.
    Some(as_float(u64::try_from(entries).ok()?.saturating_sub(1)))
}

fn numbers() -> Option<Numbers> {
    let [stat, status, system] =
        ["/proc/self/stat", "/proc/self/status", "/proc/stat"].map(|path| fs::read_to_string(path).ok());
    parse(&stat?, &status?, &system?)
}

/// From the texts of /proc/self/stat, /proc/self/status and /proc/stat (`proc_pid_stat(5)`, `proc_pid_status(5)`).
fn parse(stat: &str, status: &str, system: &str) -> Option<Numbers> {
    // The second field is the program's name in parentheses, and may contain anything; what follows begins with the
    // third.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse().ok().map(as_float);
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok().map(as_float)
    };
    Some(Numbers {
        cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        resident_bytes: value(status, "VmRSS:")? * 1024.0,
        virtual_bytes: value(status, "VmSize:")? * 1024.0,
        start_seconds: value(system, "btime ")? + ticks(22)? / TICKS_PER_SECOND,
        peak_bytes: value(status, "VmHWM:")? * 1024.0,
        threads: value(status, "Threads:")?,
    })
}

/// One of the IP counters in /proc/self/net/netstat: a line of names, and one of numbers in the same order.
fn octets(netstat: &str, name: &str) -> Option<f64> {
    let mut lines =
        netstat.lines().filter_map(|line| line.strip_prefix("IpExt: ")).map(str::split_whitespace);
    let mut named = lines.next()?.zip(lines.next()?);
    named.find_map(|(other, number)| (other == name).then(|| number.parse().ok().map(as_float))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 3 0 12345 1000 50 18446744073709551615";
        let status = "Name:\tx\nVmPeak:\t   9000 kB\nVmSize:\t   8000 kB\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\nThreads:\t4\n";
        let system = "cpu  1 2 3\nintr 5\nbtime 1700000000\n";
        let wanted = Numbers {
            cpu_seconds: 2.0,
            resident_bytes: 2_048_000.0,
            virtual_bytes: 8_192_000.0,
            start_seconds: 1_700_000_123.45,
            peak_bytes: 3_072_000.0,
            threads: 4.0,
        };
        assert_eq!(parse(stat, status, system), Some(wanted));
        for (stat, status, system) in
            [("", status, system), (stat, "", system), (stat, status, ""), ("1 (", "", "")]
        {
            assert_eq!(parse(stat, status, system), None);
        }
    }

    #[test]
    fn reads_what_the_network_counts() {
        let netstat = "TcpExt: SyncookiesSent InOctets\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 5077443 61\n";
        assert_eq!(octets(netstat, "InOctets"), Some(5_077_443.0));
        assert_eq!(octets(netstat, "OutOctets"), Some(61.0));
        assert_eq!(octets(netstat, "InMcastOctets"), None);
        assert_eq!(octets("IpExt: InOctets\n", "InOctets"), None);
        assert_eq!(octets("", "InOctets"), None);
    }

    #[test]
    fn this_process_has_numbers() {
        let collector = ProcessCollector::new().unwrap();
        let families = collector.collect();
        assert_eq!(families.len(), 12);
        assert_eq!(collector.desc().len(), 12);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let numbers = numbers().unwrap();
        assert!((now - numbers.start_seconds).abs() < 3600.0, "{numbers:?}");
        assert!(
            numbers.resident_bytes > 1e5 && numbers.virtual_bytes >= numbers.resident_bytes,
            "{numbers:?}"
        );
        assert!(open_files().unwrap() >= 3.0);
    }
}
