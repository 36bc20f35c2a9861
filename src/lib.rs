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
//! for what is there. [`reconcile`] drives the pure part and the kernel; [`serve`] sees what is published and nothing
//! else; [`leftovers`] removes what kube-proxy left, once, beside the flow; [`app`] wires it all and is the only module
//! that knows all others.
//!
//! # Who runs, and who owns what
//!
//! ```text
//!  task "source"                task "reconcile"                   thread "kernel"
//!  api::watch (3 watches)       reconcile::run                     reconcile::worker
//!  or api::manifests            owns cluster, desired, actual      owns the netlink sockets
//!        │   Event, bounded          │  │    Work, one at a time        │
//!        ├──────────────────────────►│  │ ─────────────────────────────►│
//!        │                           │  │ ◄─────────────────────────────┘
//!  thread "addresses"                │  │         Answer
//!  kernel::node_addresses            │  │
//!                                    │  └── Notes ──► app::report ──► log
//!                                    │                    │
//!  tasks "healthz", "metrics"        │   Status (watch) ◄─┤
//!  serve::http ◄─────────────────────┼────────────────────┤
//!                                    │   Metrics (atomics)◄┘
//! ```
//!
//! * Two runtime workers carry the tasks: decoding a long list does not keep `/healthz` waiting. Linux does what netlink
//!   messages ask for inside `send`, so the sockets have an OS thread of their own. So has the socket that hears of the node's
//!   addresses: it only waits, and goes with the process; and so does the thread "takeover", which waits for the programs
//!   of iptables after the first complete sync.
//! * Nothing is locked: the task that owns the model is told of events and answers, and asked for the next piece of
//!   work ([`reconcile::core`]). Events that come while the kernel works only mark keys.
//! * One `CancellationToken` ends everything: the sources stop, the plan in hand is finished, the data plane stays. The
//!   first task that fails ends the program; a panic aborts it in release builds. A proxy that lost a part must be
//!   restarted, not limp.

pub mod api;
pub mod app;
pub mod cluster;
pub mod desired;
pub mod diff;
pub mod kernel;
pub mod leftovers;
pub mod options;
pub mod reconcile;
pub mod serve;
pub mod sloppy;
pub mod state;
pub mod telemetry;
