//! Says in the log when `/healthz` and `/livez` come to answer something else, and why: whoever asks a day later why a load
//! balancer left this node out finds it there.
//!
//! It looks a second after the status changed, and when a change has waited for so long that this alone makes the node
//! unhealthy. While nothing changes and nothing waits, nothing wakes it. (To look each second would be a wake-up each
//! second on an idle node; in the servers themselves, nothing would be said where nobody asks.)

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Health, NOT_SYNCED};
use crate::serve::{Moment, Status};

/// How long after a change it looks: a change of a Service waits, and is written, within that time, and others come with it.
const PAUSE: Duration = Duration::from_secs(1);
/// How many reasons a line holds; more are counted.
const SHOWN: usize = 5;

/// Says what changes until `shutdown`, or until nobody tells a status any more.
pub async fn tell(mut status: watch::Receiver<Status>, sync_period: Duration, shutdown: CancellationToken) {
    let follow = async {
        let mut told = Told::at_start(now());
        loop {
            let alone = {
                let (status, now) = (status.borrow_and_update(), now());
                told.look(&status, now, sync_period);
                next_by_itself(&status, now, sync_period)
            };
            let alone = alone.map(tokio::time::Instant::from_std);
            // Both arms are cancel-safe.
            tokio::select! {
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                () = tokio::time::sleep_until(alone.unwrap_or_else(tokio::time::Instant::now)), if alone.is_some() => {}
            }
        }
    };
    // Cancel-safe: nothing is kept.
    shutdown.run_until_cancelled(follow).await;
}

fn now() -> Moment {
    Moment { instant: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
}

/// When the answers change next though the status does not.
fn next_by_itself(status: &Status, now: Moment, sync_period: Duration) -> Option<Instant> {
    let waiting = status.families.values().filter_map(|family| family.unsynced_since);
    // To `/healthz` it waits since then, to `/livez` since the first sync advanced.
    let waiting = waiting.flat_map(|since| std::iter::once(since.instant).chain(status.advanced));
    let unreadable = status.unreadable.values().map(|unreadable| unreadable.since.instant);
    let ends = waiting.chain(unreadable).map(|since| since + sync_period * 2);
    ends.filter(|end| *end > now.instant).min()
}

/// What was said of both.
struct Told {
    healthz: Answer,
    livez: Answer,
}

/// What was said of one.
struct Answer {
    path: &'static str,
    /// Since when it is 503.
    unhealthy_since: Option<Moment>,
    /// Why it is; none: it is not.
    causes: Vec<String>,
}

impl Told {
    /// That nothing is written at the start is nothing to say.
    fn at_start(now: Moment) -> Self {
        Self {
            healthz: Answer {
                path: "/healthz",
                unhealthy_since: Some(now),
                causes: vec![NOT_SYNCED.to_owned()],
            },
            livez: Answer { path: "/livez", unhealthy_since: None, causes: Vec::new() },
        }
    }

    /// Says what is new: in one line why, for both, since what makes `/livez` unhealthy does so with `/healthz`.
    fn look(&mut self, status: &Status, now: Moment, sync_period: Duration) {
        let healthz = Health::of_forwarding(status, now, sync_period).and_of_the_node(status);
        let livez = Health::of_program(status, now, sync_period);
        let worse: Vec<&str> = [(&mut self.healthz, &healthz), (&mut self.livez, &livez)]
            .into_iter()
            .filter_map(|(answer, health)| answer.look(health, now).then_some(answer.path))
            .collect();
        if !worse.is_empty() {
            let reasons = healthz.with_what_fails(status).reasons;
            let more = reasons.len().saturating_sub(SHOWN);
            let mut shown = reasons;
            shown.truncate(SHOWN);
            if more > 0 {
                shown.push(format!("and {more} more"));
            }
            tracing::warn!(
                paths = worse.join(", "),
                reasons = shown.join("; "),
                "Health checks are answered with 503"
            );
        }
    }
}

impl Answer {
    /// Whether it is 503 for other causes than said before. That it is 200 again is said here.
    fn look(&mut self, health: &Health, now: Moment) -> bool {
        if health.is_healthy() {
            if let Some(since) = self.unhealthy_since.take() {
                self.causes.clear();
                let seconds = now.since(since).as_secs();
                tracing::info!(
                    path = self.path,
                    unhealthySeconds = seconds,
                    "Health checks are answered with 200"
                );
            }
            return false;
        }
        self.unhealthy_since.get_or_insert(now);
        let is_new = self.causes != health.causes;
        self.causes.clone_from(&health.causes);
        is_new
    }
}

#[cfg(test)]
mod tests;
