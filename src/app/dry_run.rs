//! `--dry-run`: says what a start would change on this node, and changes nothing.
//!
//! The sources of facts, the wait for the Node, the checks and the decisions ([`crate::reconcile::rehearse`]) are those
//! of a start. What a start finds out by writing is not tried: whether the kernel has the scheduler (a start adds a
//! virtual server for this, unless one already uses it), and whether it accepts the rules (a start creates and deletes
//! a table, unless the rules are there). A dry run serves nothing, sends no Event, and does not set the sign that the
//! program runs, so it disturbs neither a kube-proxy nor another kube-ipvs.

mod text;

use std::collections::BTreeMap;
use std::future;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::source::{self, LISTS};
use super::supported::{Lack, supported, tell_of_conntrack};
use super::tasks::Tasks;
use super::{ROOT, carry_out, log, reconciler, system};
use crate::api::Event;
use crate::cluster::types::Family;
use crate::kernel::linux::LinuxKernel;
use crate::kernel::node_addresses;
use crate::kernel::{Kernel as _, StaleEntry};
use crate::leftovers::foresee::foresee;
use crate::options::Options;
use crate::options::merge::Merged;
use crate::reconcile::core::Reconciler;
use crate::reconcile::note::Note;
use crate::reconcile::rehearse::{Rehearsal, rehearse};
use crate::report::contested::Contested;
use crate::report::numbers;
use text::Foreseen;

/// The error when it was asked to stop too early.
const STOPPED: &str = "stopped before the state of the cluster was completely known";

/// Prints what a start would change, as soon as the facts are complete.
///
/// # Errors
/// Whatever would prevent the first sync of a start; the kernel cannot be read; IPVS is not loaded, which a start would
/// load; or the program was asked to stop before the facts were complete.
pub fn run(merged: Merged) -> anyhow::Result<()> {
    log::begin(&merged);
    carry_out(look(merged))
}

async fn look(mut merged: Merged) -> anyhow::Result<()> {
    let mut tasks = Tasks::new();
    tasks.end_on_signals()?;
    let shutdown = tasks.shutdown();
    let metrics = Arc::new(numbers::metrics());
    let opened = shutdown.run_until_cancelled(source::open(&merged.options, &metrics)).await;
    let (source, _, _) = opened.context(STOPPED)??;
    let mut kernel = LinuxKernel::open_to_read().context("can't use the IPVS proxier")?;
    let addresses = node_addresses::Monitor::open().context("cannot list the node's addresses")?;
    let supported = supported(&mut merged.options, |family| {
        kernel.lacks_virtual_servers(family).map(Lack::of_virtual_servers)
    });
    tell_of_conntrack(kernel.lacks_conntrack_netlink());
    let options = &merged.options;
    let (sender, heard) = mpsc::channel(LISTS);
    sender.send(vec![Event::NodeAddresses(addresses.addresses().clone())]).await?;
    let known = source::listen(source, options, &supported, sender, &mut tasks).await;
    let mut reconciler = reconciler(options, supported);
    let rehearsal = match known {
        // All arms are cancel-safe.
        Ok(true) => tokio::select! {
            rehearsal = when_complete(&mut reconciler, &mut kernel, heard) => rehearsal.map(Some),
            ended = tasks.one_ends() => ended.map(|()| None),
            () = shutdown.cancelled() => Ok(None),
        },
        ended => ended.map(|_| None),
    };
    let known = matches!(rehearsal, Ok(Some(_)));
    let shown = rehearsal.and_then(|known| {
        known.map_or(Ok(()), |rehearsal| show(rehearsal, &reconciler, &mut kernel, options))
    });
    // If there is a reason, it is that of a task.
    tasks.end(shown).await?;
    if known { Ok(()) } else { bail!(STOPPED) }
}

/// Returns what the first sync would do, as soon as the facts are complete. Never ends when no source of facts is left:
/// a task has then ended, and says why.
async fn when_complete(
    reconciler: &mut Reconciler,
    kernel: &mut LinuxKernel,
    mut heard: mpsc::Receiver<Vec<Event>>,
) -> anyhow::Result<Rehearsal> {
    loop {
        let Some(together) = heard.recv().await else { future::pending().await };
        for event in together {
            reconciler.observe(event);
        }
        let rehearsal = rehearse(reconciler, kernel, Instant::now()).context("dry run")?;
        if let Some(rehearsal) = rehearsal {
            return Ok(rehearsal);
        }
    }
}

/// Looks at what is not part of the first sync, and prints everything.
fn show(
    rehearsal: Rehearsal,
    reconciler: &Reconciler,
    kernel: &mut LinuxKernel,
    options: &Options,
) -> anyhow::Result<()> {
    let scheduler = &options.proxy.scheduler;
    if !kernel.uses_scheduler(scheduler).unwrap_or(false) {
        tracing::info!(
            scheduler = &**scheduler,
            "No virtual server uses this scheduler yet: a start checks whether the kernel has it, a dry run does not"
        );
    }
    let found = rehearsal.purge.as_deref().map(|purge| kernel.find_stale(purge)).unwrap_or_default();
    if let Some(err) = found.failure {
        tracing::warn!(err, "Cannot count the stale entries of connection tracking");
    }
    let (leftovers, gone) = foresee(
        options.proxy.masquerade_mark,
        &options.proxy.exclude_cidrs,
        reconciler.actual(),
        &rehearsal.foreign,
    );
    let foreseen = Foreseen {
        writes: rehearsal.writes,
        parameters: system::changes(Path::new(ROOT), options),
        stale: by_family(&found.entries),
        leftovers,
        foreign: rehearsal.foreign.difference(&gone).copied().collect(),
    };
    tell(rehearsal.notes);
    match std::io::stdout().write_all(foreseen.text().as_bytes()) {
        // A reader that has seen enough is not an error.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

/// How many there are of each family.
fn by_family(entries: &[StaleEntry]) -> BTreeMap<Family, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.flow.family()).or_default() += 1;
    }
    counts
}

/// Says to the log what a start would say about addresses that somebody else has, too.
fn tell(notes: Vec<Note>) {
    let mut contested = Contested::default();
    for note in notes {
        match note {
            Note::Conflict(conflict) => contested.conflicts.push(conflict),
            Note::Shared { shared, owner } => contested.shared.push((shared, owner)),
            _ => {}
        }
    }
    contested.tell();
}
