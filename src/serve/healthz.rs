//! A status and a moment → the answers of `/healthz` and `/livez` (contract 8.2).
//!
//! A family is unhealthy when something has been waiting to be written for twice the sync period. With nothing waiting
//! it is healthy, however long ago the last write was. If for as long the kernel does not answer whether the
//! foundations are there, the proxy is unhealthy: nobody would see that they are missing.
//!
//! For `/healthz` the proxy is also unhealthy until all that is known of the cluster has been written once: a load
//! balancer must not send traffic where nothing forwards it (kube-proxy says that it is healthy then). The same holds
//! where iptables' FORWARD drops the replies, and no accept could be made there. What else kube-proxy left and could
//! not be removed is only named: at worst it refuses new Services. For a node that is not eligible the answer is 503,
//! while `healthy` remains what the proxy is, as in kube-proxy.

pub mod changes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{FamilyStatus, Moment, Status};
use crate::telemetry;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, or 503.
    pub code: u16,
    /// JSON.
    pub body: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyBody>,
    /// Our addition: why it is not healthy, and what fails although it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

/// The answer to `/healthz`: whether load balancers should send traffic here.
pub fn healthz(status: &Status, now: Moment, sync_period: Duration) -> Answer {
    let health = Health::of_forwarding(status, now, sync_period);
    let healthy = health.is_healthy();
    health.and_of_the_node(status).answer(status, now, healthy, Some(status.ineligible.is_none()))
}

/// The answer to `/livez`: whether this program works.
///
/// A node that is being deleted is no reason to restart the program. Nor is an API server that cannot be reached yet or
/// whose first lists take long: nothing waits to be written then. Nor is a first sync that takes long, as long as parts
/// of it are written: the next start would have as much to write.
pub fn livez(status: &Status, now: Moment, sync_period: Duration) -> Answer {
    let health = Health::of_program(status, now, sync_period);
    let healthy = health.is_healthy();
    health.answer(status, now, healthy, None)
}

/// Whether this node forwards packets as the cluster wants, which the health check ports of Services answer with too.
pub fn forwards(status: &Status, now: Moment, sync_period: Duration) -> bool {
    Health::of_forwarding(status, now, sync_period).is_healthy()
}

const NOT_SYNCED: &str = "the first complete sync since the start has not finished";

/// The judgement, and what it rests on.
struct Health {
    families: BTreeMap<String, FamilyBody>,
    /// What is out of order, as shown.
    reasons: Vec<String>,
    /// What makes it unhealthy, without durations: one cause always has one text. Empty: it is healthy.
    causes: Vec<String>,
}

impl Health {
    /// Judges a status. Where writing `advanced` within the timeout, no family counts as waiting for too long.
    fn of(status: &Status, advanced: Option<Instant>, now: Moment, sync_period: Duration) -> Self {
        let timeout = sync_period * 2;
        let mut health = Self { families: BTreeMap::new(), reasons: Vec::new(), causes: Vec::new() };
        let since = |earlier| now.instant.saturating_duration_since(earlier);
        let advances = advanced.is_some_and(|advanced| since(advanced) < timeout);
        for (family, state) in &status.families {
            let waiting = state.unsynced_since.map(|since| now.since(since));
            let overdue = waiting.filter(|waiting| *waiting >= timeout && !advances);
            if let Some(waiting) = overdue {
                let seconds = waiting.as_secs();
                health.causes.push(format!("{family}: a change has been waiting"));
                health.reasons.push(format!(
                    "{family}: a change has been waiting for {seconds} s to be written to the kernel"
                ));
            }
            let body = FamilyBody { last_updated: shown(state.last_synced), healthy: overdue.is_none() };
            health.families.insert(family.to_string(), body);
        }
        for unreadable in status.unreadable.values() {
            let waiting = now.since(unreadable.since);
            if waiting >= timeout {
                health.causes.push(unreadable.text.clone());
            }
            health.reasons.push(format!("{}, for {} s", unreadable.text, waiting.as_secs()));
        }
        health
    }

    /// Whether this program works.
    fn of_program(status: &Status, now: Moment, sync_period: Duration) -> Self {
        Self::of(status, status.advanced, now, sync_period)
    }

    /// Whether packets are forwarded, and nothing waits for too long, however much is written meanwhile.
    fn of_forwarding(status: &Status, now: Moment, sync_period: Duration) -> Self {
        let mut health = Self::of(status, None, now, sync_period);
        health.demand(status.was_written(), NOT_SYNCED);
        if !status.lets_replies_through() {
            let places = status.drops_replies.join(", ");
            health
                .demand(false, format!("replies of Services are dropped: FORWARD of {places} accepts none"));
        }
        health
    }

    /// Adds whether the node is eligible.
    fn and_of_the_node(mut self, status: &Status) -> Self {
        if let Some(why) = status.ineligible {
            self.demand(false, why);
        }
        self
    }

    fn is_healthy(&self) -> bool {
        self.causes.is_empty()
    }

    /// Makes it unhealthy unless this holds.
    fn demand(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            let otherwise = otherwise.into();
            self.causes.push(otherwise.clone());
            self.reasons.push(otherwise);
        }
    }

    /// Adds what else fails to the reasons.
    fn with_what_fails(mut self, status: &Status) -> Self {
        self.reasons.extend(status.sources.values().cloned());
        self.reasons.extend(status.failures.shown());
        self.reasons.extend(status.takeover.shown());
        self
    }

    /// Makes the answer: 200 if nothing makes it unhealthy. `healthy` is what the proxy alone is.
    fn answer(self, status: &Status, now: Moment, healthy: bool, node_eligible: Option<bool>) -> Answer {
        let code = if self.is_healthy() { 200 } else { 503 };
        let health = self.with_what_fails(status);
        let last_synced = |state: &FamilyStatus| state.last_synced;
        let last = status.families.values().filter_map(last_synced).max_by_key(|moment| moment.instant);
        let body = Body {
            last_updated: shown(if code == 200 { Some(now) } else { last }),
            current_time: shown(Some(now)),
            node_eligible,
            healthy,
            status: health.families,
            reasons: health.reasons,
        };
        let text = serde_json::to_string(&body).expect("texts, truth values and maps with text keys");
        Answer { code, body: text }
    }
}

/// RFC 3339 with as many decimals as needed; `None` is Go's zero time.
fn shown(moment: Option<Moment>) -> String {
    moment.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |moment| telemetry::utc(moment.wall).to_string())
}

#[cfg(test)]
mod tests;
