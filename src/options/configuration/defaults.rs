//! The defaults (contract 2.1).

use super::value::Quantity;
use super::{API_VERSION, Configuration, KIND, LogOptions};
use crate::options::duration::GoDuration;
use crate::options::listen;
use crate::sloppy::parse_ip;

/// The mode of this program.
pub(in crate::options) const MODE: &str = "ipvs";
const LOCAL_MODE: &str = "ClusterCIDR";
/// The default encoding of objects from the API server, and the fastest.
pub(in crate::options) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const REQUESTS_PER_SECOND: f32 = 5.0;
const BURST: i64 = 10;
const MASQUERADE_BIT: i64 = 14;
const OOM_SCORE_ADJUSTMENT: i64 = -999;
const CONNTRACK_MAX_PER_CORE: i64 = 32 * 1024;
const CONNTRACK_MIN: i64 = 128 * 1024;
const SECOND: GoDuration = GoDuration::from_seconds(1);
const SYNC_PERIOD: GoDuration = GoDuration::from_seconds(30);
const HOUR: u32 = 60 * 60;

impl Configuration {
    /// The defaults of the flags. They are set before the flags are read, so two of them differ from those of a file
    /// (contract 1.4): `--ipvs-min-sync-period` has the default of mode iptables, and the listen addresses don't follow
    /// `--bind-address`.
    pub fn for_flags() -> Self {
        let mut configuration = Self::default();
        configuration.set_defaults();
        configuration.ipvs.min_sync_period = SECOND;
        configuration
    }

    /// The fields that differ from their default and have an effect in kube-proxy's mode ipvs, but none here; and
    /// `portRange`, which has no effect anywhere.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let mut default = Self::default();
        default.set_defaults();
        let (connection, logging) = (&self.client_connection, &self.logging);
        [
            ("clientConnection.qps", (connection.qps - REQUESTS_PER_SECOND).abs() > f32::EPSILON),
            ("clientConnection.burst", connection.burst != BURST),
            ("configSyncPeriod", self.config_sync_period != default.config_sync_period),
            ("portRange", !self.port_range.is_empty()),
            ("showHiddenMetricsForVersion", !self.show_hidden_metrics_for_version.is_empty()),
            ("logging.flushFrequency", logging.flush_frequency != default.logging.flush_frequency),
            ("logging.vmodule", !logging.vmodule.is_empty()),
            ("logging.options", logging.options != default.logging.options),
        ]
        .into_iter()
        .filter_map(|(field, is_said)| is_said.then_some(field))
        .collect()
    }

    /// Sets every field without a value to its default.
    pub fn set_defaults(&mut self) {
        text(&mut self.api_version, API_VERSION);
        text(&mut self.kind, KIND);
        text(&mut self.mode, MODE);
        text(&mut self.detect_local_mode, LOCAL_MODE);
        text(&mut self.bind_address, "0.0.0.0");
        let v6 = parse_ip(&self.bind_address).is_some_and(|address| address.is_ipv6());
        for (address, default) in [
            (&mut self.healthz_bind_address, listen::HEALTHZ),
            (&mut self.metrics_bind_address, listen::METRICS),
        ] {
            text(address, if v6 { default.v6 } else { default.v4 });
            listen::append_port(address, default.port);
        }
        time(&mut self.config_sync_period, GoDuration::from_seconds(15 * 60));
        self.oom_score_adj.get_or_insert(OOM_SCORE_ADJUSTMENT);

        let connection = &mut self.client_connection;
        text(&mut connection.content_type, PROTOBUF);
        if connection.qps == 0.0 {
            connection.qps = REQUESTS_PER_SECOND;
        }
        if connection.burst == 0 {
            connection.burst = BURST;
        }

        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(CONNTRACK_MAX_PER_CORE);
        conntrack.min.get_or_insert(CONNTRACK_MIN);
        conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_seconds(24 * HOUR));
        conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_seconds(HOUR));

        time(&mut self.ipvs.sync_period, SYNC_PERIOD);
        let iptables = &mut self.iptables;
        iptables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        iptables.localhost_node_ports.get_or_insert(true);
        time(&mut iptables.sync_period, SYNC_PERIOD);
        time(&mut iptables.min_sync_period, SECOND);
        let nftables = &mut self.nftables;
        nftables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        time(&mut nftables.sync_period, SYNC_PERIOD);
        time(&mut nftables.min_sync_period, SECOND);

        let logging = &mut self.logging;
        text(&mut logging.format, "text");
        time(&mut logging.flush_frequency.0, GoDuration::from_seconds(5));
        for LogOptions { info_buffer_size: Quantity(size), .. } in
            [&mut logging.options.json, &mut logging.options.text]
        {
            text(size, "0");
        }
    }
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn time(field: &mut GoDuration, default: GoDuration) {
    if *field == GoDuration::ZERO {
        *field = default;
    }
}
