//! kube-ipvs: the service proxy for Kubernetes clusters that run on IPVS.
//!
//! Facts flow one way, through folders whose names are in the order of the flow:
//!
//! ```text
//! api ──► cluster ──► desired ──► diff ──► kernel
//!  1         2           3          4        5
//! HTTP→     events→     facts→     wanted−   steps→Linux,
//! events    facts       State      actual    Linux→State
//!           (pure)      (pure)     (pure)
//! ```
//!
//! [`state::State`] is the noun that everything passes on: what the kernel holds for us, one type for what is wanted and
//! for what is there. [`reconcile`] drives the pure part and the kernel, and `report` passes on what it tells; [`serve`] sees
//! what is published and nothing else; [`leftovers`] removes what kube-proxy left, until all of it is gone, beside the
//! flow; [`open_files`] sets up the process, once, and so does [`allocator`], which also gives memory back, after the
//! first sync and in each round of the audit; [`options`] is what the program was told, [`sloppy`] reads addresses as
//! Kubernetes does, [`telemetry`] is the log; [`app`] wires it all and is the only module that knows all others.
//!
//! What a start would write is known without writing it ([`reconcile::rehearse`], `--dry-run`): the decisions are pure.
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
//! * The main thread carries the tasks: two threads would wake each other at every change. Whoever decodes a long list lets the
//!   others go first every 256 objects, so that `/healthz` does not wait for it. Linux does what netlink messages ask for
//!   inside `send`, so whoever sends has an OS thread of its own. Decisions are made on the same one: to hand a change to
//!   another thread and wait for its answer costs more than to encode it. What takes long and can wait, the search for stale
//!   entries of connection tracking, is done by a thread "conntrack" beside it. So has the socket that hears of the node's
//!   addresses a thread: it only waits, and goes with the process; and so do the thread "takeover", which waits for the
//!   programs of iptables after the first complete sync (a thread "iptables" talks to each, and is not waited for where one
//!   hangs), and tells health and metrics what failed, and the thread "config", which waits for the configuration file to
//!   change.
//! * Where something may block for long in a task, the runtime's pool of threads does it: manifests are looked at and read
//!   there (`api::manifests`), and the name of the API server is resolved. One of them is there from the start on, and none ends
//!   before the program: where the system refuses another, what blocks waits for one of these.
//! * The task "health changes" ([`serve::healthz::changes`]) sleeps until the status changes, or what waits makes the node
//!   unhealthy, and says in the log what health checks are answered then. Another looks twice in each sync period, but no more
//!   often than every ten seconds, whether the kernel came back from what the loop asked it (`app::silent_kernel`).
//! * What the API server tells goes through `app::own_node` on its way: the start waits there for the own Node, half a minute.
//! * The model is not locked: the thread that owns the model is told of events and outcomes, and asked for the next piece of
//!   work ([`reconcile::core`]). Events that come while the kernel works wait for the end of that piece. So do questions
//!   about a Service, which nobody else could answer ([`serve::questions`]).
//! * One `CancellationToken` ends everything: the sources stop, the plan in hand is finished, the data plane stays. The
//!   first task that fails ends the program; a panic aborts it in release builds. A proxy that lost a part must be
//!   restarted, not limp.

/// What tests outside of the library have in common with those inside names it as they do.
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

/// The commit that this program was built from, as whoever built it says in `GIT_COMMIT`; empty where nobody did. Two builds
/// of one version are told apart by it. Not asked of git by a build script: the image is built without the repository.
pub const COMMIT: &str = match option_env!("GIT_COMMIT") {
    Some(commit) => commit,
    None => "",
};
