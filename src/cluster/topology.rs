//! Which endpoints of a Service port get new connections on this node, by conditions, traffic policies and hints
//! (contract 5.2; KEP-1669, KEP-2433, KEP-3015).

mod judged;

use std::sync::Arc;

use serde::Serialize;

pub use self::judged::{EndpointUse, Judged, Judgement, judged};
use super::Cluster;
use super::types::{Endpoint, Family, Hints, Service, ServicePort};
use crate::state::RealServerKey;

/// This node's place in the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone, if it has one.
    pub zone: Option<&'a str>,
}

/// The endpoints of one Service port and family that new connections go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For policy `Cluster`.
    pub cluster: Vec<RealServerKey>,
    /// For policy `Local`: those on this node.
    pub local: Vec<RealServerKey>,
}

/// One endpoint of a port, and whether it is on this node.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    key: RealServerKey,
    endpoint: &'a Endpoint,
    local: bool,
}

impl Known<'_> {
    fn names(&self, names: fn(&Hints) -> &[Arc<str>]) -> &[Arc<str>] {
        self.endpoint.hints.as_deref().map_or(&[], names)
    }
}

/// The endpoints that new connections go to, by policy: those that are ready or, if none is, those that still serve
/// while they terminate.
///
/// Of the ready endpoints of the whole cluster, only those meant for this node or its zone are used, if all of them
/// have hints and some are meant for this node or zone: half-written hints would overload a few endpoints.
pub fn endpoints(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    place: Place<'_>,
) -> Endpoints {
    let merged = merge(cluster, service, port, family, place);
    let near = Near::of(|| merged.iter().filter(|known| known.endpoint.ready), place);
    Endpoints {
        cluster: ready_or_serving(&merged, |known| near.admits(known, place), |_| true),
        local: ready_or_serving(&merged, |known| known.local, |known| known.local),
    }
}

/// The endpoints that are ready and `admitted`, or else those that serve while they terminate and are allowed
/// `instead`.
fn ready_or_serving(
    all: &[Known<'_>],
    admitted: impl Fn(&Known<'_>) -> bool,
    instead: impl Fn(&Known<'_>) -> bool,
) -> Vec<RealServerKey> {
    let ready = chosen(all, |known| known.endpoint.ready && admitted(known));
    if ready.is_empty() {
        chosen(all, |known| known.endpoint.serves_while_terminating() && instead(known))
    } else {
        ready
    }
}

/// The endpoints that are `wanted`. Memory for all of them is allocated at once.
fn chosen(all: &[Known<'_>], wanted: impl Fn(&Known<'_>) -> bool) -> Vec<RealServerKey> {
    let mut chosen = Vec::with_capacity(all.len());
    for known in all {
        if wanted(known) {
            chosen.push(known.key);
        }
    }
    chosen
}

/// Which hints count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Near {
    /// Those for nodes.
    #[serde(rename = "for nodes")]
    Node,
    /// Those for zones.
    #[serde(rename = "for zones")]
    Zone,
    /// None.
    #[serde(rename = "none")]
    Anywhere,
}

impl Near {
    /// The kind of hints that all ready endpoints have, if at least one of them is meant for this place.
    fn of<'a, I: Iterator<Item = &'a Known<'a>>>(ready: impl Fn() -> I, place: Place<'_>) -> Self {
        // Without endpoints no kind of hint counts: `all` holds for an empty list, `any` does not.
        let all_and_here = |names: fn(&Hints) -> &[Arc<str>], here: Option<&str>| {
            ready().all(|known| !known.names(names).is_empty())
                && ready().any(|known| known.names(names).iter().any(|name| Some(&**name) == here))
        };
        if all_and_here(|hints| &hints.nodes, Some(place.node)) {
            Self::Node
        } else if all_and_here(|hints| &hints.zones, place.zone) {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    fn admits(self, known: &Known<'_>, place: Place<'_>) -> bool {
        let named = |names, here| known.names(names).iter().any(|name| Some(&**name) == here);
        match self {
            Self::Node => named(|hints| &hints.nodes, Some(place.node)),
            Self::Zone => named(|hints| &hints.zones, place.zone),
            Self::Anywhere => true,
        }
    }
}

/// One entry per address and port, in order. Of several entries, the last one that is not terminating wins, whichever
/// slice it is in: a pod that moves between slices is in both for a while (contract 5.1).
fn merge<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    place: Place<'_>,
) -> Vec<Known<'a>> {
    let mut merged: Vec<Known<'a>> = Vec::new();
    for slice in cluster.slices(&service.key).filter(|slice| slice.family == family) {
        let Some(number) = slice.port(port) else { continue };
        merged.extend(slice.endpoints.iter().map(|endpoint| Known {
            key: RealServerKey { address: endpoint.address, port: number },
            endpoint,
            local: endpoint.node.as_deref() == Some(place.node),
        }));
    }
    // The sort is stable: of entries with the same key, the last one stays last.
    merged.sort_by_key(|known| known.key);
    merged.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same && !later.endpoint.terminating {
            *kept = *later;
        }
        same
    });
    merged
}
