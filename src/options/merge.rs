//! Flags, configuration file, environment and defaults → [`Options`], with every value checked.
//!
//! All problems are found at once; each names the flag or the field, what was found and what is allowed.

mod check;
mod gates;
mod names;
mod node_ports;

use std::ffi::OsString;
use std::fmt;

use self::check::Check;
use super::configuration::{Configuration, Logging, MODE};
use super::duration::GoDuration;
use super::file::Loaded;
use super::flags::Flags;
use super::listen;
use super::proxy::ProxyOptions;
use super::settings::{Notice, Origin};
use super::{LogFormat, Options, Source};
use crate::state::Timeouts;

/// The options, and what to tell the user about how they came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// What the program was told.
    pub options: Options,
    /// The same as a configuration file, with defaults: what `--write-config-to` writes and `/configz` shows.
    pub configuration: Configuration,
    /// What the user should know.
    pub notices: Vec<Notice>,
    /// All flags with their values, for the log and `/flagz`.
    pub flag_values: Vec<(&'static str, String)>,
}

/// Everything that is wrong with the settings; shown as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// One text for each problem.
    pub texts: Vec<String>,
    /// The log format that the settings ask for, in which the problems are reported.
    pub log_format: LogFormat,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts.join("; "))
    }
}

impl std::error::Error for Problems {}

/// Merges and checks the settings. With a file, the flags that it replaces do not count (contract 1.3). Only variables
/// of `environment` with our prefix are looked at.
///
/// # Errors
/// Everything that is wrong.
pub fn merge(
    mut flags: Flags,
    file: Option<Loaded>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    host_name: &str,
) -> Result<Merged, Problems> {
    let mut problems = Vec::new();
    let with_file = file.is_some();
    if !with_file {
        listen_on_deprecated_ports(&mut flags, &mut problems);
    }
    let (mut configuration, mut notices) = match file {
        None => (flags.configuration.clone(), Vec::new()),
        Some(Loaded { mut configuration, notices }) => {
            take_over_flags(&flags, &mut configuration);
            (configuration, notices)
        }
    };
    // With flags only, the mode may be empty; a kube-proxy that reads the written file would take this for another
    // mode.
    if configuration.mode.is_empty() {
        MODE.clone_into(&mut configuration.mode);
    }
    match configuration.own.read_environment(environment) {
        Ok(more) => notices.extend(more),
        Err(problem) => problems.push(problem),
    }
    tell_of_ignored_flags(&flags, with_file, &mut notices);
    let in_vain = configuration.without_effect();
    if with_file && !in_vain.is_empty() {
        notices.push(Notice::detail("Fields have no effect in this program", in_vain.join(", ")));
    }

    let gates = gates::read(&configuration.feature_gates, &mut notices);

    // How errors name a setting for which both a flag and the file can be decisive.
    let by_flag = |name| if flags.has(name) || !with_file { Origin::Flags } else { Origin::File };
    let origin = if with_file { Origin::File } else { Origin::Flags };
    let mut check = Check { origin, problems, notices: &mut notices };
    check.mode(&configuration.mode, flags.cleanup || flags.cleanup_own || flags.cleanup_own_stay);
    check.nothing_else_in_a_dry_run(&flags);
    check.unused(&configuration);
    // With flags only, kube-proxy would wait for a second between writes (contract 1.4), which nobody asked for. The
    // written file does not ask for it either: a start with that file behaves like a start with the flags.
    let nobody_asked = !with_file && !flags.has("ipvs-min-sync-period");
    if nobody_asked {
        configuration.ipvs.min_sync_period = GoDuration::ZERO;
    }
    let (min_sync_period, sync_period) =
        check.sync_periods(configuration.ipvs.min_sync_period, configuration.ipvs.sync_period);
    let kubeconfig =
        Some(configuration.client_connection.kubeconfig.as_str()).filter(|path| !path.is_empty());
    let source = if flags.manifests.is_empty() {
        Source::Api {
            kubeconfig: kubeconfig.map(Into::into),
            master: flags.master.clone(),
            protobuf: check.protobuf(&configuration.client_connection),
        }
    } else {
        check.only_one_source(kubeconfig.is_some(), flags.master.is_some());
        Source::Manifests(flags.manifests.clone())
    };
    let hostname_origin =
        if flags.configuration.hostname_override.is_empty() { origin } else { Origin::Flags };
    let (local_detector, cluster_cidrs) = check.local_detector(&configuration);
    let conntrack = check.conntrack(&configuration);
    let (ipvs, iptables, own) = (&configuration.ipvs, &configuration.iptables, &configuration.own);
    let options = Options {
        source,
        node_name: check.node_name(&configuration.hostname_override, hostname_origin, host_name),
        proxy: ProxyOptions {
            scheduler: check.scheduler(&ipvs.scheduler),
            timeouts: Timeouts {
                tcp_seconds: check.timeout(names::TCP_TIMEOUT, ipvs.tcp_timeout),
                tcp_fin_seconds: check.timeout(names::TCP_FIN_TIMEOUT, ipvs.tcp_fin_timeout),
                udp_seconds: check.timeout(names::UDP_TIMEOUT, ipvs.udp_timeout),
            },
            tracked_tcp_seconds: tracked_tcp_seconds(conntrack.tcp_established_seconds),
            exclude_cidrs: check.exclude_cidrs(ipvs.exclude_cidrs.as_deref().unwrap_or_default()),
            local_detector,
            cluster_cidrs,
            masquerade_all: iptables.masquerade_all,
            masquerade_mark: check.masquerade_mark(iptables.masquerade_bit.unwrap_or_default()),
            node_port_addresses: check
                .node_port_addresses(configuration.node_port_addresses.as_deref().unwrap_or_default()),
            external_ips: gates.external_ips,
            bind_address: check.bind_address(&configuration.bind_address),
            strict_arp: ipvs.strict_arp,
            sloppy_sctp: own.sloppy_sctp.unwrap_or_default(),
            watch_all_nodes: own.watch_all_nodes.unwrap_or_default(),
            // Decided when the kernel is known.
            run_estimation: None,
            drain_deadline: check.drain_deadline(own.checked_drain_deadline()),
        },
        conntrack,
        estimator: own.estimator.unwrap_or_default(),
        oom_score_adjustment: check.oom_score_adjustment(configuration.oom_score_adj.unwrap_or_default()),
        min_sync_period,
        sync_period,
        healthz_address: check.healthz_address(&configuration.healthz_bind_address),
        metrics_address: check.metrics_address(&configuration.metrics_bind_address),
        bind_address_hard_fail: configuration.bind_address_hard_fail,
        profiling: configuration.enable_profiling,
        verbosity: check.verbosity(configuration.logging.verbosity, by_flag("v")),
        log_format: check.log_format(&configuration.logging.format, by_flag("logging-format")),
        config_file: flags.config.clone(),
        init_only: flags.init_only,
    };
    let texts = check.problems;
    if !texts.is_empty() {
        return Err(Problems { texts, log_format: options.log_format });
    }
    Ok(Merged { options, configuration, notices, flag_values: flags.values() })
}

/// The IPVS timeout of idle TCP connections that matches this timeout of connection tracking. Nobody set it for IPVS,
/// so a value that is too long for some kernel is capped, not refused.
fn tracked_tcp_seconds(conntrack_seconds: u64) -> u32 {
    match u32::try_from(conntrack_seconds) {
        // Connection tracking keeps the kernel's timeout, which is unknown here.
        Ok(0) => ProxyOptions::default().tracked_tcp_seconds,
        Ok(seconds) => seconds.min(check::TAKEN_BY_ALL_KERNELS),
        Err(_) => check::TAKEN_BY_ALL_KERNELS,
    }
}

/// Appends the ports to listen addresses that have none; port 0 clears the address (contract 1.4). Not used with a
/// file, which has addresses of its own.
fn listen_on_deprecated_ports(flags: &mut Flags, problems: &mut Vec<String>) {
    for (flag, port, address, default) in [
        ("healthz-port", flags.healthz_port, &mut flags.configuration.healthz_bind_address, listen::HEALTHZ),
        ("metrics-port", flags.metrics_port, &mut flags.configuration.metrics_bind_address, listen::METRICS),
    ] {
        match port.map_or(Ok(default.port), u16::try_from) {
            Ok(0) => address.clear(),
            Ok(port) => listen::append_port(address, port),
            Err(_) => problems.push(format!(
                "--{flag}: Invalid value: \"{}\": must be within 0 and 65535",
                port.unwrap_or_default()
            )),
        }
    }
}

/// Copies the flags that count beside a file.
fn take_over_flags(flags: &Flags, configuration: &mut Configuration) {
    let from = &flags.configuration;
    if !from.hostname_override.is_empty() {
        configuration.hostname_override.clone_from(&from.hostname_override);
    }
    let (logging, from) = (&mut configuration.logging, &from.logging);
    for (name, take_over) in [
        ("v", (|to, from| to.verbosity = from.verbosity) as fn(&mut Logging, &Logging)),
        ("logging-format", |to, from| to.format.clone_from(&from.format)),
        ("log-flush-frequency", |to, from| to.flush_frequency = from.flush_frequency),
        ("log-text-split-stream", |to, from| to.options.text.split_stream = from.options.text.split_stream),
        ("log-json-split-stream", |to, from| to.options.json.split_stream = from.options.json.split_stream),
        ("log-text-info-buffer-size", |to, from| {
            to.options.text.info_buffer_size.clone_from(&from.options.text.info_buffer_size);
        }),
        ("log-json-info-buffer-size", |to, from| {
            to.options.json.info_buffer_size.clone_from(&from.options.json.info_buffer_size);
        }),
        // The patterns of the flag come first.
        ("vmodule", |to, from| {
            to.vmodule.splice(0..0, from.vmodule.iter().cloned());
        }),
    ] {
        if flags.has(name) {
            take_over(logging, from);
        }
    }
}

/// Adds notices about flags that have no effect, because of the file or in general.
fn tell_of_ignored_flags(flags: &Flags, with_file: bool, notices: &mut Vec<Notice>) {
    let named =
        |names: Vec<&str>| names.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ");
    let replaced: Vec<_> = if with_file { flags.replaced_by_file().collect() } else { Vec::new() };
    let in_vain: Vec<_> = flags.without_effect().filter(|name| !replaced.contains(name)).collect();
    if !replaced.is_empty() {
        notices.push(Notice::warning("Flags have no effect because --config is given", named(replaced)));
    }
    if !in_vain.is_empty() {
        notices.push(Notice::detail("Flags have no effect in this program", named(in_vain)));
    }
}

#[cfg(test)]
mod tests;
