//! Whole tables, ours or others': whether they exist, what they hold, and how to remove them or what they hold.

use std::io;

use super::read::existing;
use super::rules::TABLE;
use super::wire::{self, Transaction};
use crate::cluster::types::Family;
use crate::kernel::netlink::{Attribute, Attributes, Commit, Message, Protocol, Socket, malformed};
use crate::kernel::{Outcome, nfnetlink};

/// The name of our tables, one of each family.
pub const OUR_TABLE: &str = TABLE;

/// The most chains that one transaction removes.
const PIECE: usize = 1000;

/// The tables in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct WholeTables {
    socket: Socket,
}

/// A chain of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundChain {
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether packets enter the chain from a hook.
    pub is_base: bool,
    /// Whether its policy drops what reaches its end.
    pub drops: bool,
}

/// A rule of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRule {
    /// The chain that holds it.
    pub chain: String,
    /// Identifies the rule within its table.
    pub handle: u64,
    /// Its steps, in order.
    pub steps: Vec<FoundStep>,
}

/// A step of a rule, as far as this program understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundStep {
    /// Counts packets.
    Counter,
    /// The verdict accept.
    Accept,
    /// The verdict drop.
    Drop,
    /// Returns to where the chain was called from.
    Return,
    /// Continues in this chain, and then returns.
    Jump(String),
    /// Continues in this chain.
    GoTo(String),
    /// A match of iptables, with its own data.
    Match {
        /// Its name, as given after `-m`.
        name: String,
        /// The version of the format of its data.
        revision: u32,
        /// Its data.
        info: Vec<u8>,
    },
    /// A target of iptables, by its name.
    Target(String),
    /// Anything else, by the kernel's name for it.
    Other(String),
}

/// What a table holds, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Identifies the moment.
    generation: u32,
    /// Its chains.
    pub chains: Vec<FoundChain>,
    /// The rules of all chains; those of one chain in order.
    pub rules: Vec<FoundRule>,
}

impl WholeTables {
    /// Opens a netlink socket. Nothing is written or read.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Whether there is a table of this family and name.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn exists(&mut self, family: Family, table: &str) -> io::Result<bool> {
        let answer = self.socket.get(
            wire::GET_TABLE,
            |body| {
                nfnetlink::header(body, family);
                body.text(wire::table::NAME, table);
            },
            |_| Ok(Some(())),
        );
        existing(answer).map(|found| found.is_some())
    }

    /// Deletes a table with everything in it.
    pub fn delete(&mut self, family: Family, table: &str) -> Outcome {
        let mut transaction = Transaction::new();
        transaction.delete_table(family, table);
        self.commit(transaction)
    }

    fn commit(&mut self, transaction: Transaction) -> Outcome {
        match self.socket.transaction(&mut transaction.finish()) {
            Commit::Done => Outcome::Done,
            Commit::Unknown => Outcome::Unknown,
            Commit::Refused { first: (_, refusal), .. } => Outcome::Refused(refusal),
        }
    }

    /// The chains of all tables of a family.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn chains(&mut self, family: Family) -> io::Result<Vec<FoundChain>> {
        let dump = self.socket.dump(
            wire::GET_CHAIN,
            |body| nfnetlink::header(body, family),
            |message| Ok(nfnetlink::is_of_family(&message, family).then(|| found(message)).flatten()),
        )?;
        Ok(dump.items)
    }

    /// The chains and rules of a table; none if the table does not exist.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn contents(&mut self, family: Family, table: &str) -> io::Result<Contents> {
        // The generation comes first: a change while the rest is read makes the removal fail, so a mixture of old and
        // new does no harm.
        let generation = self.socket.get(
            wire::GET_GENERATION,
            |body| nfnetlink::header(body, family),
            |message| Ok(nfnetlink::attributes(&message).get(wire::GENERATION).and_then(Attribute::be32)),
        )?;
        let generation = generation.ok_or_else(|| malformed("the generation of nftables"))?;
        let mut chains = self.chains(family)?;
        chains.retain(|chain| chain.table == table);
        let dump = self.socket.dump(
            wire::GET_RULE,
            |body| {
                nfnetlink::header(body, family);
                body.text(wire::rule::TABLE, table);
            },
            |message| {
                let is_of_table =
                    nfnetlink::attributes(&message).get(wire::rule::TABLE).and_then(Attribute::text)
                        == Some(table);
                // Not every kernel filters the dump.
                if !is_of_table || !nfnetlink::is_of_family(&message, family) {
                    return Ok(None);
                }
                found_rule(message).map(Some).ok_or_else(|| malformed("a rule"))
            },
        )?;
        Ok(Contents { generation, chains, rules: dump.items })
    }

    /// Removes rules, and chains with everything in them, in one transaction: nothing is removed if anything was
    /// changed since `contents` was read, or if anything else refers to one of the chains.
    pub fn remove(
        &mut self,
        family: Family,
        table: &str,
        contents: &Contents,
        rules: &[&FoundRule],
        chains: &[String],
    ) -> Outcome {
        let mut transaction = Transaction::since(contents.generation);
        for rule in rules {
            transaction.delete_rule(family, table, &rule.chain, rule.handle);
        }
        // The chains refer to each other, so all are emptied first.
        for chain in chains {
            transaction.empty_chain(family, table, chain);
        }
        for chain in chains {
            transaction.delete_chain(family, table, chain);
        }
        self.commit(transaction)
    }

    /// Removes chains with everything in them, provided that nothing outside these chains refers to them: otherwise
    /// they still exist afterwards, but empty. What others change meanwhile is neither noticed nor undone.
    pub fn remove_chains(&mut self, family: Family, table: &str, chains: &[String]) -> Outcome {
        // In pieces, since each transaction blocks others for as long as it takes. The chains refer to each other, so
        // all are emptied first.
        for change in [Transaction::empty_chain, Transaction::delete_chain] {
            for piece in chains.chunks(PIECE) {
                let mut transaction = Transaction::new();
                for chain in piece {
                    change(&mut transaction, family, table, chain);
                }
                match self.commit(transaction) {
                    Outcome::Done => {}
                    other => return other,
                }
            }
        }
        Outcome::Done
    }

    /// A chain; `None`: it does not exist.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn chain(&mut self, family: Family, table: &str, chain: &str) -> io::Result<Option<FoundChain>> {
        existing(self.socket.get(
            wire::GET_CHAIN,
            |body| {
                nfnetlink::header(body, family);
                body.text(wire::chain::TABLE, table);
                body.text(wire::chain::NAME, chain);
            },
            |message| Ok(found(message)),
        ))
    }

    /// The handles of the rules of a chain, in order; none if the chain does not exist. A rule that is made anew gets
    /// another handle.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn handles(&mut self, family: Family, table: &str, chain: &str) -> io::Result<Vec<u64>> {
        let dump = self.socket.dump(
            wire::GET_RULE,
            |body| {
                nfnetlink::header(body, family);
                body.text(wire::rule::TABLE, table);
                body.text(wire::rule::CHAIN, chain);
            },
            |message| {
                let attributes = nfnetlink::attributes(&message);
                let is_of = |kind, name| attributes.get(kind).and_then(Attribute::text) == Some(name);
                // Not every kernel filters the dump.
                if !is_of(wire::rule::TABLE, table)
                    || !is_of(wire::rule::CHAIN, chain)
                    || !nfnetlink::is_of_family(&message, family)
                {
                    return Ok(None);
                }
                let handle = attributes.get(wire::rule::HANDLE).and_then(Attribute::be64);
                handle.map(Some).ok_or_else(|| malformed("a rule"))
            },
        )?;
        Ok(dump.items)
    }
}

fn found(message: Message<'_>) -> Option<FoundChain> {
    let attributes: Attributes<'_> = nfnetlink::attributes(&message);
    let text = |kind| attributes.get(kind).and_then(Attribute::text).map(str::to_owned);
    Some(FoundChain {
        table: text(wire::chain::TABLE)?,
        name: text(wire::chain::NAME)?,
        is_base: attributes.get(wire::chain::HOOK).is_some(),
        drops: attributes.get(wire::chain::POLICY).and_then(Attribute::be32) == Some(wire::verdict::DROP),
    })
}

fn found_rule(message: Message<'_>) -> Option<FoundRule> {
    let attributes = nfnetlink::attributes(&message);
    let expressions = attributes.get(wire::rule::EXPRESSIONS).map(Attribute::nested);
    Some(FoundRule {
        chain: attributes.get(wire::rule::CHAIN).and_then(Attribute::text)?.to_owned(),
        handle: attributes.get(wire::rule::HANDLE).and_then(Attribute::be64)?,
        steps: expressions.into_iter().flatten().map(found_step).collect::<Option<_>>()?,
    })
}

fn found_step(expression: Attribute<'_>) -> Option<FoundStep> {
    let expression = expression.nested();
    let name = expression.get(wire::expression::NAME).and_then(Attribute::text)?;
    let data = expression.get(wire::expression::DATA).map(Attribute::nested);
    let text = |kind| data.as_ref()?.get(kind)?.text().map(str::to_owned);
    let known = match name {
        "counter" => Some(FoundStep::Counter),
        "immediate" => data.as_ref().and_then(found_verdict),
        "match" => {
            let info = data.as_ref().and_then(|data| data.get(wire::extension::INFO));
            let revision = data.as_ref().and_then(|data| data.get(wire::extension::REVISION)?.be32());
            text(wire::extension::NAME).zip(info).map(|(name, info)| FoundStep::Match {
                name,
                revision: revision.unwrap_or(0),
                info: info.value.to_vec(),
            })
        }
        "target" => text(wire::extension::NAME).map(FoundStep::Target),
        _ => None,
    };
    Some(known.unwrap_or_else(|| FoundStep::Other(name.to_owned())))
}

/// The step for a verdict; `None`: a value for a register, or a verdict that no rule of iptables has.
fn found_verdict(data: &Attributes<'_>) -> Option<FoundStep> {
    let verdict = data.get(wire::verdict::DATA)?.nested().get(wire::verdict::VERDICT)?.nested();
    let chain = || verdict.get(wire::verdict::CHAIN).and_then(Attribute::text).map(str::to_owned);
    match verdict.get(wire::verdict::CODE).and_then(Attribute::be32)? {
        wire::verdict::ACCEPT => Some(FoundStep::Accept),
        wire::verdict::DROP => Some(FoundStep::Drop),
        wire::verdict::RETURN => Some(FoundStep::Return),
        wire::verdict::JUMP => chain().map(FoundStep::Jump),
        wire::verdict::GO_TO => chain().map(FoundStep::GoTo),
        _ => None,
    }
}
