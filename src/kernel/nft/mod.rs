//! Our nftables tables: fixed rules and the sets that they look at, written and read back over netlink.
//!
//! There are two tables, `table ip kube-ipvs` and `table ip6 kube-ipvs`, of the same form. Their names, hooks,
//! priorities and the mark are an interface: others may order their own chains by them. An *entry point* is an address,
//! a protocol and a port; the sets of entry points, addresses and devices are in `sets`.
//!
//! | chain | hook and priority | rules, in order |
//! |---|---|---|
//! | `restrict`, `restrict-node` | filter prerouting and output, −120 | new, to `@restricted`, from none of `@allowed`: drop |
//! | `prerouting` | nat prerouting, −110 | loopback sources: return · from a pod, to `@in-cluster`: rewrite · to `@masqueraded`: mark · to `@cluster-addresses` not from a pod (`--masquerade-all`: from anywhere): mark · to `@owned`: settle · to `@shared-addresses`: return · to `@cluster-addresses`, `@external-addresses`: settle |
//! | `output` | nat output, −110 | the same for the node itself, all of whose connections are from inside the cluster, and from no pod; to `@cluster-addresses` with a service address as the source they are marked also where the pods are unknown |
//! | `postrouting` | nat postrouting, 90 | source . destination in `@hairpin`: mark · not marked: return · unmark · leaving by none of `@numbered`: the node's address · masquerade |
//! | `before-ipvs`, `before-ipvs-node` | filter input, 90; output, −99 | new, to `@dropped`: drop · to `@internal`, not rewritten: ICMP port unreachable · (not the node's) invalid TCP resets to `@cluster-addresses`: drop · (not the node's) invalid TCP segments without SYN: to `@masqueraded`, and to `@cluster-addresses` not from a pod (`--masquerade-all`: from anywhere): mark and untrack, to `@cluster-addresses`: untrack, from a pod to `@owned` and, but for `@shared-addresses`, `@external-addresses`, without FIN: drop, to `@owned`, `@external-addresses`: untrack · (node) rewritten to a cluster IP: mark · (node, and what IPVS sends on) untracked TCP segments without SYN and FIN, marked: drop |
//! | `input` | filter input, 101 | established, related: accept · ping (`ICMPv6`: all): accept · to `@health-checks`: accept · to `@refused`: refuse · to `@shared-addresses`: accept · to `@cluster-addresses`, `@external-addresses`: refuse |
//!
//! * All policies are accept: what is not about a service address is left alone. Chains of type nat see the first
//!   packet of a connection only.
//! * *Mark* sets one bit of the packet's mark (`--iptables-masquerade-bit`, contract 6.1) and keeps the others; it is
//!   cleared where it is obeyed.
//! * −110 and 90 come before iptables' nat (−100 and 100) in the walk over the nat chains, which ends at the first
//!   that translates. To *settle* is to translate a destination to itself: a CNI plugin's DNAT of a host port, which
//!   means any local address, does not get the connection then. Only what is local already is settled: while a node is
//!   taken over from kube-proxy in iptables or nftables mode, its DNAT serves until kube-ipvs0 has the address. A node port's is local, and
//!   gets its element of `owned` in the same plan as its virtual server.
//! * *Rewrite*: entry points with policy Local lead to this node's endpoints, and for clients inside the cluster to all
//!   of them: `@in-cluster` says which virtual server has those. Restrictions come before, by what the client asked for.
//!   A mark in the same rule would have to come before the map is looked up, so that it would mark everything: the node's
//!   rewritten connections are marked in `before-ipvs-node`.
//! * A segment that connection tracking calls invalid, as one ahead of the window, is not translated back: IPVS puts the cluster IP
//!   in, and a client that was rewritten knows another address. It answers with a reset to the cluster IP, invalid too, which IPVS
//!   would take to the endpoint: that ended the connection. So these resets are dropped, and no more: kube-proxy's iptables mode drops
//!   all that is invalid and forwarded, which also hits what this node sees one way of only. (What is masqueraded, as all
//!   of the node's own that is rewritten, comes back to the node itself, past IPVS. Nor do kube-proxy's modes look at that.)
//! * A client's segment that connection tracking calls invalid was seen as a new connection to the endpoint, when IPVS had put that in
//!   and sent it on (`nf_conntrack_tcp_loose`, on by default): the real connection had the tuple, so that it got another source port,
//!   and the endpoint answered with a reset that ended the real one. *Untracked*, it arrives with the client's own source, as with
//!   `nf_conntrack_tcp_loose=0`. It is not dropped: where that is 0, segments of connections that connection tracking has lost
//!   are invalid too, and arrive.
//! * In a connection that is masqueraded such a segment has a source that the endpoint does not know, which answered with a
//!   reset. So it is marked as the nat chains would have done, and dropped when IPVS has sent it on; the client sends it again.
//!   Not before IPVS: what IPVS does not know is refused in `input` as ever, and an endpoint on the node itself is not
//!   masqueraded.
//! * In one that was rewritten it comes to an address by which IPVS does not know the connection, and `input` answered with a
//!   reset. From pods all entry points but cluster IPs are rewritten or masqueraded: what is not masqueraded is dropped.
//! * In both a FIN is not dropped: without its connection connection tracking calls each one invalid, and whoever waits for
//!   an answer to it should have a reset. One that is invalid in a live connection still ends it. With
//!   `nf_conntrack_tcp_loose=0` clients of lost connections, as after `conntrack -F`, wait in vain where they had a reset.
//! * IPVS takes the packets of its virtual servers from hook input at 98 and 99, so that 101 sees what is for none of
//!   them: ports that no Service declares, Services without endpoints, and ports that host processes have bound to all
//!   addresses. Replies to the node's own connections come by as established. A virtual server whose real servers all
//!   drain would refuse what is to be dropped, so that is dropped before IPVS.
//! * The node's own connections go through IPVS in hook output at −98, after the mark, and through `postrouting` with the
//!   endpoint as destination, and often a service address as source.
//! * `masquerade` takes an address of the device that a packet leaves by. IPv4: where that has none (as some CNI plugins
//!   make devices for pods, or `lo` towards an endpoint in the node's own network), it takes the first address of the
//!   first device that has one, which may be kube-ipvs0; so `@numbered` has the devices with an address of their own, and
//!   the node's address is named for the others. IPv6 goes by the rules of source selection, where the service addresses
//!   come last because they are deprecated.
//! * To *refuse* is to answer ICMP port unreachable; but a TCP segment that begins no connection gets a reset, as from a
//!   host without that connection: ICMP would leave an established client waiting. (kube-proxy leaves this to the
//!   host's TCP on ports of Services; contract 6.5.)
//!
//! Where the kernel does not know `masquerade fully-random`, plain `masquerade` takes its place; nothing else varies.
//!
//! **Identity.** The comment of the rule that masquerades holds the settings; [`Tables::read`] calls a table
//! [`Rules::Intact`] if and only if it holds the chains (type, hook, priority, policy) with exactly the rules and
//! comments that these settings give, in order, the sets of the right kind, and nothing else, and is not dormant.
//! A counter added to a rule counts as damage; comments of the table, of sets and of elements are not looked at.
//!
//! A table has no owner flag and stays when the program ends.

mod expressions;
mod read;
mod rules;
mod sets;
#[cfg(test)]
mod tests;
pub mod whole_tables;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;

use self::rules::{NOTE, Ruleset, Variant};
use self::wire::Transaction;
use super::netlink::{Body, Commit, Protocol, Socket};
use super::{Outcome, Refusal, nfnetlink};
use crate::cluster::types::Family;
use crate::diff::Step;
use crate::state::{Element, Inside, RuleSettings, Rules};

/// Most changes of elements in one transaction. Measured: from 200 on a change costs the same (2 to 3 µs); a thousand
/// keep others who change rules waiting for a few milliseconds only, and their answers fit the socket's receive buffer
/// even when every change is refused. (A range of `allowed` costs the kernel more the more there are: some 0.6 ms among
/// 10,000.)
const TRANSACTION_CHANGES: usize = 1000;

/// The name of the table in which rules are tried.
const TRIAL: &str = "kube-ipvs-trial";

/// Our tables in the network namespace of the thread that opened them.
#[derive(Debug)]
pub struct Tables {
    socket: Socket,
}

impl Tables {
    /// Opens a netlink socket. Nothing is written or read.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Whether the kernel has `nf_tables`: its generation can be asked for.
    pub(super) fn supported(&mut self) -> io::Result<bool> {
        let body = |out: &mut Body<'_>| nfnetlink::header(out, None);
        match self.socket.get(wire::GET_GENERATION, body, |_| Ok(Some(()))) {
            Ok(answer) => Ok(answer.is_some()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Carries out steps about rules and elements, and says what became of each, in the steps' order.
    ///
    /// Each [`Step::InstallRules`] is a transaction of its own, and they come first. All changes of elements are one
    /// transaction, deletions before additions; above a thousand changes, several. A change that the kernel objects
    /// to is left out and the others are sent again, so that it never stops them: adding what is there is refused
    /// with `EEXIST`, deleting what is not there with `ENOENT`. Where memory is lacking, the whole transaction is refused.
    pub fn apply(&mut self, steps: &[&Step]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Unknown; steps.len()];
        let (mut deletions, mut additions) = (Vec::new(), Vec::new());
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::InstallRules(family, settings, elements) => {
                    outcomes[index] = self.install(*family, settings, elements);
                }
                Step::DeleteElement(_) => deletions.push(index),
                Step::AddElement(_) => additions.push(index),
                _ => outcomes[index] = invalid(format!("{} is not about nftables", step.key())),
            }
        }
        deletions.append(&mut additions);
        for changes in deletions.chunks(TRANSACTION_CHANGES) {
            self.change(steps, changes.to_vec(), &mut outcomes);
        }
        outcomes
    }

    /// Reads back the table of one family: its rules (`None`: there is no table), and the elements of its sets.
    /// Where the rules are [`Rules::Other`], elements that are not ours to have are left out.
    ///
    /// # Errors
    /// Where any part could not be read completely, or was replaced while it was read.
    pub fn read(&mut self, family: Family) -> io::Result<(Option<Rules>, BTreeSet<Element>)> {
        read::table(&mut self.socket, family)
    }

    /// The handle of a family's table of our name, whatever is in it; no two tables ever have the same. `None`: there is no
    /// such table.
    ///
    /// # Errors
    /// Where the kernel could not be asked.
    pub fn handle(&mut self, family: Family) -> io::Result<Option<u64>> {
        read::handle(&mut self.socket, family)
    }

    /// Replaces the table of a family, in the best variant that the kernel accepts.
    fn install(&mut self, family: Family, settings: &RuleSettings, elements: &[Element]) -> Outcome {
        if let Some(Inside::Network(pods)) = &settings.inside
            && Family::of_network(pods) != family
        {
            return invalid(format!("the pods' network {pods} is not {family}"));
        }
        if let Some(address) = settings.node_address.filter(|_| family != Family::V4) {
            return invalid(format!("the node's address {address} is not {family}"));
        }
        if let Some(element) = elements.iter().find(|element| element.family() != family) {
            return invalid(format!("element {element} is not {family}"));
        }
        self.in_best_variant(|variant| {
            let mut transaction = Transaction::new();
            transaction.replace_table(family, NOTE);
            transaction.add_ruleset(family, &Ruleset::new(family, settings, variant));
            transaction.fill(family, elements);
            transaction
        })
    }

    /// Whether the kernel takes our rules of a family. They are put into a table of another name, which is gone at the end of
    /// the same transaction.
    pub fn try_rules(&mut self, family: Family) -> Outcome {
        let settings =
            RuleSettings { masquerade_mark: 1, masquerade_all: false, inside: None, node_address: None };
        self.in_best_variant(|variant| {
            let mut transaction = Transaction::about(TRIAL);
            transaction.replace_table(family, NOTE);
            transaction.add_ruleset(family, &Ruleset::new(family, &settings, variant));
            transaction.delete_table(family, TRIAL);
            transaction
        })
    }

    /// Carries out a transaction in the best variant that the kernel accepts.
    fn in_best_variant(&mut self, transaction: impl Fn(Variant) -> Transaction) -> Outcome {
        let mut objection = None;
        for variant in Variant::ALL {
            match self.socket.transaction(&mut transaction(variant).finish()) {
                Commit::Done => return Outcome::Done,
                Commit::Unknown => return Outcome::Unknown,
                // Nothing is wrong with the variant where there is no memory, or somebody else is at it: the next one would stay.
                Commit::Refused { first: (_, refusal), .. } if !is_of_a_variant(&refusal) => {
                    return Outcome::Refused(objection.unwrap_or(refusal));
                }
                // The objection to the best variant says most.
                Commit::Refused { first: (_, refusal), .. } => objection = objection.or(Some(refusal)),
            }
        }
        Outcome::Refused(objection.expect("there are variants, and each was refused"))
    }

    /// Carries out changes of elements in one transaction, or in as many as their isolation needs.
    fn change(&mut self, steps: &[&Step], mut changes: Vec<usize>, outcomes: &mut [Outcome]) {
        while !changes.is_empty() {
            let mut transaction = Transaction::new();
            for index in &changes {
                match steps[*index] {
                    Step::DeleteElement(element) => transaction.delete_element(*element),
                    Step::AddElement(element) => transaction.add_element(*element),
                    _ => {}
                }
            }
            let refused = match self.socket.transaction(&mut transaction.finish()) {
                Commit::Done => {
                    for index in changes {
                        outcomes[index] = Outcome::Done;
                    }
                    return;
                }
                Commit::Unknown => return,
                Commit::Refused { first, others } => refused(&changes, std::iter::once(first).chain(others)),
            };
            if refused.is_empty() {
                // Which of its halves was meant?
                let (left, right) = changes.split_at(changes.len() / 2);
                self.change(steps, left.to_vec(), outcomes);
                return self.change(steps, right.to_vec(), outcomes);
            }
            changes.retain(|index| !refused.contains_key(index));
            for (index, refusal) in refused {
                outcomes[index] = Outcome::Refused(refusal);
            }
        }
    }
}

/// Which of the changes of one transaction the kernel refused, and why: it tries all messages, and names each that it objects to.
/// Message 0 opens the transaction, the others are one change each. None: it objects to the whole, and one change, or
/// several, may be why.
fn refused(
    changes: &[usize],
    objections: impl Iterator<Item = (usize, Refusal)>,
) -> BTreeMap<usize, Refusal> {
    let mut refused = BTreeMap::new();
    for (message, refusal) in objections {
        match message.checked_sub(1).and_then(|change| changes.get(change)) {
            Some(index) => drop(refused.insert(*index, refusal)),
            // Without the right to change anything, or memory, it is none of them.
            None if changes.len() == 1 || refusal.is(Errno::PERM) || refusal.is(Errno::NOMEM) => {
                return changes.iter().map(|index| (*index, refusal.clone())).collect();
            }
            None => {}
        }
    }
    refused
}

/// Whether a refusal may be that of a variant of the rules that the kernel does not know: of an expression, or of a flag.
fn is_of_a_variant(refusal: &Refusal) -> bool {
    [Errno::INVAL, Errno::NOENT, Errno::OPNOTSUPP].iter().any(|errno| refusal.is(*errno))
}

/// The outcome of a step that makes no sense and is not sent.
fn invalid(text: String) -> Outcome {
    Outcome::Refused(Refusal { errno: Errno::INVAL.raw_os_error(), text })
}
