//! The kernel parameters that are set only on request.

use crate::options::ProxyOptions;
use crate::state::Sysctl;

/// The parameters that the options ask for. All others are left alone: `false` never sets a value back.
pub(super) fn wanted(options: &ProxyOptions) -> impl Iterator<Item = (Sysctl, String)> {
    let on_off = |on: bool| if on { "1" } else { "0" };
    let strict_arp = options.strict_arp;
    [
        (Sysctl::ArpIgnore, strict_arp.then_some("1")),
        (Sysctl::ArpAnnounce, strict_arp.then_some("2")),
        (Sysctl::VsSloppySctp, options.sloppy_sctp.then_some("1")),
        (Sysctl::VsRunEstimation, options.run_estimation.map(on_off)),
    ]
    .into_iter()
    .filter_map(|(sysctl, value)| Some((sysctl, value?.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_set_that_nobody_asked_for() {
        assert_eq!(wanted(&ProxyOptions::default()).count(), 0);
        let all = ProxyOptions {
            strict_arp: true,
            sloppy_sctp: true,
            run_estimation: Some(false),
            ..ProxyOptions::default()
        };
        let found: Vec<_> = wanted(&all).collect();
        let expected = [
            (Sysctl::ArpIgnore, "1"),
            (Sysctl::ArpAnnounce, "2"),
            (Sysctl::VsSloppySctp, "1"),
            (Sysctl::VsRunEstimation, "0"),
        ]
        .map(|(sysctl, value)| (sysctl, value.to_owned()));
        assert_eq!(found, expected);
    }
}
