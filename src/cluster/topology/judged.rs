//! What becomes of each endpoint of a Service port, and why: explanations for people.

use serde::Serialize;

use super::{Near, Place, endpoints, merge};
use crate::cluster::Cluster;
use crate::cluster::types::{Endpoint, Family, Service, ServicePort};
use crate::state::RealServerKey;

/// The endpoints of one Service port and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// Which hints count for policy `Cluster`.
    pub near: Near,
    /// All endpoints, in order.
    pub endpoints: Vec<Judged<'a>>,
}

/// One endpoint, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// Its address and port.
    pub key: RealServerKey,
    /// What its slice says about it.
    pub endpoint: &'a Endpoint,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether new connections go to it under policy `Cluster`.
    pub for_cluster: EndpointUse,
    /// Whether new connections go to it under policy `Local`.
    pub for_local: EndpointUse,
}

/// Whether new connections go to an endpoint, or why they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EndpointUse {
    /// New connections go to it.
    #[serde(rename = "used")]
    Used,
    /// It is neither ready nor serving while terminating.
    #[serde(rename = "not ready")]
    NotReady,
    /// It serves while terminating, but others are ready.
    #[serde(rename = "terminating, and others are ready")]
    OthersAreReady,
    /// It is ready, but its hints name other nodes or zones.
    #[serde(rename = "meant for other nodes or zones, by its hints")]
    MeantForOthers,
    /// It is on another node, or on an unknown one.
    #[serde(rename = "not on this node")]
    Elsewhere,
}

/// What becomes of each endpoint: the same choice as in [`endpoints`], with reasons.
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
        let condition = match (known.endpoint.ready, known.endpoint.serves_while_terminating()) {
            (true, _) => None,
            (false, true) => Some(EndpointUse::OthersAreReady),
            (false, false) => Some(EndpointUse::NotReady),
        };
        let use_of = |chosen: &[RealServerKey], otherwise| match chosen.binary_search(&known.key) {
            Ok(_) => EndpointUse::Used,
            Err(_) => condition.unwrap_or(otherwise),
        };
        Judged {
            key: known.key,
            endpoint: known.endpoint,
            local: known.local,
            for_cluster: use_of(&chosen.cluster, EndpointUse::MeantForOthers),
            for_local: if known.local {
                use_of(&chosen.local, EndpointUse::Elsewhere)
            } else {
                EndpointUse::Elsewhere
            },
        }
    };
    Judgement { near, endpoints: merged.iter().map(judge).collect() }
}
