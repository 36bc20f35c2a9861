//! Where node ports are served: networks, and words that stand for networks.

use std::collections::BTreeSet;

use super::check::Check;
use super::names::NODE_PORT_ADDRESSES;
use crate::options::proxy::NodePortAddresses;
use crate::options::settings::Notice;
use crate::sloppy::parse_cidr;

/// The word for the node's addresses in the Node object, one per family.
const PRIMARY: &str = "primary";
/// The words that stand for networks, as in kube-proxy 1.37.
const NETWORKS: [(&str, [&str; 2]); 2] =
    [("all", ["0.0.0.0/0", "::/0"]), ("localhost", ["127.0.0.0/8", "::1/128"])];
const ALLOWED: &str =
    "must be a network such as 192.0.2.0/24 or fd00:1::/64, or one of the words primary, localhost and all";

impl Check<'_> {
    /// Reads the list. Words may be combined with networks and with each other, each once, as in kube-proxy since 1.37;
    /// before, it accepted only `primary`, alone.
    pub(super) fn node_port_addresses(&mut self, list: &[String]) -> NodePortAddresses {
        let mut addresses = NodePortAddresses::default();
        let mut words = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let word = item.trim();
            let networks = NETWORKS.iter().find(|(name, _)| *name == word).map(|(_, networks)| networks);
            if (word == PRIMARY || networks.is_some()) && !words.insert(word) {
                self.invalid_item(NODE_PORT_ADDRESSES, index, item, "must be given once only");
            } else if word == PRIMARY {
                addresses.primary = true;
            } else if let Some(networks) = networks {
                addresses.networks.extend(networks.iter().copied().filter_map(parse_cidr));
            } else if let Some(network) = parse_cidr(word) {
                addresses.networks.push(network);
            } else {
                self.invalid_item(NODE_PORT_ADDRESSES, index, item, ALLOWED);
            }
        }
        self.tell_of_loopback(&addresses);
        addresses
    }

    /// Warns of loopback networks: IPVS does not accept connections to loopback addresses. kube-proxy leaves them out
    /// in its ipvs mode, too, without saying so.
    fn tell_of_loopback(&mut self, addresses: &NodePortAddresses) {
        let mut loopback =
            addresses.networks.iter().filter(|network| network.addr().is_loopback()).peekable();
        if loopback.peek().is_none() {
            return;
        }
        // Another network of the family, or an address of the Node object, may provide addresses to serve node ports
        // on.
        let is_other = |v4: bool| {
            let mut others = addresses.networks.iter().filter(|network| !network.addr().is_loopback());
            addresses.primary || others.any(|network| network.addr().is_ipv4() == v4)
        };
        let nowhere: BTreeSet<&str> = loopback
            .map(|network| network.addr().is_ipv4())
            .filter(|v4| !is_other(*v4))
            .map(|v4| if v4 { "IPv4" } else { "IPv6" })
            .collect();
        let place = NODE_PORT_ADDRESSES.at(self.origin);
        let detail = if nowhere.is_empty() {
            place.to_string()
        } else {
            let families = nowhere.into_iter().collect::<Vec<_>>().join(" and ");
            format!("{place} has no other network of {families}: its node ports are served nowhere")
        };
        self.notices.push(Notice::warning("Node ports are not served on loopback addresses", detail));
    }
}
