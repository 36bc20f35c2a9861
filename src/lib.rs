//! kube-ipvs: the service proxy for Kubernetes clusters that run on IPVS.
//!
//! Facts flow one way, through folders whose alphabetical order is the order of the flow:
//!
//! ```text
//! api ──► cluster ──► desired ──► diff ──► kernel
//!  1         2           3          4        5
//! HTTP→     events→     facts→     wanted−   steps→Linux,
//! events    facts       State      actual    Linux→State
//!           (pure)      (pure)     (pure)
//! ```
//!
//! [`state::State`] is the noun that everything passes on: what the kernel holds for us, one type for the wanted and
//! the actual state. [`reconcile`] drives the pure part and the kernel, and `report` passes on its notes; [`serve`]
//! sees what is published and nothing else; [`leftovers`] works beside the flow, and removes what kube-proxy left until
//! all of it is gone. [`open_files`] and [`allocator`] set up the process, once; [`allocator`] also gives memory back,
//! after the first sync and in each round of the audit. [`options`] is what the program was told, [`sloppy`] reads
//! addresses as Kubernetes does, [`telemetry`] is the log. [`app`] wires it all and is the only module that knows all
//! others.
//!
//! What a start would write can be found without writing it ([`reconcile::rehearse`], `--dry-run`): the decisions are
//! pure.
//!
//! # Who runs, and who owns what
//!
//! ```text
//!  task "source"                thread "reconcile"
//!  api::watch (3 or 4 watches)  reconcile::run
//!  or api::manifests            owns cluster, desired, actual
//!        │   Events, bounded     and the netlink sockets ──────────► Linux
//!        ├──────────────────────────►│  │ ◄───────────────────────── outcomes
//!        │                           │  │
//!  thread "addresses"                │  │
//!  kernel::node_addresses            │  │
//!                                    │  └── Notes ──► report ───────► log, Events
//!                                    │                    │
//!  tasks "healthz", "metrics"        │   Status (watch) ◄─┤◄── api::watch::Monitor
//!  serve::http, serve::pages ◄───────┼────────────────────┤
//!  serve::questions ── Questions ───►│                    │
//!                                    │  Metrics (atomics)◄┤◄── requests to the API server
//!  task "health check ports"         │                    │
//!  serve::service_health ◄───────────┼──── News ──────────┘
//!        │                           │
//!        └── what cannot listen ──► task "events": api::events, bounded, best effort
//! ```
//!
//! * The main thread carries the tasks: two threads would wake each other at every change. A task that decodes a long
//!   list yields every 256 objects, so that `/healthz` does not wait for it.
//! * Linux does what a netlink message asks for inside `send`, so whoever sends has an OS thread of its own. Decisions
//!   are made on that same thread: handing a change to another thread and waiting for its answer costs more than
//!   encoding it.
//! * The thread "conntrack" searches connection tracking for stale entries: the kernel walks its whole table for that,
//!   which may take seconds, and no change waits for it.
//! * Three other threads mostly wait. "addresses" has the socket that hears of the node's addresses; it ends with the
//!   process. "takeover" waits for the iptables programs after the first complete sync, and tells health and metrics
//!   what failed; a thread "iptables" talks to each program, and is not waited for where the program hangs. "config"
//!   waits for the configuration file to change.
//! * What may block for long in a task is done by the runtime's thread pool: manifests are looked at and read there
//!   (`api::manifests`), and the name of the API server is resolved there. One thread of the pool exists from the
//!   start, and none ends before the program: where the system refuses another thread, blocking work waits for one of
//!   these.
//! * The task "health changes" ([`serve::healthz::changes`]) sleeps until the status changes, or until something has
//!   waited so long that the node becomes unhealthy; then it logs how health checks are answered. Another task looks
//!   twice in each sync period, but no more often than every ten seconds, whether the kernel has returned from the
//!   loop's calls (`app::silent_kernel`).
//! * What the API server sends passes through `app::own_node`: the start waits there for the node's own Node object,
//!   for half a minute.
//! * The model is not locked. The thread that owns it takes in events and outcomes, and decides on the next piece of
//!   work ([`reconcile::core`]). Events that come while the kernel works wait for the end of that piece. So do
//!   questions about a Service, which nobody else could answer ([`serve::questions`]).
//! * One `CancellationToken` ends everything: the sources stop, the plan in hand is finished, the data plane stays. The
//!   first task that fails ends the program; a panic aborts it in release builds. A proxy that lost a part must be
//!   restarted, not limp.

/// Lets test code that is shared with tests outside the library name it as they do.
#[cfg(test)]
extern crate self as kube_ipvs;

pub mod allocator;
pub mod api;
pub mod app;
pub mod cluster;
pub mod desired;
pub mod diff;
pub mod kernel;
pub mod leftovers;
pub mod open_files;
pub mod options;
pub mod reconcile;
mod report;
pub mod serve;
pub mod sloppy;
pub mod state;
pub mod telemetry;

/// The commit that this program was built from, as `GIT_COMMIT` says at build time; empty where that is not set.
///
/// It tells two builds of one version apart. No build script asks git for it: the image is built without the
/// repository.
pub const COMMIT: &str = match option_env!("GIT_COMMIT") {
    Some(commit) => commit,
    None => "",
};
