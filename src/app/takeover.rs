//! Starts the takeover when its time has come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::watch;

use crate::cluster::types::Family;
use crate::leftovers::report::Report;
use crate::leftovers::takeover::Takeover;
use crate::options::ProxyOptions;
use crate::serve::metrics::{Metrics, gauge};
use crate::serve::{Failures, Status};

/// How long to wait before another attempt when the thread could not be started.
const RETRY: Duration = Duration::from_mins(1);

/// Waits for the first complete sync of at least one family, then takes over from kube-proxy on a thread of its own:
/// the takeover waits for other programs, and no change of a Service should wait for them. The thread holds nothing and
/// ends with the process. What fails becomes part of health and metrics.
pub(super) fn after_first_sync(
    status: &watch::Sender<Status>,
    metrics: &Arc<Metrics>,
    options: &ProxyOptions,
    families: BTreeSet<Family>,
) {
    let (publish, mut status) = (status.clone(), status.subscribe());
    let metrics = Arc::clone(metrics);
    let (mark, excluded) = (options.masquerade_mark, options.exclude_cidrs.clone());
    tokio::spawn(async move {
        // Never an error: this task itself holds a sender. The task ends with the program.
        let is_time = |status: &Status| status.synced_once && !written(status).is_empty();
        if status.wait_for(is_time).await.is_err() {
            return;
        }
        let told = move |report: &Report| tell(report, &publish, &metrics);
        let start = || {
            let status = status.clone();
            let written = move || written(&status.borrow());
            let takeover = Takeover::new(mark, families.clone(), excluded.clone(), written);
            let told = told.clone();
            thread::Builder::new().name("takeover".to_owned()).spawn(move || takeover.run(told)).map(drop)
        };
        until_it_starts(start, &told).await;
    });
}

/// The families that have been written completely once.
fn written(status: &Status) -> BTreeSet<Family> {
    let synced = status.families.iter().filter(|(_, family)| family.last_synced.is_some());
    synced.map(|(family, _)| *family).collect()
}

/// Publishes what failed at the last attempt in health and metrics.
fn tell(report: &Report, status: &watch::Sender<Status>, metrics: &Metrics) {
    let count = report.failures().count();
    metrics.own.takeover_failures.set(gauge(count));
    let lines = report.failures().map(|(what, why)| format!("takeover: {what}: {why}"));
    let takeover = Failures::first(lines, count);
    status.send_if_modified(|status| {
        let changed = status.takeover != takeover || status.drops_replies != report.drops_replies;
        status.takeover = takeover;
        status.drops_replies.clone_from(&report.drops_replies);
        changed
    });
}

/// Tries until the thread starts: only a limit that others have reached (of processes in a cgroup) prevents it. Logs
/// the error once, then when it changes; calls `tell` each time.
async fn until_it_starts(mut start: impl FnMut() -> io::Result<()>, tell: impl Fn(&Report)) {
    let mut said = None;
    while let Err(error) = start() {
        let error = error.to_string();
        let mut report = Report::default();
        report.failed("the thread that removes what kube-proxy left", &error);
        tell(&report);
        if said.as_ref() != Some(&error) {
            tracing::error!(
                err = error,
                "Cannot start the thread that removes what kube-proxy left, trying again each minute"
            );
        }
        said = Some(error);
        tokio::time::sleep(RETRY).await;
    }
    if said.is_some() {
        tracing::info!("The thread that removes what kube-proxy left has started");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::serve::Moment;
    use crate::serve::healthz::{forwards, healthz, livez};

    #[test]
    fn what_fails_is_seen_until_it_succeeds() {
        let (status, looked_at) = watch::channel(Status { synced_once: true, ..Status::default() });
        let metrics = Metrics::new(&[], &[]);
        let answers = || {
            let (status, now) = (looked_at.borrow(), Moment::now());
            let period = Duration::from_secs(30);
            let health = healthz(&status, now, period);
            let forwards = forwards(&status, now, period);
            ((health.code, forwards, livez(&status, now, period).code), health.body)
        };
        let number = |count: usize| {
            let line = format!("kube_ipvs_takeover_failures {count}");
            assert!(metrics.text().lines().any(|found| found == line), "{line}");
        };
        number(0);
        let mut report = Report::default();
        report.failed("iptables-nft filter", "the lock is held");
        report.failed("ipsets", "no memory");
        tell(&report, &status, &metrics);
        let (codes, body) = answers();
        assert_eq!(codes, (200, true, 200), "what kube-proxy left may stand in nobody's way: {body}");
        let reasons =
            r#""reasons":["takeover: iptables-nft filter: the lock is held","takeover: ipsets: no memory"]"#;
        assert!(body.contains(reasons), "{body}");
        number(2);

        report.drops_replies.push("iptables-nft".to_owned());
        tell(&report, &status, &metrics);
        let (codes, body) = answers();
        assert_eq!(codes, (503, false, 200), "a restart would make no accept: {body}");
        assert!(body.contains(r#"["replies of Services are dropped: "#), "{body}");

        // The remedy is at the end of the line, and lines are cut.
        let mut report = Report::default();
        report.back(&vec!["ipset KUBE-6-LOAD-BALANCER-SOURCE-CID".to_owned(); 40]);
        tell(&report, &status, &metrics);
        let (codes, body) = answers();
        let cure = " and 37 more): end kube-proxy on this node, then restart kube-ipvs, which removes them\"";
        assert!(codes == (200, true, 200) && body.contains(cure), "{body}");
        number(1);

        tell(&Report::default(), &status, &metrics);
        let (codes, body) = answers();
        assert!(codes == (200, true, 200) && !body.contains("reasons"), "{body}");
        number(0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_cannot_be_started_is_tried_again() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let (mut attempts, told) = (0, Cell::new(0));
        let start = || {
            attempts += 1;
            if attempts < 4 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        until_it_starts(start, |report| told.set(told.get() + report.failures().count())).await;
        assert_eq!((attempts, told.get()), (4, 3));
        assert_eq!(log.lines_with("Cannot start the thread").len(), 1);
        assert_eq!(log.lines_with("has started").len(), 1);
    }
}
