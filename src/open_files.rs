//! Raises the number of files and sockets that this process may have open.
//!
//! Each health check port of a Service is one socket per family, and each load balancer that queries it has a
//! connection: five hundred Services use up the 1024 that processes get by default for the sake of programs that call
//! `select`. Nothing in this program calls `select`. Go has raised the limit by itself since 1.19, so kube-proxy never
//! ran into it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Allows as many as the hard limit does. A failure is ignored: a low limit matters only when many files are open, and
/// is no reason not to start.
pub fn allow_all() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
