//! Flags and file → [`Options`].
//!
//! All settings in one place, after flags, configuration file and defaults are merged. The rest of the program reads
//! only this.

pub mod args;
pub mod configuration;
pub mod conntrack;
pub mod duration;
pub mod file;
pub mod flags;
mod listen;
pub mod merge;
pub mod own;
pub mod proxy;
pub mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::args::{Command, UsageError, from_args};
pub use self::conntrack::ConntrackOptions;
pub use self::own::Estimator;
pub use self::proxy::{EXTERNAL_IPS_GATE, ProxyOptions};

/// All settings of the program, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where facts come from.
    pub source: Source,
    /// The name of this node: `--hostname-override`, or the host's name; trimmed and in lower case.
    pub node_name: Arc<str>,
    /// The settings that the kernel state depends on.
    pub proxy: ProxyOptions,
    /// The settings of connection tracking.
    pub conntrack: ConntrackOptions,
    /// Whether the kernel estimates the rates of IPVS.
    pub estimator: Estimator,
    /// The OOM score adjustment: how unlikely the kernel is to kill this process when memory is short, -1000 (never) to
    /// 1000.
    pub oom_score_adjustment: i32,
    /// The minimum time between two writes; zero: each change is written at once.
    pub min_sync_period: Duration,
    /// A change that stays unwritten for twice this time makes the node unhealthy (contract 8.2).
    pub sync_period: Duration,
    /// Where `/healthz` and `/livez` answer; `None`: nowhere.
    pub healthz_address: Option<SocketAddr>,
    /// Where `/metrics` and the pages beside it answer; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Whether the program ends when one of these addresses is taken, instead of trying again.
    pub bind_address_hard_fail: bool,
    /// Whether `/debug/pprof` and `/debug/flags/v` answer beside `/metrics`.
    pub profiling: bool,
    /// `-v`: how much is logged; 0 is normal.
    pub verbosity: u8,
    /// How the log is written.
    pub log_format: LogFormat,
    /// The configuration file: when it is written to or renamed, the program ends, to be started anew.
    pub config_file: Option<PathBuf>,
    /// Whether the program ends as soon as everything that needs privileges at the start is done.
    pub init_only: bool,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines in klog's format.
    #[default]
    Text,
    /// One JSON object per line, as zapr writes them for Kubernetes' components.
    Json,
}

/// Where facts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files and folders of manifests (`--manifests`).
    Manifests(Vec<PathBuf>),
    /// The API server.
    Api {
        /// `--kubeconfig`; `None`, without `master`: the credentials of the pod are used.
        kubeconfig: Option<PathBuf>,
        /// `--master`: the server's URL, instead of the one in the kubeconfig.
        master: Option<String>,
        /// Whether objects are requested in protocol buffers instead of JSON: `--kube-api-content-type` and the like.
        protobuf: bool,
    },
}
