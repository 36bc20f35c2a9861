//! A status and a moment → the answers of `/healthz` and `/livez` (contract 8.2).
//!
//! A family is unhealthy when something has been waiting to be written for twice the sync period. With nothing
//! waiting it is healthy, however long ago the last write was.

use std::collections::BTreeMap;
use std::time::Duration;

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
    /// Ours: why it is not healthy, and what fails though it is.
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
    answer(status, Some(status.node_eligible), now, sync_period)
}

/// The answer to `/livez`: whether this program works; a node that is being deleted is no reason to restart it.
pub fn livez(status: &Status, now: Moment, sync_period: Duration) -> Answer {
    answer(status, None, now, sync_period)
}

fn answer(status: &Status, node_eligible: Option<bool>, now: Moment, sync_period: Duration) -> Answer {
    let timeout = sync_period * 2;
    let mut reasons = Vec::new();
    let mut families = BTreeMap::new();
    let mut healthy = true;
    for (family, state) in &status.families {
        let waiting = state.unsynced_since.map(|since| now.since(since));
        let overdue = waiting.filter(|waiting| *waiting >= timeout);
        if let Some(waiting) = overdue {
            let seconds = waiting.as_secs();
            reasons.push(format!(
                "{family}: a change has been waiting for {seconds} s to be written to the kernel"
            ));
            healthy = false;
        }
        let body = FamilyBody { last_updated: shown(state.last_synced), healthy: overdue.is_none() };
        families.insert(family.to_string(), body);
    }
    if node_eligible == Some(false) {
        reasons.push("the node is being deleted".to_owned());
        healthy = false;
    }
    if !status.synced_once {
        reasons.push("not everything has been written to the kernel once since the start".to_owned());
    }
    reasons.extend(status.failures.shown());

    let last_synced = |state: &FamilyStatus| state.last_synced;
    let last = status.families.values().filter_map(last_synced).max_by_key(|moment| moment.instant);
    let body = Body {
        last_updated: shown(if healthy { Some(now) } else { last }),
        current_time: shown(Some(now)),
        node_eligible,
        healthy,
        status: families,
        reasons,
    };
    let body = serde_json::to_string(&body).expect("texts, truth values and maps with text keys");
    Answer { code: if healthy { 200 } else { 503 }, body }
}

/// RFC 3339 with as many decimals as needed; never is Go's zero time.
fn shown(moment: Option<Moment>) -> String {
    moment.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |moment| telemetry::utc(moment.wall).to_string())
}

#[cfg(test)]
mod tests;
