//! Our nftables tables: fixed rules and the sets that they look up, written and read back over netlink.
//!
//! There are two tables of the same form, `table ip kube-ipvs` and `table ip6 kube-ipvs`. Their names, hooks,
//! priorities and the mark are an interface: others may order their own chains by them. An *entry point* is an address,
//! a protocol and a port; the sets of entry points, addresses and devices are in `sets`.
//!
//! | chain | type, hook and priority | rules |
//! |---|---|---|
//! | `restrict` | filter prerouting, −120 | restrictions |
//! | `restrict-node` | filter output, −120 | the same for the node itself |
//! | `prerouting` | nat prerouting, −110 | rewriting, marking, settling |
//! | `output` | nat output, −110 | the same for the node itself |
//! | `postrouting` | nat postrouting, 90 | masquerading |
//! | `before-ipvs` | filter input, 90 | what IPVS must not see, or not as it is |
//! | `before-ipvs-node` | filter output, −99 | the same for the node itself, and for what IPVS sends on |
//! | `input` | filter input, 101 | what is for no virtual server |
//!
//! The rules of each chain, in order (the terms in italics are explained below):
//!
//! * `restrict` and `restrict-node`: a new connection to `@restricted` whose entry point and source match none of
//!   `@allowed`: drop.
//! * `prerouting`: from a loopback address: return. From a pod, to `@in-cluster`: *rewrite*. To `@masqueraded`: *mark*.
//!   To `@cluster-addresses`, not from a pod (`--masquerade-all`: from anywhere): *mark*. To `@owned`: *settle*. To
//!   `@shared-addresses`: return. To `@cluster-addresses` or `@external-addresses`: *settle*.
//! * `output`: the same for the node itself, all of whose connections come from inside the cluster and none from a pod.
//!   Connections to `@cluster-addresses` with a service address as the source are marked even if the pods are unknown.
//! * `postrouting`: source and destination are a pair in `@hairpin`, not leaving by `lo`: *mark*. Not marked: return.
//!   Clear the mark. Leaving by a device that is not in `@numbered` (IPv4, if the node's address is known): translate
//!   the source to the node's address. Everything else: masquerade.
//! * `before-ipvs`: new, to `@dropped`: drop. To `@internal`, not rewritten: ICMP port unreachable. An invalid TCP
//!   reset to `@cluster-addresses`: drop. Then for other invalid TCP segments without SYN:
//!   * to `@masqueraded`, or to `@cluster-addresses` not from a pod (`--masquerade-all`: from anywhere): *mark* and
//!     untrack;
//!   * to `@cluster-addresses`: untrack;
//!   * from a pod, without FIN: to `@owned`: drop; to `@shared-addresses`: return; to `@external-addresses`: drop;
//!   * to `@owned` or `@external-addresses`: untrack.
//! * `before-ipvs-node`: the first two rules of `before-ipvs`. New, rewritten, to `@cluster-addresses`: *mark*. An
//!   untracked TCP segment without SYN and FIN that is marked: drop.
//! * `input`: established or related: accept. Ping (`ICMPv6`: everything): accept. To `@health-checks`: accept. To
//!   `@refused`: *refuse*. To `@shared-addresses`: accept. To `@cluster-addresses` or `@external-addresses`: *refuse*.
//!
//! Why the rules are as they are:
//!
//! * All policies are accept: traffic that is not about a service address is left alone. Chains of type nat see only
//!   the first packet of a connection.
//! * To *mark* is to set one bit of the packet mark (`--iptables-masquerade-bit`, contract 6.1) and to keep the others;
//!   `postrouting` clears the bit before it masquerades.
//! * −110 and 90 put our nat chains before those of iptables (−100 and 100); the kernel walks the nat chains only until
//!   one of them translates. To *settle* a connection is to translate its destination to itself: then a CNI plugin's
//!   DNAT for a host port, which matches any local address, does not get the connection. Only destinations that are
//!   already local are settled: while a node is taken over from kube-proxy in iptables or nftables mode, kube-proxy's
//!   DNAT serves until kube-ipvs0 has the address. A node port's address is local, and the node port gets its element
//!   of `owned` in the same plan as its virtual server.
//! * To *rewrite*: entry points with policy Local lead to this node's endpoints, but clients inside the cluster may use
//!   all endpoints; the map `@in-cluster` names the virtual server that has all of them. Restrictions come earlier, so
//!   they apply to the entry point that the client asked for. In the rule that rewrites, a mark would have to be set
//!   before the map is looked up, and so would mark everything: the node's rewritten connections are marked in
//!   `before-ipvs-node` instead.
//! * Connection tracking does not translate back a reply that it considers invalid, such as a segment ahead of the
//!   window: IPVS gives the segment the cluster IP as its source, but a client whose connection was rewritten knows
//!   another address. The client answers with a reset to the cluster IP, which is invalid too, and which IPVS would
//!   send on to the endpoint: the connection would end. So these resets are dropped, and nothing else: kube-proxy's
//!   iptables mode drops every invalid packet that is forwarded, which also hits connections of which this node sees
//!   only one direction. (Replies to masqueraded connections, including all rewritten ones of the node itself, come
//!   back to the node itself, past IPVS. kube-proxy's modes do not handle those either.)
//! * A client's segment that connection tracking considers invalid would be taken for a new connection to the endpoint
//!   once IPVS has put in the endpoint's address and sent it on (`nf_conntrack_tcp_loose`, on by default). The real
//!   connection already has that tuple, so the segment would get another source port, and the endpoint would answer
//!   with a reset that ends the real connection. *Untracked*, the segment arrives with the client's own source, as it
//!   does with `nf_conntrack_tcp_loose=0`. It is not dropped: with 0, segments of connections that connection tracking
//!   has lost are invalid too, and do arrive.
//! * In a masqueraded connection, the endpoint does not know that source and would answer with a reset. So the segment
//!   is marked as the nat chains would have marked it, and dropped after IPVS has sent it on; the client sends it
//!   again. It is not dropped before IPVS: a segment that IPVS does not know is refused in `input` as usual, and a
//!   connection to an endpoint on the node itself is not masqueraded.
//! * In a rewritten connection, such a segment comes to an address under which IPVS does not know the connection, and
//!   `input` would answer with a reset. Pods' connections to entry points other than cluster IPs are all rewritten or
//!   masqueraded, so a pod's invalid segment to one of those is dropped unless it is masqueraded.
//! * In both cases a FIN is not dropped: connection tracking considers every FIN without a connection invalid, and
//!   whoever waits for an answer to it should get a reset. An invalid FIN in a live connection still ends that
//!   connection. With `nf_conntrack_tcp_loose=0`, clients of lost connections, as after `conntrack -F`, now wait in
//!   vain where they would otherwise get a reset.
//! * IPVS takes the packets of its virtual servers from hook input at 98 and 99, so the chain at 101 sees only packets
//!   for none of them: to ports that no Service declares, to Services without endpoints, and to ports that host
//!   processes have bound to all addresses. Replies to the node's own connections pass there as established. A virtual
//!   server whose real servers all drain would refuse connections that are to be dropped, so those are dropped before
//!   IPVS.
//! * The node's own connections pass IPVS in hook output at −98, after they are marked, and then `postrouting`, with
//!   the endpoint as destination and often with a service address as source.
//! * `masquerade` takes an address of the device by which a packet leaves. IPv4: if that device has none (as with
//!   devices that some CNI plugins make for pods, or `lo` towards an endpoint in the node's own network), it takes the
//!   first address of the first device that has one, which may be kube-ipvs0. So `@numbered` lists the devices with an
//!   address of their own, and for all others the rules name the node's address. IPv6 follows the rules of source
//!   address selection, which prefer any other address to the service addresses because these are deprecated.
//! * To *refuse* is to answer with ICMP port unreachable; but a TCP segment that begins no connection gets a reset, as
//!   from a host without that connection: ICMP would leave an established client waiting. (On ports of Services,
//!   kube-proxy leaves this to the host's TCP; contract 6.5.)
//!
//! If the kernel does not know the flag `fully-random`, `masquerade` and `snat` do without it; nothing else varies.
//!
//! **Identity.** The comment of the rule that masquerades holds the settings. [`Tables::read`] calls a table
//! [`Rules::Intact`] if and only if it has no flags (dormant is one) and holds exactly the following, and nothing else:
//! the chains (type, hook, priority, policy) with the rules and comments that these settings give, in order, and the
//! sets of the right kind. A counter added to a rule counts as damage; comments of the table, of sets and of elements
//! are not checked.
//!
//! A table has no owner flag and stays when the program ends.

mod expressions;
mod objection;
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

/// The most changes of elements in one transaction. Measured: from 200 changes on, the cost per change stays the same
/// (2 to 3 µs). A thousand changes block others who change rules for only a few milliseconds, and the answers fit the
/// socket's receive buffer even if every change is refused. (Adding a range to `allowed` costs the kernel more the more
/// ranges there are: some 0.6 ms among 10,000.)
const TRANSACTION_CHANGES: usize = 1000;

/// The name of the table in which the rules are tried.
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

    /// Whether the kernel has `nf_tables`, that is, whether its generation can be asked for.
    pub(super) fn supported(&mut self) -> io::Result<bool> {
        let body = |out: &mut Body<'_>| nfnetlink::header(out, None);
        match self.socket.get(wire::GET_GENERATION, body, |_| Ok(Some(()))) {
            Ok(answer) => Ok(answer.is_some()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Carries out steps about rules and elements, and returns the outcome of each, in the steps' order.
    ///
    /// Each [`Step::InstallRules`] is a transaction of its own, and these come first. All changes of elements form one
    /// transaction, deletions before additions; more than a thousand changes form several. A change that the kernel
    /// objects to is left out and the others are sent again, so it never holds them up: adding an existing element is
    /// refused with `EEXIST`, deleting a missing one with `ENOENT`. If the kernel runs out of memory, the whole
    /// transaction is refused.
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

    /// Reads back the table of one family: its rules (`None`: there is no table), and the elements of its sets. If the
    /// rules are [`Rules::Other`], elements that this program never makes are left out.
    ///
    /// # Errors
    /// If any part could not be read completely, or the table was replaced while it was read.
    pub fn read(&mut self, family: Family) -> io::Result<(Option<Rules>, BTreeSet<Element>)> {
        read::table(&mut self.socket, family)
    }

    /// Whether a family's table of our name has exactly the rules and sets that we make, for whatever settings. The
    /// elements are not read, so this asks some two dozen questions, however many Services there are.
    ///
    /// # Errors
    /// Where the kernel could not be asked.
    pub(super) fn has_rules(&mut self, family: Family) -> io::Result<bool> {
        read::has_rules(&mut self.socket, family)
    }

    /// The handle of a family's table of our name, whatever the table holds; `None`: there is no such table. No two
    /// tables ever have the same handle.
    ///
    /// # Errors
    /// If the kernel could not be asked.
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
        self.in_best_variant(family, |variant| {
            let mut transaction = Transaction::new();
            transaction.replace_table(family, NOTE);
            transaction.add_ruleset(family, &Ruleset::new(family, settings, variant));
            transaction.fill(family, elements);
            transaction
        })
    }

    /// Checks whether the kernel accepts our rules of a family. They go into a table of another name, which the same
    /// transaction deletes at its end.
    pub fn try_rules(&mut self, family: Family) -> Outcome {
        let settings =
            RuleSettings { masquerade_mark: 1, masquerade_all: false, inside: None, node_address: None };
        self.in_best_variant(family, |variant| {
            let mut transaction = Transaction::about(TRIAL);
            transaction.replace_table(family, NOTE);
            transaction.add_ruleset(family, &Ruleset::new(family, &settings, variant));
            transaction.delete_table(family, TRIAL);
            transaction
        })
    }

    /// Carries out a transaction about a family in the best variant that the kernel accepts.
    fn in_best_variant(&mut self, family: Family, transaction: impl Fn(Variant) -> Transaction) -> Outcome {
        best_variant(|variant| {
            let mut frames = transaction(variant).finish();
            match self.socket.transaction(&mut frames) {
                Commit::Done => Outcome::Done,
                Commit::Unknown => Outcome::Unknown,
                Commit::Refused { first, others } => {
                    Outcome::Refused(objection::told(&frames, family, first, &others))
                }
            }
        })
    }

    /// Carries out changes of elements in one transaction, or in as many as are needed to isolate refused changes.
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
                // Either half may be the cause.
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

/// What comes of the best variant that the kernel accepts.
fn best_variant(mut attempt: impl FnMut(Variant) -> Outcome) -> Outcome {
    let mut objection = None;
    for variant in Variant::ALL {
        match attempt(variant) {
            // The objection to the best variant is the most informative one.
            Outcome::Refused(refusal) if is_of_a_variant(&refusal) => objection = objection.or(Some(refusal)),
            // Accepted; or the kernel lacks memory, or somebody else interfered: the variant is not to blame, and the
            // next, lesser one would stay for good.
            outcome => return outcome,
        }
    }
    Outcome::Refused(objection.expect("there are variants, and each was refused"))
}

/// Which changes of one transaction the kernel refused, and why: it tries all messages, and names each one that it
/// objects to. Message 0 opens the transaction; each of the others is one change. Empty: the kernel objects to the
/// whole transaction, and one change or several may be the reason.
fn refused(
    changes: &[usize],
    objections: impl Iterator<Item = (usize, Refusal)>,
) -> BTreeMap<usize, Refusal> {
    let mut refused = BTreeMap::new();
    for (message, refusal) in objections {
        match message.checked_sub(1).and_then(|change| changes.get(change)) {
            Some(index) => drop(refused.insert(*index, refusal)),
            // Missing permission or memory is not the fault of any one change.
            None if changes.len() == 1 || refusal.is(Errno::PERM) || refusal.is(Errno::NOMEM) => {
                return changes.iter().map(|index| (*index, refusal.clone())).collect();
            }
            None => {}
        }
    }
    refused
}

/// Whether a refusal may mean that the kernel does not know an expression or a flag of this variant of the rules.
fn is_of_a_variant(refusal: &Refusal) -> bool {
    refusal.is_one_of(&[Errno::INVAL, Errno::NOENT, Errno::OPNOTSUPP])
}

/// The outcome of a step that makes no sense and is not sent.
fn invalid(text: String) -> Outcome {
    Outcome::Refused(Refusal { errno: Errno::INVAL.raw_os_error(), text })
}
