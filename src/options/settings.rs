//! What the flags or the configuration file say, before defaults and checks.

use std::fmt;
use std::path::PathBuf;

use super::duration::GoDuration;

/// The settings that both the command line and the configuration file have. Their types are right, the values are
/// not checked; `None`: not said, so the default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The name of the node, instead of the host's.
    pub hostname_override: Option<String>,
    /// The proxy mode.
    pub mode: Option<String>,
    /// The scheduler of the virtual servers.
    pub scheduler: Option<String>,
    /// The timeout of established TCP connections.
    pub tcp_timeout: Option<GoDuration>,
    /// The timeout of TCP connections after a FIN.
    pub tcp_fin_timeout: Option<GoDuration>,
    /// The timeout of UDP flows.
    pub udp_timeout: Option<GoDuration>,
    /// The least time between two writes.
    pub min_sync_period: Option<GoDuration>,
    /// Half of the time after which an unwritten change makes the node unhealthy.
    pub sync_period: Option<GoDuration>,
    /// Networks whose virtual servers are left alone.
    pub exclude_cidrs: Option<Vec<String>>,
    /// The pods' networks, separated by commas.
    pub cluster_cidr: Option<String>,
    /// Whether all traffic to service addresses is masqueraded.
    pub masquerade_all: Option<bool>,
    /// The bit of the packet mark that stands for masquerading.
    pub masquerade_bit: Option<i64>,
    /// The primary address of the node; here it only says which family the default listen addresses have.
    pub bind_address: Option<String>,
    /// Where `/healthz` answers; empty: nowhere.
    pub healthz_bind_address: Option<String>,
    /// Where `/metrics` answers; empty: nowhere.
    pub metrics_bind_address: Option<String>,
    /// How much is logged.
    pub verbosity: Option<i64>,
}

/// Something to tell the user once logging works; never a reason to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it deserves the level of a warning.
    pub warning: bool,
    /// The line.
    pub message: &'static str,
    /// What it is about: logged as `detail`.
    pub detail: String,
}

impl Notice {
    /// Writes it to the log.
    pub fn log(&self) {
        let (message, detail) = (self.message, self.detail.as_str());
        match (self.warning, detail) {
            (false, "") => tracing::info!("{message}"),
            (false, _) => tracing::info!(detail, "{message}"),
            (true, _) => tracing::warn!(detail, "{message}"),
        }
    }
}

/// Where a setting came from: what an error about it is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flags,
    /// The configuration file.
    File,
}

/// A setting under both its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The path of the field in the configuration file.
    pub field: &'static str,
}

impl Name {
    /// How the user knows the setting.
    pub fn at(self, origin: Origin) -> Place {
        Place { name: self, origin }
    }
}

/// A setting as the user wrote it: `--ipvs-tcp-timeout`, or `KubeProxyConfiguration.ipvs.tcpTimeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    name: Name,
    origin: Origin,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Flags => write!(f, "--{}", self.name.flag),
            Origin::File => write!(f, "KubeProxyConfiguration.{}", self.name.field),
        }
    }
}
