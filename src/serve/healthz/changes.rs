//! Logs when the answers of `/healthz` and `/livez` change, and why: whoever asks a day later why a load balancer left
//! this node out finds it there.
//!
//! The task looks a second after the status changed, and when a change has waited so long that this alone makes the
//! node unhealthy. While nothing changes and nothing waits, nothing wakes the task. (Looking every second would wake an
//! idle node every second; if the servers themselves logged, nothing would be logged where nobody asks.)

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Health, NOT_SYNCED};
use crate::serve::{Moment, Status};

/// How long after a change of the status to look: within that time a changed Service waits and is written, and others
/// come with it.
const PAUSE: Duration = Duration::from_secs(1);
/// How many reasons a line holds; more are counted.
const SHOWN: usize = 5;

/// Logs changes until `shutdown`, or until nobody publishes a status any more.
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

/// When the answers change next without a change of the status.
fn next_by_itself(status: &Status, now: Moment, sync_period: Duration) -> Option<Instant> {
    let waiting = status.families.values().filter_map(|family| family.unsynced_since);
    // For `/healthz` the wait counts from then; for `/livez`, from when the first sync last advanced.
    let waiting = waiting.flat_map(|since| std::iter::once(since.instant).chain(status.advanced));
    let unreadable = status.unreadable.values().map(|unreadable| unreadable.since.instant);
    let ends = waiting.chain(unreadable).map(|since| since + sync_period * 2);
    ends.filter(|end| *end > now.instant).min()
}

/// What was logged about both paths.
struct Told {
    healthz: Answer,
    livez: Answer,
}

/// What was logged about one path.
struct Answer {
    path: &'static str,
    /// Since when it is 503.
    unhealthy_since: Option<Moment>,
    /// Why it is 503; empty: it is not.
    causes: Vec<String>,
}

impl Told {
    /// The start, at which nothing is written yet: that is not logged.
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

    /// Logs what is new: one line with the reasons for both paths, since what makes `/livez` unhealthy makes `/healthz`
    /// unhealthy too.
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
    /// Returns whether it is 503 for other causes than logged before. Logs that it is 200 again.
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
