//! Stale connection tracking entries of UDP flows.
//!
//! IPVS forgets its own connections to a real server that is removed, along with their connection tracking entries
//! (`expire_nodest_conn`). It does not know of entries that were made without it: before a Service existed, or by the
//! node itself while a Service had no endpoints. Such an entry says "not translated", and is kept alive by the very
//! datagrams that it keeps from being answered. Nor does IPVS find the entry of a flow whose destination a rule rewrote
//! before IPVS saw it.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::types::Family;
use crate::state::{RealServerKey, VirtualServerKey};

/// UDP virtual servers whose stale entries are to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// For each virtual server, the endpoints that its flows may be with. If it has none, all its flows are stale.
    pub live: BTreeMap<VirtualServerKey, BTreeSet<RealServerKey>>,
}

/// A flow, as connection tracking records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Where its first packet was sent to: the destination of the original direction.
    pub destination: VirtualServerKey,
    /// Where its replies come from: the source of the reply direction. Equal to the destination if nothing translated
    /// the first packet.
    pub replies_from: RealServerKey,
}

impl Flow {
    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.destination.address)
    }
}

impl Purge {
    /// Whether a flow is with an endpoint that it must not be with.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        self.live.get(&flow.destination).is_some_and(|live| !live.contains(&flow.replies_from))
    }

    /// The families of its virtual servers.
    pub fn families(&self) -> BTreeSet<Family> {
        self.live.keys().map(|server| Family::of(server.address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::types::Protocol;

    fn flow(destination: &str, replies_from: &str) -> Flow {
        let parse = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address and a port");
        let (to, from) = (parse(destination), parse(replies_from));
        Flow {
            destination: VirtualServerKey { address: to.ip(), protocol: Protocol::Udp, port: to.port() },
            replies_from: RealServerKey { address: from.ip(), port: from.port() },
        }
    }

    #[test]
    fn only_flows_of_its_virtual_servers_with_others_than_live_endpoints_are_stale() {
        let live = flow("10.96.0.10:53", "10.244.1.2:5353");
        let without = flow("[fd00::10]:53", "[fd00::10]:53");
        let purge = Purge {
            live: [(live.destination, [live.replies_from].into()), (without.destination, BTreeSet::new())]
                .into(),
        };
        let stale = |destination, replies_from| purge.is_stale(&flow(destination, replies_from));
        assert!(!stale("10.96.0.10:53", "10.244.1.2:5353"), "live");
        assert!(stale("10.96.0.10:53", "10.244.1.2:53"), "another port of a live endpoint");
        assert!(stale("10.96.0.10:53", "10.244.1.3:5353"), "an endpoint that is gone");
        assert!(stale("10.96.0.10:53", "10.96.0.10:53"), "never translated");
        assert!(stale("[fd00::10]:53", "[fd00::10]:53"), "no endpoints");
        assert!(!stale("10.96.0.10:54", "10.244.1.3:5353"), "another virtual server");
        assert!(!stale("10.244.1.3:5353", "10.244.1.3:5353"), "no virtual server at all");
        assert_eq!(purge.families(), Family::ALL.into());
    }
}
