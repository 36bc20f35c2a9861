//! One check per setting: from the written value to what the program uses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::names;
use crate::options::configuration::{ClientConnection, Configuration, PROTOBUF};
use crate::options::conntrack::ConntrackOptions;
use crate::options::duration::GoDuration;
use crate::options::flags::Flags;
use crate::options::proxy::{LocalDetector, ProxyOptions};
use crate::options::settings::{Name, Notice, Origin, Place};
use crate::options::{LogFormat, listen};
use crate::sloppy::{parse_cidr, parse_ip};
use crate::state::InterfaceName;

/// `IFNAMSIZ` of Linux, without the terminating zero byte.
const LONGEST_INTERFACE_NAME: usize = 15;

/// The kernel counts IPVS timeouts in ticks, in a signed 32-bit number, at 100 ticks a second or more
/// (`ip_vs_set_timeout` in `net/netfilter/ipvs/ip_vs_ctl.c`); a kernel with more ticks may refuse shorter timeouts,
/// too.
const LONGEST_TIMEOUT: GoDuration = GoDuration::from_seconds(i32::MAX.cast_unsigned() / 100);

/// The longest IPVS timeout that every kernel accepts, in seconds: 24 days. That is the limit at 1000 ticks a second,
/// the most on x86 and ARM.
pub(super) const TAKEN_BY_ALL_KERNELS: u32 = i32::MAX.cast_unsigned() / 1000;

/// Checks values one after the other, and collects what is wrong; what it returns for a wrong value is not used.
pub(super) struct Check<'a> {
    pub(super) origin: Origin,
    pub(super) problems: Vec<String>,
    pub(super) notices: &'a mut Vec<Notice>,
}

impl Check<'_> {
    fn invalid(&mut self, name: Name, found: impl fmt::Display, allowed: &str) {
        self.invalid_at(name.at(self.origin), found, allowed);
    }

    fn invalid_at(&mut self, place: Place, found: impl fmt::Display, allowed: &str) {
        self.problems.push(format!("{place}: Invalid value: {:?}: {allowed}", found.to_string()));
    }

    /// Reports an item of a list; `index` counts from 0, as in the errors of Kubernetes.
    pub(super) fn invalid_item(&mut self, name: Name, index: usize, found: &str, allowed: &str) {
        let place = name.at(self.origin);
        self.problems.push(format!("{place}[{index}]: Invalid value: {found:?}: {allowed}"));
    }

    /// Checks the proxy mode. `removes`: the program only removes what proxies left. By then the node may have another
    /// proxy, and both read the same configuration (contract 6.8).
    pub(super) fn mode(&mut self, mode: &str, removes: bool) {
        match mode {
            "" | "ipvs" => {}
            "iptables" | "nftables" if removes => {}
            "iptables" | "nftables" => {
                let allowed = format!("must be \"ipvs\" or empty; for mode {mode} use kube-proxy");
                self.invalid(names::MODE, mode, &allowed);
            }
            mode => self.invalid(names::MODE, mode, "must be \"ipvs\" or empty"),
        }
    }

    /// Refuses a dry run together with another command, for which it could be mistaken.
    pub(super) fn nothing_else_in_a_dry_run(&mut self, flags: &Flags) {
        for (flag, given) in [
            ("--cleanup", flags.cleanup),
            ("--cleanup-own", flags.cleanup_own),
            ("--cleanup-own-stay", flags.cleanup_own_stay),
            ("--init-only", flags.init_only),
            ("--write-config-to", flags.write_config_to.is_some()),
        ] {
            if flags.dry_run && given {
                self.problems.push(format!(
                    "--dry-run and {flag} cannot be used together: a dry run says what a start would change"
                ));
            }
        }
    }

    pub(super) fn only_one_source(&mut self, kubeconfig: bool, master: bool) {
        let other = match (kubeconfig, master) {
            (true, _) => names::KUBECONFIG.at(self.origin).to_string(),
            (false, true) => "--master".to_owned(),
            (false, false) => return,
        };
        self.problems.push(format!(
            "--manifests and {other} cannot be used together: choose either files or an API server"
        ));
    }

    /// Whether protocol buffers are preferred to JSON: by the list of accepted encodings or, where that is empty, by
    /// the content type. A value that names neither causes a warning, and no error: kube-proxy starts with it, too.
    pub(super) fn protobuf(&mut self, connection: &ClientConnection) -> bool {
        let accepted = &connection.accept_content_types;
        let (place, written) = if accepted.is_empty() {
            (names::CONTENT_TYPE.at(self.origin).to_string(), &connection.content_type)
        } else {
            ("clientConnection.acceptContentTypes".to_owned(), accepted)
        };
        let preferred =
            written.split(',').find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
                PROTOBUF => Some(true),
                "application/json" | "application/*" | "*/*" => Some(false),
                _ => None,
            });
        preferred.unwrap_or_else(|| {
            self.notices.push(Notice::warning(
                "Only protocol buffers and JSON are supported: asking for protocol buffers",
                format!("{place}: {written:?}: allowed are {PROTOBUF} and application/json"),
            ));
            true
        })
    }

    pub(super) fn node_name(&mut self, name: &str, origin: Origin, host_name: &str) -> Arc<str> {
        let trimmed = if name.is_empty() { host_name } else { name }.trim();
        if trimmed.is_empty() {
            if name.is_empty() {
                self.problems.push("the host has no name: give one with --hostname-override".to_owned());
            } else {
                self.invalid_at(names::HOSTNAME_OVERRIDE.at(origin), name, "must not be blank");
            }
        }
        trimmed.to_lowercase().into()
    }

    /// Accepts any name that a scheduler can have: which ones the kernel has shows only when one is requested. Warns of
    /// schedulers that choose by something that all clients of a virtual server share, or by weights, which are all 1
    /// (`net/netfilter/ipvs`, Linux 6.12).
    pub(super) fn scheduler(&mut self, scheduler: &str) -> Arc<str> {
        /// `IP_VS_SCHEDNAME_MAXLEN` of Linux, without the terminating zero byte.
        const LONGEST: usize = 15;
        if scheduler.is_empty() {
            self.notices.push(Notice::info("IPVS scheduler not specified, use rr by default", String::new()));
            return ProxyOptions::default().scheduler;
        }
        if scheduler.len() > LONGEST || scheduler.contains('\0') {
            let allowed =
                "must be at most 15 bytes long, without a zero byte, as the names of all schedulers are";
            self.invalid(names::SCHEDULER, scheduler, allowed);
        }
        let does = match scheduler {
            "ovf" => Some("refuses new connections once each endpoint has two"),
            "fo" | "dh" => Some("sends all clients of an address to one endpoint"),
            // lblcr then takes another endpoint beside the first one, and from then on the least loaded of these.
            "lblc" => {
                Some("sends all clients of an address to one endpoint unless another has no connection")
            }
            _ => None,
        };
        if let Some(does) = does {
            let detail = format!("{scheduler} {does}");
            self.notices.push(Notice::warning("This IPVS scheduler does not balance Services", detail));
        }
        scheduler.into()
    }

    /// The timeout in whole seconds, as the kernel takes it.
    pub(super) fn timeout(&mut self, name: Name, timeout: GoDuration) -> u32 {
        if timeout > LONGEST_TIMEOUT {
            let allowed =
                format!("must not be longer than {LONGEST_TIMEOUT}, the longest that a kernel takes");
            self.invalid(name, timeout, &allowed);
            return 0;
        }
        u32::try_from(self.seconds(name, timeout)).expect("no longer than LONGEST_TIMEOUT")
    }

    /// The timeout in whole seconds.
    fn seconds(&mut self, name: Name, timeout: GoDuration) -> u64 {
        let Some(time) = timeout.to_std() else {
            self.invalid(name, timeout, "must be 0 or longer");
            return 0;
        };
        if time.as_secs() == 0 && !time.is_zero() {
            self.notices.push(Notice::warning(
                "A timeout below one second has no effect: the kernel counts whole seconds",
                format!("{}={timeout}", name.at(self.origin)),
            ));
        }
        time.as_secs()
    }

    pub(super) fn sync_periods(&mut self, minimum: GoDuration, period: GoDuration) -> (Duration, Duration) {
        if period <= GoDuration::ZERO {
            self.invalid(names::SYNC_PERIOD, period, "must be longer than 0");
        }
        if minimum.is_negative() {
            self.invalid(names::MIN_SYNC_PERIOD, minimum, "must be 0 or longer");
        } else if minimum > period {
            let allowed =
                format!("must not be longer than {}, which is {period}", names::SYNC_PERIOD.at(self.origin));
            self.invalid(names::MIN_SYNC_PERIOD, minimum, &allowed);
        }
        (minimum.to_std().unwrap_or_default(), period.to_std().unwrap_or_default())
    }

    pub(super) fn exclude_cidrs(&mut self, list: &[String]) -> Vec<IpNet> {
        self.networks(names::EXCLUDE_CIDRS, list, "must be a network such as 10.96.0.0/12 or fd00:1::/112")
    }

    fn networks(&mut self, name: Name, list: &[String], allowed: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (index, text) in list.iter().enumerate() {
            match parse_cidr(text.trim()) {
                Some(network) => networks.push(network),
                None => self.invalid_item(name, index, text, allowed),
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
            self.invalid(names::CLUSTER_CIDR, text, allowed);
            return Vec::new();
        };
        let of_v4 = networks.iter().filter(|network| network.addr().is_ipv4()).count();
        if of_v4 > 1 || networks.len() - of_v4 > 1 {
            self.invalid(names::CLUSTER_CIDR, text, "must have at most one network of each IP family");
        }
        networks
    }

    /// How local traffic is detected, and the pods' networks where these decide. Settings of other modes are ignored,
    /// as in kube-proxy.
    pub(super) fn local_detector(&mut self, configuration: &Configuration) -> (LocalDetector, Vec<IpNet>) {
        let interfaces = &configuration.detect_local;
        let detector = match configuration.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => {
                return (LocalDetector::ClusterCidr, self.cluster_cidrs(&configuration.cluster_cidr));
            }
            "NodeCIDR" => LocalDetector::NodeCidr,
            "BridgeInterface" => {
                let name = &interfaces.bridge_interface;
                let name = self.interface(names::BRIDGE_INTERFACE, name, "BridgeInterface");
                name.map_or(LocalDetector::ClusterCidr, LocalDetector::BridgeInterface)
            }
            "InterfaceNamePrefix" => {
                let prefix = &interfaces.interface_name_prefix;
                let prefix = self.interface(names::INTERFACE_NAME_PREFIX, prefix, "InterfaceNamePrefix");
                prefix.map_or(LocalDetector::ClusterCidr, LocalDetector::InterfaceNamePrefix)
            }
            mode => {
                let allowed = "must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or empty";
                self.invalid(names::DETECT_LOCAL_MODE, mode, allowed);
                LocalDetector::ClusterCidr
            }
        };
        (detector, Vec::new())
    }

    fn interface(&mut self, name: Name, text: &str, mode: &str) -> Option<InterfaceName> {
        let interface = InterfaceName::new(text);
        if interface.is_some() {
            return interface;
        }
        if text.is_empty() {
            let mode_is = names::DETECT_LOCAL_MODE.at(self.origin);
            self.problems.push(format!(
                "{}: Invalid value: \"\": must not be empty where {mode_is} is {mode}",
                name.at(self.origin)
            ));
        } else if text.len() > LONGEST_INTERFACE_NAME {
            self.invalid(name, text, "must be at most 15 bytes long, as all interface names of Linux are");
        } else if text.contains(|character: char| character == '/' || character.is_whitespace()) {
            self.invalid(
                name,
                text,
                "must not contain a slash or white space, which interface names cannot have",
            );
        } else {
            // Linux accepts such names. Without this check, the rules would recognize no pod by it, and nobody would
            // notice.
            self.invalid(name, text, "must be of printable ASCII characters without a quotation mark");
        }
        None
    }

    pub(super) fn conntrack(&mut self, configuration: &Configuration) -> ConntrackOptions {
        let conntrack = &configuration.conntrack;
        let seconds = |time: Option<GoDuration>| time.unwrap_or_default();
        ConntrackOptions {
            max_per_core: self
                .not_negative(names::CONNTRACK_MAX_PER_CORE, conntrack.max_per_core.unwrap_or_default()),
            min: self.not_negative(names::CONNTRACK_MIN, conntrack.min.unwrap_or_default()),
            tcp_established_seconds: self
                .seconds(names::CONNTRACK_TCP_ESTABLISHED, seconds(conntrack.tcp_established_timeout)),
            tcp_close_wait_seconds: self
                .seconds(names::CONNTRACK_TCP_CLOSE_WAIT, seconds(conntrack.tcp_close_wait_timeout)),
            tcp_be_liberal: conntrack.tcp_be_liberal,
            udp_seconds: self.seconds(names::CONNTRACK_UDP, conntrack.udp_timeout),
            udp_stream_seconds: self.seconds(names::CONNTRACK_UDP_STREAM, conntrack.udp_stream_timeout),
        }
    }

    fn not_negative(&mut self, name: Name, number: i64) -> u32 {
        u32::try_from(number).unwrap_or_else(|_| {
            self.invalid(name, number, "must be 0 or more");
            0
        })
    }

    pub(super) fn masquerade_mark(&mut self, bit: i64) -> u32 {
        let mark = u32::try_from(bit).ok().and_then(|bit| 1_u32.checked_shl(bit));
        mark.unwrap_or_else(|| {
            self.invalid(names::MASQUERADE_BIT, bit, "must be within 0 and 31");
            0
        })
    }

    pub(super) fn oom_score_adjustment(&mut self, number: i64) -> i32 {
        if !(-1000..=1000).contains(&number) {
            self.invalid(names::OOM_SCORE_ADJ, number, "must be within -1000 and 1000");
        }
        i32::try_from(number).unwrap_or_default()
    }

    /// Checks values that kube-proxy checks, and that have no effect here.
    pub(super) fn unused(&mut self, configuration: &Configuration) {
        if configuration.config_sync_period <= GoDuration::ZERO {
            self.invalid(
                names::CONFIG_SYNC_PERIOD,
                configuration.config_sync_period,
                "must be longer than 0",
            );
        }
        self.not_negative(names::BURST, configuration.client_connection.burst);
    }

    /// The log level as a byte: levels above 255 change nothing.
    pub(super) fn verbosity(&mut self, level: i64, origin: Origin) -> u8 {
        if level.is_negative() {
            self.invalid_at(names::VERBOSITY.at(origin), level, "must be 0 or more");
        }
        u8::try_from(level).unwrap_or(u8::MAX)
    }

    pub(super) fn log_format(&mut self, format: &str, origin: Origin) -> LogFormat {
        match format {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.invalid_at(names::LOG_FORMAT.at(origin), other, "must be text or json");
                LogFormat::Text
            }
        }
    }

    /// The address of the node; `None` for the unspecified address.
    pub(super) fn bind_address(&mut self, text: &str) -> Option<IpAddr> {
        let address = parse_ip(text);
        if address.is_none() {
            self.invalid(names::BIND_ADDRESS, text, "must be an IP address");
        }
        address.filter(|address| !address.is_unspecified())
    }

    pub(super) fn healthz_address(&mut self, text: &str) -> Option<SocketAddr> {
        self.listen_address(names::HEALTHZ_ADDRESS, text, listen::HEALTHZ.v4)
    }

    pub(super) fn metrics_address(&mut self, text: &str) -> Option<SocketAddr> {
        self.listen_address(names::METRICS_ADDRESS, text, listen::METRICS.v4)
    }

    /// An address to listen on; empty, which only a flag can be: nowhere.
    fn listen_address(&mut self, name: Name, text: &str, example: &str) -> Option<SocketAddr> {
        if text.is_empty() {
            return None;
        }
        let address = listen::parse(text);
        if address.is_none() {
            let allowed = format!("must be an IP address with a port from 1 to 65535, such as {example}");
            self.invalid(name, text, &allowed);
        }
        address
    }

    pub(super) fn drain_deadline(&mut self, deadline: Result<Duration, String>) -> Duration {
        deadline.unwrap_or_else(|problem| {
            self.problems.push(format!("KubeProxyConfiguration.kubeIPVS.drainDeadline: {problem}"));
            Duration::ZERO
        })
    }
}
