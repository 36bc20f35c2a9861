//! Flags and file → [`Options`].
//!
//! What can be set, in one place, after flags, configuration file and defaults are merged. The rest of the
//! program reads only this.

pub mod args;
pub mod duration;
pub mod file;
pub mod flags;
pub mod merge;
pub mod proxy;
pub mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::args::{Command, UsageError, from_args};
pub use self::proxy::ProxyOptions;

/// Everything that the program was told, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where facts come from.
    pub source: Source,
    /// The name of this node: `--hostname-override`, or the host's name; trimmed and in lower case.
    pub node_name: Arc<str>,
    /// What the kernel state depends on.
    pub proxy: ProxyOptions,
    /// At least this long between two writes; zero: each change is written at once.
    pub min_sync_period: Duration,
    /// A pending change that is not written for twice this long makes the node unhealthy (contract 8.2).
    pub sync_period: Duration,
    /// Where `/healthz` and `/livez` answer; `None`: nowhere.
    pub healthz_address: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` answer; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// `-v`: how much is logged; 0 is normal.
    pub verbosity: u8,
}

/// Where facts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files and folders of manifests (`--manifests`).
    Manifests(Vec<PathBuf>),
    /// The API server.
    Api {
        /// `--kubeconfig`; `None` and no `master`: the credentials of the pod.
        kubeconfig: Option<PathBuf>,
        /// `--master`: the server's URL, instead of the one in the kubeconfig.
        master: Option<String>,
    },
}
