//! What is set on the host once, at the start, beside the data plane: connection tracking (contract 7.2), and how
//! unlikely the kernel is to kill this process when memory is short.
//!
//! Nothing here prevents the program from running: it forwards packets also in a container that sees `/proc/sys`
//! read-only, or on a kernel without a parameter. What could not be set is logged once; so is what only an
//! administrator may set, and should.

mod local_ports;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use crate::options::{ConntrackOptions, Options};

const CONNTRACK: &str = "proc/sys/net/netfilter";
const HASH_SIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";
const IPVS: &str = "proc/net/ip_vs";
/// Exists on kernels that enlarge the connection table as it fills.
const LOAD_FACTOR: &str = "proc/sys/net/ipv4/vs/conn_lfactor";
/// The largest `conn_tab_bits` that every kernel accepts.
const MOST_TABLE_BITS: u32 = 20;
/// How much is read at a time of a file of which only the first line counts.
const LINE_BYTES: usize = 256;
const ONLINE_PROCESSORS: &str = "sys/devices/system/cpu/online";
const OOM_SCORE_ADJUSTMENT: &str = "proc/self/oom_score_adj";
/// How many entries share a bucket of a hash table at most, when connection tracking is full.
const ENTRIES_PER_BUCKET: u32 = 4;

/// Sets everything that is to be set. `root` is where `proc` and `sys` are mounted.
pub(super) fn set_up(root: &Path, options: &Options) {
    let report = apply(root, options, processors(root));
    for Change { entry, after, .. } in &report.set {
        tracing::info!(entry, value = after, "Set sysctl");
    }
    if !report.missing.is_empty() {
        tracing::warn!(entries = report.missing.join(", "), "This kernel does not have these parameters");
    }
    for (entry, error) in &report.failed {
        tracing::warn!(entry, err = error as &dyn std::error::Error, "Cannot set a parameter of the system");
    }
    tell_local_ports(root);
    if let Some(SmallTable { size, most, bits }) = small_table(root) {
        tracing::info!(
            size,
            nfConntrackMax = most,
            "IPVS's connection table is small for this nf_conntrack_max; its size can only be set when ip_vs is \
             loaded: put `options ip_vs conn_tab_bits={bits}` into a file in /etc/modprobe.d"
        );
    }
}

/// Warns when the kernel may assign node ports to the node's own connections.
fn tell_local_ports(root: &Path) {
    let Some(ports) = local_ports::given(root) else { return };
    tracing::warn!(
        ports = format!("{}-{}", ports.start(), ports.end()),
        "The kernel may use node ports of Services as source ports of the node's own connections; answers to such a \
         connection go to the Service. Add the node port range to net.ipv4.ip_local_reserved_ports"
    );
}

/// IPVS's connection table, where each bucket gets many connections when connection tracking is full.
#[derive(Debug, PartialEq, Eq)]
struct SmallTable {
    size: u32,
    most: u32,
    /// A sufficient size, as the module's parameter has it.
    bits: u32,
}

fn small_table(root: &Path) -> Option<SmallTable> {
    // The size that the module takes as `conn_tab_bits`; a kernel without modules shows it here, too.
    let head = first_line(&root.join(IPVS)).ok()?;
    let size: u32 = head.trim_end().split_once("size=")?.1.trim_end_matches(')').parse().ok()?;
    let most: u32 =
        fs::read_to_string(root.join(CONNTRACK).join("nf_conntrack_max")).ok()?.trim().parse().ok()?;
    let grows = root.join(LOAD_FACTOR).exists();
    let wanted = (most / ENTRIES_PER_BUCKET).next_power_of_two().min(1 << MOST_TABLE_BITS);
    (!grows && size < wanted).then(|| SmallTable { size, most, bits: wanted.ilog2() })
}

/// The first line of a file, without reading further: the kernel generates the lines of `/proc/net/ip_vs` as they are
/// read, and walks from the first virtual server on for each line (four seconds for 50,000 of them).
fn first_line(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(LINE_BYTES, File::open(path)?).read_line(&mut line)?;
    Ok(line)
}

/// How many processors are online.
pub(super) fn processors(root: &Path) -> u32 {
    let listed = fs::read_to_string(root.join(ONLINE_PROCESSORS)).ok().and_then(|text| count(text.trim()));
    // Without /sys: the processors that this process may use.
    let allowed = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    listed.unwrap_or_else(|| u32::try_from(allowed()).unwrap_or(u32::MAX))
}

/// How many numbers a list such as `0-3,6` names.
fn count(list: &str) -> Option<u32> {
    let count = |range: RangeInclusive<u32>| range.end().checked_sub(*range.start())?.checked_add(1);
    ranges(list)?.into_iter().map(count).sum()
}

/// The ranges of a list such as `0-3,6`, as the kernel writes it.
fn ranges<T: FromStr>(list: &str) -> Option<Vec<RangeInclusive<T>>> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').map(range).collect()
}

/// A parameter whose value differs from the wanted one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The parameter, as kube-proxy's log names it: `net/netfilter/nf_conntrack_max`.
    pub(super) entry: String,
    /// The present value.
    pub(super) before: String,
    /// The wanted value.
    pub(super) after: String,
}

/// What [`set_up`] would change on the node; leaves out what may not be written. Sets nothing. `root` is as for
/// [`set_up`].
pub(super) fn changes(root: &Path, options: &Options) -> Vec<Change> {
    let mut report = Report { looks_only: true, ..Report::default() };
    conntrack(root, &options.conntrack, processors(root), &mut report);
    report.set
}

/// What was set, and what could not be.
#[derive(Debug, Default)]
struct Report {
    /// Whether this is a dry run that writes nothing.
    looks_only: bool,
    /// Entries that had another value.
    set: Vec<Change>,
    missing: Vec<String>,
    failed: Vec<(String, io::Error)>,
}

fn apply(root: &Path, options: &Options, processors: u32) -> Report {
    let mut report = Report::default();
    conntrack(root, &options.conntrack, processors, &mut report);
    report.put(root, OOM_SCORE_ADJUSTMENT, &options.oom_score_adjustment.to_string());
    report
}

fn conntrack(root: &Path, options: &ConntrackOptions, processors: u32, report: &mut Report) {
    if let Some(most) = options.most_entries(processors) {
        let entry = format!("{CONNTRACK}/nf_conntrack_max");
        // Somebody who needs a higher limit has set it, and entries beyond a lowered limit would keep out new
        // connections: kube-proxy leaves it alone, too, since 1.37.
        let now = fs::read_to_string(root.join(&entry)).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if now.is_none_or(|now| now < most) {
            if !report.looks_only {
                tracing::info!(nfConntrackMax = most, "Setting nf_conntrack_max");
            }
            report.put(root, &entry, &most.to_string());
        }
        // The kernel itself makes the table for a quarter of what it assumes to be the limit. The table is only ever
        // enlarged here.
        let buckets = most / ENTRIES_PER_BUCKET;
        match fs::read_to_string(root.join(HASH_SIZE)).map(|text| text.trim().parse::<u32>()) {
            Ok(Ok(now)) if now >= buckets => {}
            Ok(_) => {
                if !report.looks_only {
                    tracing::info!(conntrackHashsize = buckets, "Setting conntrack hashsize");
                }
                report.put(root, HASH_SIZE, &buckets.to_string());
            }
            Err(error) => report.refused(HASH_SIZE, error),
        }
    }
    for (name, value) in options.parameters() {
        report.put(root, &format!("{CONNTRACK}/{name}"), &value.to_string());
    }
}

impl Report {
    /// Writes a value where another one is set; in a dry run, checks only whether it could be written.
    fn put(&mut self, root: &Path, entry: &str, value: &str) {
        let path = root.join(entry);
        let looks_only = self.looks_only;
        let written = || -> io::Result<Option<String>> {
            let before = fs::read_to_string(&path)?.trim().to_owned();
            if before == value {
                return Ok(None);
            }
            // Not `fs::write`: asked to create a missing file, /proc answers "permission denied".
            let mut file = OpenOptions::new().write(true).truncate(!looks_only).open(&path)?;
            if !looks_only {
                file.write_all(value.as_bytes())?;
            }
            Ok(Some(before))
        };
        match written() {
            Ok(Some(before)) => self.set.push(Change { entry: name(entry), before, after: value.to_owned() }),
            Ok(None) => {}
            Err(error) => self.refused(entry, error),
        }
    }

    fn refused(&mut self, entry: &str, error: io::Error) {
        match error.kind() {
            ErrorKind::NotFound => self.missing.push(name(entry)),
            _ => self.failed.push((name(entry), error)),
        }
    }
}

/// An entry, as kube-proxy's log names it: `net/netfilter/nf_conntrack_max`.
fn name(entry: &str) -> String {
    entry.strip_prefix("proc/sys/").unwrap_or(entry).to_owned()
}

#[cfg(test)]
mod tests;
