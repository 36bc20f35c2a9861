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

pub mod api;
pub mod app;
pub mod cluster;
pub mod desired;
pub mod diff;
pub mod kernel;
pub mod options;
pub mod reconcile;
pub mod serve;
pub mod sloppy;
pub mod state;
pub mod telemetry;
