//! Addresses that somebody else has too. They are logged together: one mistake concerns many of them, and each start
//! logs them again.

use super::{NAMED, named};
use crate::desired::Shared;
use crate::desired::claims::{Conflict, ORDER};
use crate::reconcile::note::Owner;

/// The contested addresses found so far.
#[derive(Default)]
pub(crate) struct Contested {
    /// Virtual servers that two Services claim.
    pub(crate) conflicts: Vec<Conflict>,
    /// Service addresses that are not put on our device.
    pub(crate) shared: Vec<(Shared, Owner)>,
}

impl Contested {
    /// Writes all of it to the log.
    pub(crate) fn tell(self) {
        tell_conflicts(&self.conflicts);
        tell_shared(&self.shared);
    }
}

fn tell_conflicts(conflicts: &[Conflict]) {
    if conflicts.len() > NAMED {
        tracing::warn!(
            count = conflicts.len(),
            services = named(conflicts.iter().map(|conflict| &conflict.loser)),
            virtual_servers = named(conflicts.iter().map(|conflict| &conflict.server)),
            winners = named(conflicts.iter().map(|conflict| &conflict.winner)),
            "Some Services ask for an address, protocol and port that other Services have, and those keep them: {ORDER}"
        );
        return;
    }
    for conflict in conflicts {
        tracing::warn!(
            service = %conflict.loser,
            virtual_server = %conflict.server,
            winner = %conflict.winner,
            "Two Services claim one address, protocol and port, and the winner has it: {ORDER}"
        );
    }
}

/// The log messages about one kind of owner that has service addresses too.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Words {
    /// Whether to log a warning: it is likely a mistake, or has to be known.
    is_warning: bool,
    /// The message about one address.
    one: &'static str,
    /// The message about many.
    many: &'static str,
}

impl Words {
    fn of(owner: &Owner) -> Self {
        let (is_warning, one, many) = match owner {
            Owner::Node => (
                true,
                "A service address is this node's own: the Service's ports there are served, the others stay the node's",
                "Service addresses are this node's own: the Services' ports there are served, the others stay the node's",
            ),
            Owner::NodeObject => (
                true,
                "A service address is this node's own by the Node object, and no device has it: pods and the node reach \
                 the Service's ports there, who else does is up to those who translate it",
                "Service addresses are this node's own by the Node object, and no device has them: pods and the node reach \
                 the Services' ports there, who else does is up to those who translate them",
            ),
            Owner::OtherNode(_) => (
                true,
                "A service address is another node's: it is left to that node",
                "Service addresses are other nodes': they are left to those nodes",
            ),
            Owner::Device => (
                false,
                "Another device has a service address: it is served, and not put on kube-ipvs0",
                "Another device has service addresses: they are served, and not put on kube-ipvs0",
            ),
            Owner::DeviceOfClusterIp => (
                true,
                "Another device has a cluster IP: the Service is served there, and who listens on the Service's port (as a \
                 NodeLocal DNSCache may) is not asked; let it listen on an address of its own only",
                "Another device has cluster IPs: the Services are served there, and who listens on a Service's port (as a \
                 NodeLocal DNSCache may) is not asked; let it listen on an address of its own only",
            ),
        };
        Self { is_warning, one, many }
    }
}

/// Writes a line, as a warning or not.
macro_rules! log {
    ($is_warning:expr, $($event:tt)+) => {
        if $is_warning { tracing::warn!($($event)+) } else { tracing::info!($($event)+) }
    };
}

/// Logs which service addresses are not put on our device, and why.
fn tell_shared(all: &[(Shared, Owner)]) {
    let mut groups: Vec<(Words, Vec<&(Shared, Owner)>)> = Vec::new();
    for found in all {
        let words = Words::of(&found.1);
        match groups.iter_mut().find(|(known, _)| *known == words) {
            Some((_, group)) => group.push(found),
            None => groups.push((words, vec![found])),
        }
    }
    for (Words { is_warning, one, many }, group) in groups {
        if group.len() > NAMED {
            let services = named(group.iter().map(|(shared, _)| &shared.service));
            let addresses = named(group.iter().map(|(shared, _)| shared.address));
            let nodes = other_node(&group[0].1)
                .map(|_| named(group.iter().filter_map(|(_, owner)| other_node(owner))));
            log!(is_warning, count = group.len(), services, addresses, nodes, "{many}");
            continue;
        }
        for (Shared { service, address }, owner) in group {
            log!(is_warning, %service, %address, node = other_node(owner), "{one}");
        }
    }
}

fn other_node(owner: &Owner) -> Option<&str> {
    match owner {
        Owner::OtherNode(node) => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::types::ServiceKey;

    #[test]
    fn each_owner_has_its_words_for_one_and_for_many() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let shared = |number: u8| Shared {
            service: ServiceKey::new("default", format!("web{number}")),
            address: [10, 96, 0, number].into(),
        };
        let owners = [
            Owner::Node,
            Owner::NodeObject,
            Owner::OtherNode("there".into()),
            Owner::Device,
            Owner::DeviceOfClusterIp,
        ];
        let told = |counts: std::ops::Range<u8>| {
            let before = log.lines_with("").len();
            let all = counts.flat_map(|number| owners.clone().map(|owner| (shared(number), owner)));
            Contested { conflicts: Vec::new(), shared: all.collect() }.tell();
            log.lines_with("").split_off(before)
        };
        let levels = |lines: &[String]| lines.iter().map(|line| line[..1].to_owned()).collect::<String>();
        let lines = told(1..2);
        assert_eq!(levels(&lines), "WWWIW", "{lines:#?}");
        assert!(
            lines.iter().all(|line| line.contains(r#"service="default/web1" address="10.96.0.1""#)),
            "{lines:#?}"
        );
        assert!(lines[2].ends_with(r#" node="there""#) && !lines[1].contains("node="), "{lines:#?}");
        let lines = told(1..10);
        assert_eq!(levels(&lines), "WWWIW", "{lines:#?}");
        assert!(lines.iter().all(|line| line.contains(" count=9 services=")), "{lines:#?}");
        assert!(lines[2].contains(r#" nodes="there, there, "#) && !lines[1].contains("nodes="), "{lines:#?}");
    }
}
