//! The wanted settings of connection tracking (contract 7.2).

/// The parameters of `nf_conntrack` (`net.netfilter.nf_conntrack_*`); 0 leaves a parameter as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackOptions {
    /// How many entries there may be for each processor; 0 leaves the kernel's limit alone.
    pub max_per_core: u32,
    /// The minimum number of entries, however few processors there are.
    pub min: u32,
    /// How long an idle TCP connection is remembered, in seconds.
    pub tcp_established_seconds: u64,
    /// How long a TCP connection that the other side has closed is remembered, in seconds.
    pub tcp_close_wait_seconds: u64,
    /// Whether TCP packets out of the window count as parts of their connection. `false` leaves the parameter alone.
    pub tcp_be_liberal: bool,
    /// How long a UDP flow that saw no answer is remembered, in seconds.
    pub udp_seconds: u64,
    /// How long a UDP flow that saw answers is remembered, in seconds.
    pub udp_stream_seconds: u64,
}

/// The highest limit that kube-proxy derives from the number of processors: a table of this size takes some 300 MiB. To
/// get more, set `min`, which has no upper bound.
const MOST_ENTRIES: u32 = 1 << 20;

impl ConntrackOptions {
    /// How many entries there may be with so many processors; `None` leaves the kernel's limit alone.
    pub fn most_entries(&self, processors: u32) -> Option<u32> {
        let wanted = self.max_per_core.saturating_mul(processors).min(MOST_ENTRIES).max(self.min);
        (self.max_per_core > 0).then_some(wanted)
    }

    /// The parameters below `/proc/sys/net/netfilter/` that are to be set, except the limit.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("nf_conntrack_tcp_timeout_established", self.tcp_established_seconds),
            ("nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait_seconds),
            ("nf_conntrack_tcp_be_liberal", u64::from(self.tcp_be_liberal)),
            ("nf_conntrack_udp_timeout", self.udp_seconds),
            ("nf_conntrack_udp_timeout_stream", self.udp_stream_seconds),
        ]
        .into_iter()
        .filter(|(_, value)| *value > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: ConntrackOptions = ConntrackOptions {
        max_per_core: 32_768,
        min: 131_072,
        tcp_established_seconds: 86_400,
        tcp_close_wait_seconds: 3_600,
        tcp_be_liberal: false,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };

    #[test]
    fn entries_grow_with_the_processors_within_bounds() {
        for (max_per_core, min, processors, wanted) in [
            (32_768, 131_072, 1, Some(131_072)),
            (32_768, 131_072, 4, Some(131_072)),
            (32_768, 131_072, 8, Some(262_144)),
            (32_768, 131_072, 256, Some(1_048_576)),
            (u32::MAX, 0, 256, Some(1_048_576)),
            (32_768, 4_194_304, 16, Some(4_194_304)),
            (32_768, 4_194_304, 256, Some(4_194_304)),
            (0, 131_072, 8, None),
            (1, 0, 8, Some(8)),
        ] {
            let options = ConntrackOptions { max_per_core, min, ..DEFAULT };
            assert_eq!(options.most_entries(processors), wanted, "{max_per_core} {min} {processors}");
        }
    }

    #[test]
    fn zero_leaves_a_parameter_alone() {
        let found: Vec<_> = DEFAULT.parameters().collect();
        let wanted = [
            ("nf_conntrack_tcp_timeout_established", 86_400),
            ("nf_conntrack_tcp_timeout_close_wait", 3_600),
        ];
        assert_eq!(found, wanted);
        let all =
            ConntrackOptions { tcp_be_liberal: true, udp_seconds: 30, udp_stream_seconds: 60, ..DEFAULT };
        assert_eq!(all.parameters().count(), 5);
        let none = ConntrackOptions { tcp_established_seconds: 0, tcp_close_wait_seconds: 0, ..DEFAULT };
        assert_eq!(none.parameters().count(), 0);
    }
}
