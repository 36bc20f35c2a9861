//! Whole tables, ours or not: whether they are there, what chains they have, and away with them.

use std::io;

use super::read::existing;
use super::rules::TABLE;
use super::wire::{self, FIXED_LENGTH, Transaction};
use crate::cluster::types::Family;
use crate::kernel::netlink::{Attribute, Attributes, Commit, Message, Protocol, Socket};
use crate::kernel::{Outcome, Refusal};

/// The name of our own tables, one of each family.
pub const OUR_TABLE: &str = TABLE;

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
    /// Whether it drops what reaches its end, by its policy.
    pub drops: bool,
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
                wire::fixed_part(body, family);
                body.text(wire::table::NAME, table);
            },
            |_| Ok(Some(())),
        );
        existing(answer).map(|found| found.is_some())
    }

    /// Deletes a table with all that is in it.
    pub fn delete(&mut self, family: Family, table: &str) -> Outcome {
        let mut transaction = Transaction::new();
        transaction.delete_table(family, table);
        match self.socket.transaction(&mut transaction.finish()) {
            Commit::Done => Outcome::Done,
            Commit::Unknown => Outcome::Unknown,
            Commit::Refused(refusals) => Outcome::Refused(refusals.into_iter().next().map_or_else(
                || Refusal::of(&io::Error::other("refused without a reason")),
                |(_, refusal)| refusal,
            )),
        }
    }

    /// The chains of all tables of a family.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn chains(&mut self, family: Family) -> io::Result<Vec<FoundChain>> {
        let dump = self.socket.dump(
            wire::GET_CHAIN,
            |body| wire::fixed_part(body, family),
            |message| Ok(wire::is_of_family(message.payload, family).then(|| found(message)).flatten()),
        )?;
        Ok(dump.items)
    }

    /// A chain; `None`: it does not exist.
    ///
    /// # Errors
    /// Those of the kernel or of the socket.
    pub fn chain(&mut self, family: Family, table: &str, chain: &str) -> io::Result<Option<FoundChain>> {
        existing(self.socket.get(
            wire::GET_CHAIN,
            |body| {
                wire::fixed_part(body, family);
                body.text(wire::chain::TABLE, table);
                body.text(wire::chain::NAME, chain);
            },
            |message| Ok(found(message)),
        ))
    }
}

fn found(message: Message<'_>) -> Option<FoundChain> {
    /// `NF_DROP`.
    const POLICY_DROP: u32 = 0;
    let attributes: Attributes<'_> = message.attributes(FIXED_LENGTH);
    let text = |kind| attributes.get(kind).and_then(Attribute::text).map(str::to_owned);
    Some(FoundChain {
        table: text(wire::chain::TABLE)?,
        name: text(wire::chain::NAME)?,
        drops: attributes.get(wire::chain::POLICY).and_then(Attribute::be32) == Some(POLICY_DROP),
    })
}
