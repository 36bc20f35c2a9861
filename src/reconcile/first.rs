//! The Services that everything else needs to start: the API and DNS. A new node is of use once they work, however
//! many Services there are.

use crate::cluster::Cluster;
use crate::cluster::types::ServiceKey;

/// `default/kubernetes`, and whatever in `kube-system` has port 53 (DNS goes by several names).
pub(super) fn services(cluster: &Cluster) -> impl Iterator<Item = ServiceKey> {
    cluster
        .services()
        .filter(|service| match (&*service.key.namespace, &*service.key.name) {
            ("default", "kubernetes") => true,
            ("kube-system", _) => service.ports.iter().any(|port| port.port == 53),
            _ => false,
        })
        .map(|service| service.key.clone())
}
