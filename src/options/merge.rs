//! Flags, configuration file and defaults → [`Options`], with every value checked.
//!
//! All problems are found in one go; each names the flag or the field, what was found and what is allowed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::duration::GoDuration;
use super::file::Loaded;
use super::flags::Flags;
use super::settings::{Name, Notice, Origin, Place, Settings};
use super::{Options, ProxyOptions, Source};
use crate::sloppy::{parse_cidr, parse_ip};
use crate::state::Timeouts;

const KUBECONFIG: Name = Name { flag: "kubeconfig", field: "clientConnection.kubeconfig" };
const HOSTNAME_OVERRIDE: Name = Name { flag: "hostname-override", field: "hostnameOverride" };
const MODE: Name = Name { flag: "proxy-mode", field: "mode" };
const TCP_TIMEOUT: Name = Name { flag: "ipvs-tcp-timeout", field: "ipvs.tcpTimeout" };
const TCP_FIN_TIMEOUT: Name = Name { flag: "ipvs-tcpfin-timeout", field: "ipvs.tcpFinTimeout" };
const UDP_TIMEOUT: Name = Name { flag: "ipvs-udp-timeout", field: "ipvs.udpTimeout" };
const SYNC_PERIOD: Name = Name { flag: "ipvs-sync-period", field: "ipvs.syncPeriod" };
const MIN_SYNC_PERIOD: Name = Name { flag: "ipvs-min-sync-period", field: "ipvs.minSyncPeriod" };
const EXCLUDE_CIDRS: Name = Name { flag: "ipvs-exclude-cidrs", field: "ipvs.excludeCIDRs" };
const CLUSTER_CIDR: Name = Name { flag: "cluster-cidr", field: "clusterCIDR" };
const MASQUERADE_BIT: Name = Name { flag: "iptables-masquerade-bit", field: "iptables.masqueradeBit" };
const BIND_ADDRESS: Name = Name { flag: "bind-address", field: "bindAddress" };
const HEALTHZ_ADDRESS: Name = Name { flag: "healthz-bind-address", field: "healthzBindAddress" };
const METRICS_ADDRESS: Name = Name { flag: "metrics-bind-address", field: "metricsBindAddress" };
const VERBOSITY: Name = Name { flag: "v", field: "logging.verbosity" };

const DEFAULT_SCHEDULER: &str = "rr";
const DEFAULT_SYNC_PERIOD: GoDuration = GoDuration::from_seconds(30);
const DEFAULT_MASQUERADE_BIT: i64 = 14;
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// The kernel counts IPVS timeouts in ticks, in a signed 32-bit number, at no fewer than 100 ticks a second
/// (`ip_vs_set_timeout` in `net/netfilter/ipvs/ip_vs_ctl.c`); a kernel with more ticks may refuse less.
const LONGEST_TIMEOUT: GoDuration = GoDuration::from_seconds(i32::MAX.cast_unsigned() / 100);

/// The options, and what should be logged about how they came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// What the program was told.
    pub options: Options,
    /// What the user should know.
    pub notices: Vec<Notice>,
}

/// What is wrong with the settings: one line for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Problems {}

/// Merges and checks. With a file, the flags that it replaces do not count (contract 1.3).
///
/// # Errors
/// All that is wrong.
pub fn merge(flags: Flags, file: Option<Loaded>, host_name: &str) -> Result<Merged, Problems> {
    let replaced: Vec<_> = flags.replaced_by_file().map(|name| format!("--{name}")).collect();
    let Flags { settings: from_flags, manifests, master, .. } = flags;
    let name_origin = if from_flags.hostname_override.is_some() { Origin::Flags } else { Origin::File };
    let verbosity_origin = if from_flags.verbosity.is_some() { Origin::Flags } else { Origin::File };
    let (origin, settings, mut notices) = match file {
        None => (Origin::Flags, from_flags, Vec::new()),
        Some(Loaded { settings, mut notices }) => {
            if !replaced.is_empty() {
                notices.push(Notice {
                    warning: true,
                    message: "Flags have no effect because --config is given",
                    detail: replaced.join(", "),
                });
            }
            let settings = Settings {
                hostname_override: from_flags.hostname_override.or(settings.hostname_override),
                verbosity: from_flags.verbosity.or(settings.verbosity),
                ..settings
            };
            (Origin::File, settings, notices)
        }
    };

    let mut check = Check { origin, problems: Vec::new(), notices: &mut notices };
    check.mode(settings.mode.as_deref());
    let default_ip = check.default_listen_ip(settings.bind_address.as_deref());
    let (min_sync_period, sync_period) =
        check.sync_periods(settings.min_sync_period.unwrap_or_default(), settings.sync_period);
    let kubeconfig = settings.kubeconfig;
    let source = if manifests.is_empty() {
        Source::Api { kubeconfig, master }
    } else {
        check.only_one_source(kubeconfig.is_some(), master.is_some());
        Source::Manifests(manifests)
    };
    let options = Options {
        source,
        node_name: check.node_name(settings.hostname_override.as_deref(), name_origin, host_name),
        proxy: ProxyOptions {
            scheduler: check.scheduler(settings.scheduler.as_deref()),
            timeouts: Timeouts {
                tcp_seconds: check.timeout(TCP_TIMEOUT, settings.tcp_timeout),
                tcp_fin_seconds: check.timeout(TCP_FIN_TIMEOUT, settings.tcp_fin_timeout),
                udp_seconds: check.timeout(UDP_TIMEOUT, settings.udp_timeout),
            },
            exclude_cidrs: check.exclude_cidrs(&settings.exclude_cidrs.unwrap_or_default()),
            cluster_cidrs: check.cluster_cidrs(settings.cluster_cidr.as_deref().unwrap_or_default()),
            masquerade_all: settings.masquerade_all.unwrap_or_default(),
            masquerade_mark: check.masquerade_mark(settings.masquerade_bit),
            ..ProxyOptions::default()
        },
        min_sync_period,
        sync_period,
        healthz_address: check.listen_address(
            HEALTHZ_ADDRESS,
            settings.healthz_bind_address.as_deref(),
            SocketAddr::new(default_ip.unspecified, HEALTHZ_PORT),
        ),
        metrics_address: check.listen_address(
            METRICS_ADDRESS,
            settings.metrics_bind_address.as_deref(),
            SocketAddr::new(default_ip.loopback, METRICS_PORT),
        ),
        verbosity: check.verbosity(settings.verbosity, verbosity_origin),
    };
    let problems = check.problems;
    if problems.is_empty() { Ok(Merged { options, notices }) } else { Err(Problems(problems)) }
}

/// Checks values one after the other, and collects what is wrong; whatever it returns for a wrong value is not used.
struct Check<'a> {
    origin: Origin,
    problems: Vec<String>,
    notices: &'a mut Vec<Notice>,
}

/// Which addresses the two servers get where nothing is said about them.
struct ListenDefaults {
    unspecified: IpAddr,
    loopback: IpAddr,
}

impl Check<'_> {
    fn invalid(&mut self, name: Name, found: impl fmt::Display, allowed: &str) {
        self.invalid_at(name.at(self.origin), found, allowed);
    }

    fn invalid_at(&mut self, place: Place, found: impl fmt::Display, allowed: &str) {
        self.problems.push(format!("{place}: Invalid value: {:?}: {allowed}", found.to_string()));
    }

    fn mode(&mut self, mode: Option<&str>) {
        match mode.unwrap_or_default() {
            "" | "ipvs" => {}
            mode @ ("iptables" | "nftables") => {
                let allowed = format!("must be \"ipvs\" or empty; for mode {mode} use kube-proxy");
                self.invalid(MODE, mode, &allowed);
            }
            mode => self.invalid(MODE, mode, "must be \"ipvs\" or empty"),
        }
    }

    fn only_one_source(&mut self, kubeconfig: bool, master: bool) {
        let other = match (kubeconfig, master) {
            (true, _) => KUBECONFIG.at(self.origin).to_string(),
            (false, true) => "--master".to_owned(),
            (false, false) => return,
        };
        self.problems.push(format!(
            "--manifests and {other} cannot be used together: choose either files or an API server"
        ));
    }

    fn node_name(&mut self, name: Option<&str>, origin: Origin, host_name: &str) -> Arc<str> {
        let trimmed = name.unwrap_or(host_name).trim();
        match name {
            Some(name) if trimmed.is_empty() => {
                self.invalid_at(HOSTNAME_OVERRIDE.at(origin), name, "must not be blank");
            }
            None if trimmed.is_empty() => {
                self.problems.push("the host has no name: give one with --hostname-override".to_owned());
            }
            _ => {}
        }
        trimmed.to_lowercase().into()
    }

    fn scheduler(&mut self, scheduler: Option<&str>) -> Arc<str> {
        match scheduler {
            None | Some("") => {
                self.notices.push(Notice {
                    warning: false,
                    message: "IPVS scheduler not specified, use rr by default",
                    detail: String::new(),
                });
                DEFAULT_SCHEDULER.into()
            }
            Some(scheduler) => scheduler.into(),
        }
    }

    /// In whole seconds, as the kernel takes it.
    fn timeout(&mut self, name: Name, timeout: Option<GoDuration>) -> u32 {
        let timeout = timeout.unwrap_or_default();
        if timeout > LONGEST_TIMEOUT {
            let allowed =
                format!("must not be longer than {LONGEST_TIMEOUT}, the longest that a kernel takes");
            self.invalid(name, timeout, &allowed);
            return 0;
        }
        let Some(time) = timeout.to_std() else {
            self.invalid(name, timeout, "must be 0 or longer");
            return 0;
        };
        let seconds = u32::try_from(time.as_secs()).expect("no longer than LONGEST_TIMEOUT");
        if seconds == 0 && !time.is_zero() {
            self.notices.push(Notice {
                warning: true,
                message: "A timeout below one second has no effect: the kernel counts whole seconds",
                detail: format!("{}={timeout}", name.at(self.origin)),
            });
        }
        seconds
    }

    fn sync_periods(&mut self, minimum: GoDuration, period: Option<GoDuration>) -> (Duration, Duration) {
        let period = period.unwrap_or(DEFAULT_SYNC_PERIOD);
        if period <= GoDuration::ZERO {
            self.invalid(SYNC_PERIOD, period, "must be longer than 0");
        }
        if minimum.is_negative() {
            self.invalid(MIN_SYNC_PERIOD, minimum, "must be 0 or longer");
        } else if minimum > period {
            let allowed =
                format!("must not be longer than {}, which is {period}", SYNC_PERIOD.at(self.origin));
            self.invalid(MIN_SYNC_PERIOD, minimum, &allowed);
        }
        (minimum.to_std().unwrap_or_default(), period.to_std().unwrap_or_default())
    }

    fn exclude_cidrs(&mut self, list: &[String]) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in list {
            match parse_cidr(text.trim()) {
                Some(network) => networks.push(network),
                None => {
                    self.invalid(
                        EXCLUDE_CIDRS,
                        text,
                        "must be networks such as 10.96.0.0/12 or fd00:1::/112",
                    );
                }
            }
        }
        networks
    }

    fn cluster_cidrs(&mut self, text: &str) -> Vec<IpNet> {
        if text.trim().is_empty() {
            return Vec::new();
        }
        let networks: Option<Vec<_>> = text.split(',').map(|text| parse_cidr(text.trim())).collect();
        let Some(networks) = networks else {
            let allowed =
                "must be a network such as 10.244.0.0/16, or one of each IP family separated by a comma";
            self.invalid(CLUSTER_CIDR, text, allowed);
            return Vec::new();
        };
        let of_v4 = networks.iter().filter(|network| network.addr().is_ipv4()).count();
        if of_v4 > 1 || networks.len() - of_v4 > 1 {
            self.invalid(CLUSTER_CIDR, text, "must have at most one network of each IP family");
        }
        networks
    }

    fn masquerade_mark(&mut self, bit: Option<i64>) -> u32 {
        let bit = bit.unwrap_or(DEFAULT_MASQUERADE_BIT);
        let mark = u32::try_from(bit).ok().and_then(|bit| 1_u32.checked_shl(bit));
        mark.unwrap_or_else(|| {
            self.invalid(MASQUERADE_BIT, bit, "must be within 0 and 31");
            0
        })
    }

    /// Above 255 there is nothing more to say.
    fn verbosity(&mut self, level: Option<i64>, origin: Origin) -> u8 {
        let level = level.unwrap_or_default();
        if level.is_negative() {
            self.invalid_at(VERBOSITY.at(origin), level, "must be 0 or more");
        }
        u8::try_from(level).unwrap_or(u8::MAX)
    }

    fn default_listen_ip(&mut self, bind_address: Option<&str>) -> ListenDefaults {
        let v4 = ListenDefaults { unspecified: [0, 0, 0, 0].into(), loopback: [127, 0, 0, 1].into() };
        match bind_address.map(|text| (text, parse_ip(text))) {
            None | Some((_, Some(IpAddr::V4(_)))) => v4,
            Some((_, Some(IpAddr::V6(_)))) => {
                let loopback = std::net::Ipv6Addr::LOCALHOST.into();
                ListenDefaults { unspecified: std::net::Ipv6Addr::UNSPECIFIED.into(), loopback }
            }
            Some((text, None)) => {
                self.invalid(BIND_ADDRESS, text, "must be an IP address");
                v4
            }
        }
    }

    /// `ip` or `ip:port`; an IPv6 address with a port stands in brackets. Empty, which only a flag can be: nowhere.
    fn listen_address(&mut self, name: Name, text: Option<&str>, default: SocketAddr) -> Option<SocketAddr> {
        let text = match text {
            None => return Some(default),
            Some("") => return None,
            Some(text) => text,
        };
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = match parse_ip(unbracketed) {
            Some(ip) => Some(SocketAddr::new(ip, default.port())),
            None => with_port(text),
        };
        if address.is_none() {
            let allowed = format!("must be an IP address with a port from 1 to 65535, such as {default}");
            self.invalid(name, text, &allowed);
        }
        address
    }
}

fn with_port(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(parse_ip(host)?, port))
}

#[cfg(test)]
mod tests;
