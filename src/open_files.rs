//! How many files and sockets this process may have open.
//!
//! Each health check port of a Service is a socket in each family, and each load balancer that asks has a connection: five
//! hundred Services use up the 1024 that processes get for the sake of programs that call `select`. None here does. Go raises
//! the limit by itself since 1.19, so that kube-proxy never met it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as the hard limit allows. What cannot be had is not missed before they are many: no reason not to start.
pub fn allow_all() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
