//! What becomes of each endpoint of a Service port, and why: for people who ask.

use super::{Near, Place, endpoints, merge};
use crate::cluster::Cluster;
use crate::cluster::types::{Endpoint, Family, Service, ServicePort};
use crate::state::RealServerKey;

/// The endpoints of one Service port and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// Which hints count for policy `Cluster`.
    pub near: Near,
    /// All of them, in order.
    pub endpoints: Vec<Judged<'a>>,
}

/// One endpoint, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// Its address and port.
    pub key: RealServerKey,
    /// What its slice says of it.
    pub endpoint: &'a Endpoint,
    /// Whether it is on this node.
    pub local: bool,
    /// Why new connections do not go to it where the policy is `Cluster`; `None`: they do.
    pub not_for_cluster: Option<Unused>,
    /// The same where the policy is `Local`.
    pub not_for_local: Option<Unused>,
}

/// Why new connections do not go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// It is not ready, nor does it serve while it terminates.
    NotReady,
    /// It serves while it terminates, and others are ready.
    OthersAreReady,
    /// It is ready, and meant for other nodes or zones.
    MeantForOthers,
    /// It is on another node.
    Elsewhere,
}

/// What becomes of each endpoint: the same choice as that of [`endpoints`], with reasons.
pub fn judged<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    place: Place<'_>,
) -> Judgement<'a> {
    let chosen = endpoints(cluster, service, port, family, place);
    let merged = merge(cluster, service, port, family, place);
    let near = Near::of(|| merged.iter().filter(|known| known.endpoint.ready), place);
    let judge = |known: &super::Known<'a>| {
        let condition = match (known.endpoint.ready, known.terminates_and_serves()) {
            (true, _) => None,
            (false, true) => Some(Unused::OthersAreReady),
            (false, false) => Some(Unused::NotReady),
        };
        let why = |chosen: &[RealServerKey], otherwise| {
            let is_chosen = chosen.binary_search(&known.key).is_ok();
            (!is_chosen).then(|| condition.unwrap_or(otherwise))
        };
        Judged {
            key: known.key,
            endpoint: known.endpoint,
            local: known.local,
            not_for_cluster: why(&chosen.cluster, Unused::MeantForOthers),
            not_for_local: if known.local {
                why(&chosen.local, Unused::Elsewhere)
            } else {
                Some(Unused::Elsewhere)
            },
        }
    };
    Judgement { near, endpoints: merged.iter().map(judge).collect() }
}
