//! What depends on the facts of single Services: health check ports, and how many Services lack endpoints on this node.
//! Only Services whose facts changed are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::cluster::node_ips::NodeIps;
use crate::cluster::types::{Family, NodeAddresses, Policy, Service, ServiceKey};
use crate::cluster::{Cluster, Touched, local};
use crate::desired::node::node_port_networks;
use crate::options::ProxyOptions;
use crate::options::proxy::NodePortAddresses;
use crate::serve::metrics::Metrics;
use crate::serve::metrics::kube_proxy::TrafficPolicy;
use crate::serve::service_health::{Addresses, News, Wanted};

/// What was last reported about Services.
pub(crate) struct Services {
    node_name: Arc<str>,
    families: BTreeSet<Family>,
    node_port_addresses: NodePortAddresses,
    bind_address: Option<IpAddr>,
    metrics: Arc<Metrics>,
    news: mpsc::UnboundedSender<Vec<News>>,
    /// The health check ports, and what they are to answer.
    wanted: BTreeMap<ServiceKey, BTreeMap<Family, Wanted>>,
    /// Services of load balancers that should have a health check port and have none.
    unanswered: BTreeSet<ServiceKey>,
    /// The Services with a `Local` policy that have endpoints, but none on this node.
    lacking: BTreeMap<(Family, TrafficPolicy), BTreeSet<ServiceKey>>,
    listening: BTreeMap<Family, Addresses>,
}

impl Services {
    pub(crate) fn new(
        node_name: Arc<str>,
        options: &ProxyOptions,
        families: BTreeSet<Family>,
        metrics: Arc<Metrics>,
        news: mpsc::UnboundedSender<Vec<News>>,
    ) -> Self {
        Self {
            node_name,
            families,
            node_port_addresses: options.node_port_addresses.clone(),
            bind_address: options.bind_address,
            metrics,
            news,
            wanted: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            lacking: BTreeMap::new(),
            listening: BTreeMap::new(),
        }
    }

    /// Looks at these Services, whose facts may have changed. News about health check ports are sent together: a port
    /// may pass from one Service to another.
    pub(super) fn look(&mut self, cluster: &Cluster, touched: &Touched) {
        let mut news = Vec::new();
        for key in touched {
            // True of nearly all Services: nothing depends on where their endpoints are, now or before.
            let policies =
                cluster.service(key).map(|service| (service.internal_policy, service.external.is_some()));
            if matches!(policies, None | Some((Policy::Cluster, false)))
                && !self.wanted.contains_key(key)
                && !self.unanswered.contains(key)
                && !self.lacking.values().any(|lacking| lacking.contains(key))
            {
                continue;
            }
            self.look_for_health_check_port(cluster, key);
            let mut wanted = BTreeMap::new();
            for family in self.families.clone() {
                let service = cluster.service(key).filter(|service| has(service, family));
                let uid = service.and_then(|service| service.uid);
                // Skipped where nothing depends on it, as in most Services: some have thousands of endpoints.
                let local = service
                    .filter(|service| depends_on_place(service))
                    .map(|service| local::of(cluster, service, &self.node_name, family))
                    .unwrap_or_default();
                let external = service.and_then(|service| service.external.as_deref());
                if let Some(port) = external.and_then(|external| external.health_check_node_port) {
                    wanted.insert(family, Wanted { port, local_endpoints: local.ready_addresses, uid });
                }
                let lacks = local.lacks_endpoints;
                let internal = service.map(|service| service.internal_policy);
                self.set_lack(family, TrafficPolicy::Internal, key, lacks && internal == Some(Policy::Local));
                let external = external.map(|external| external.policy);
                self.set_lack(family, TrafficPolicy::External, key, lacks && external == Some(Policy::Local));
            }
            news.extend(self.want(key, wanted));
        }
        self.tell(news);
    }

    /// Logs once that a Service has no health check port although it should.
    fn look_for_health_check_port(&mut self, cluster: &Cluster, key: &ServiceKey) {
        let external = cluster.service(key).and_then(|service| service.external.as_deref());
        if external.is_none_or(|external| !external.lacks_health_check_node_port) {
            self.unanswered.remove(key);
        } else if self.unanswered.insert(key.clone()) {
            tracing::error!(service = %key, "Service has no healthcheck nodeport");
        }
    }

    fn want(&mut self, key: &ServiceKey, wanted: BTreeMap<Family, Wanted>) -> Option<News> {
        if self.wanted.get(key).unwrap_or(&BTreeMap::new()) == &wanted {
            return None;
        }
        if wanted.is_empty() {
            self.wanted.remove(key);
        } else {
            self.wanted.insert(key.clone(), wanted.clone());
        }
        Some(News::Service(key.clone(), wanted))
    }

    /// Sends news. When the program ends, nobody receives them any more.
    fn tell(&self, news: Vec<News>) {
        if !news.is_empty() {
            let _ = self.news.send(news);
        }
    }

    fn set_lack(&mut self, family: Family, policy: TrafficPolicy, key: &ServiceKey, lacks: bool) {
        let lacking = self.lacking.entry((family, policy)).or_default();
        let changed = if lacks { lacking.insert(key.clone()) } else { lacking.remove(key) };
        if changed {
            self.metrics.kube_proxy.set_no_local_endpoints(family, policy, lacking.len());
        }
    }

    /// Looks at the node, whose facts may have changed. Health check ports listen where node ports are served, loopback
    /// addresses included (contract 8.4).
    pub(super) fn look_at_node(&mut self, cluster: &Cluster) {
        let written = cluster.node().map_or(&[][..], |node| &node.addresses);
        let ips = NodeIps::new(written, self.bind_address);
        for &family in &self.families {
            let networks = node_port_networks(&self.node_port_addresses, ips, family);
            let addresses = addresses(&networks, cluster.node_addresses());
            if self.listening.get(&family).unwrap_or(&Addresses::All) != &addresses {
                self.listening.insert(family, addresses.clone());
                self.tell(vec![News::Addresses(family, addresses)]);
            }
        }
    }
}

/// Whether it matters for a Service which of its endpoints are on this node.
fn depends_on_place(service: &Service) -> bool {
    let external = service.external.as_deref();
    service.internal_policy == Policy::Local
        || external.is_some_and(|external| {
            external.policy == Policy::Local || external.health_check_node_port.is_some()
        })
}

fn has(service: &Service, family: Family) -> bool {
    service.cluster_ips.iter().any(|address| Family::of(*address) == family)
}

fn addresses(networks: &[IpNet], node: &NodeAddresses) -> Addresses {
    if networks.is_empty() {
        return Addresses::All;
    }
    let inside = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
    Addresses::These(node.iter().map(|known| known.address).filter(inside).collect())
}

#[cfg(test)]
mod tests;
