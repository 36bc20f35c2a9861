//! The format of `nf_tables` messages (`linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`).
//!
//! Requests are written here; answers are read in [`super::read`] with the same numbers. A rule is a list of
//! [`Expression`]s, each a tree of [`Field`]s: the same tree is written into a request and compared with what the
//! kernel dumps.

use std::collections::BTreeMap;

use super::rules::{Chain, Rule, Ruleset, TABLE};
use super::sets::{Encoded, Part, Parts, Set, encode};
use crate::cluster::types::Family;
use crate::kernel::netlink::{APPEND, Attribute, Attributes, Body, CREATE, EXCLUSIVE, Frames};
use crate::kernel::nfnetlink::{header, kind};
use crate::state::Element;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 0x11;
/// `NFT_MSG_NEWTABLE`.
pub(super) const NEW_TABLE: u16 = kind(SUBSYSTEM, 0);
/// `NFT_MSG_GETTABLE`.
pub(super) const GET_TABLE: u16 = kind(SUBSYSTEM, 1);
/// `NFT_MSG_DELTABLE`.
const DELETE_TABLE: u16 = kind(SUBSYSTEM, 2);
/// `NFT_MSG_NEWCHAIN`.
pub(super) const NEW_CHAIN: u16 = kind(SUBSYSTEM, 3);
/// `NFT_MSG_GETCHAIN`.
pub(super) const GET_CHAIN: u16 = kind(SUBSYSTEM, 4);
/// `NFT_MSG_DELCHAIN`.
const DELETE_CHAIN: u16 = kind(SUBSYSTEM, 5);
/// `NFT_MSG_NEWRULE`.
pub(super) const NEW_RULE: u16 = kind(SUBSYSTEM, 6);
/// `NFT_MSG_GETRULE`.
pub(super) const GET_RULE: u16 = kind(SUBSYSTEM, 7);
/// `NFT_MSG_DELRULE`.
const DELETE_RULE: u16 = kind(SUBSYSTEM, 8);
/// `NFT_MSG_NEWSET`.
pub(super) const NEW_SET: u16 = kind(SUBSYSTEM, 9);
/// `NFT_MSG_GETSET`.
pub(super) const GET_SET: u16 = kind(SUBSYSTEM, 0xa);
/// `NFT_MSG_NEWSETELEM`.
pub(super) const NEW_ELEMENTS: u16 = kind(SUBSYSTEM, 0xc);
/// `NFT_MSG_GETSETELEM`.
pub(super) const GET_ELEMENTS: u16 = kind(SUBSYSTEM, 0xd);
/// `NFT_MSG_DELSETELEM`.
const DELETE_ELEMENTS: u16 = kind(SUBSYSTEM, 0xe);
/// `NFT_MSG_GETGEN`.
pub(super) const GET_GENERATION: u16 = kind(SUBSYSTEM, 0x10);

/// `NFTA_GEN_ID`.
pub(super) const GENERATION: u16 = 1;
/// `NFNL_BATCH_GENID`.
const BATCH_GENERATION: u16 = 1;
/// `NFTA_LIST_ELEM`: an item of any list.
const LIST_ITEM: u16 = 1;

/// `NFTA_TABLE_*`.
pub(super) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USE: u16 = 3;
    pub(crate) const HANDLE: u16 = 4;
    pub(crate) const USER_DATA: u16 = 6;
}

/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
pub(super) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
}

/// `NFTA_RULE_*`.
pub(super) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USER_DATA: u16 = 7;
}

/// `NFTA_EXPR_*`.
pub(super) mod expression {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DATA: u16 = 2;
}

/// `NFTA_IMMEDIATE_*`, `NFTA_DATA_*`, `NFTA_VERDICT_*`, and the verdicts, of which the first two also serve as policies
/// of chains.
pub(super) mod verdict {
    pub(crate) const REGISTER: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const CODE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    /// `NF_DROP`.
    pub(crate) const DROP: u32 = 0;
    /// `NF_ACCEPT`.
    pub(crate) const ACCEPT: u32 = 1;
    /// `NFT_JUMP`.
    pub(crate) const JUMP: u32 = (-3_i32).cast_unsigned();
    /// `NFT_GOTO`.
    pub(crate) const GO_TO: u32 = (-4_i32).cast_unsigned();
    /// `NFT_RETURN`.
    pub(crate) const RETURN: u32 = (-5_i32).cast_unsigned();
}

/// `NFTA_MATCH_*`, `NFTA_TARGET_*`: matches and targets of iptables, which iptables-nft uses as they are.
pub(super) mod extension {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const REVISION: u16 = 2;
    pub(crate) const INFO: u16 = 3;
}

/// `NFTA_SET_*`, `NFTA_SET_DESC_*`, `NFTA_SET_FIELD_LEN`.
pub(super) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const VALUE_TYPE: u16 = 6;
    pub(crate) const VALUE_LENGTH: u16 = 7;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const SIZE: u16 = 1;
    pub(crate) const FIELDS: u16 = 2;
    pub(crate) const FIELD_LENGTH: u16 = 1;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USER_DATA: u16 = 13;
}

/// `NFT_SET_*`: what a set is, other than a plain set of keys.
pub(super) mod set_flags {
    pub(crate) const INTERVAL: u32 = 4;
    pub(crate) const MAP: u32 = 8;
    pub(crate) const CONCATENATION: u32 = 0x80;
}

/// `NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_*`, `NFTA_DATA_*`.
pub(super) mod elements {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const LIST: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const MAPPED: u16 = 2;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const VALUE: u16 = 1;
}

/// `NFTNL_UDATA_*`: what `nft` keeps in user data, and prints. Each entry starts with its type and its length, one byte
/// each.
mod user_data {
    pub(super) const COMMENT: u8 = 0;
    pub(super) const SET_KEY_BYTE_ORDER: u8 = 0;
    pub(super) const SET_VALUE_BYTE_ORDER: u8 = 1;
    pub(super) const SET_COMMENT: u8 = 7;
    /// The host's byte order: text.
    pub(super) const HOST: u32 = 1;
    /// Network byte order: addresses. Without this, `nft` prints them reversed.
    pub(super) const BIG_ENDIAN: u32 = 2;
    /// None: a concatenation, whose parts have their own.
    pub(super) const NO_BYTE_ORDER: u32 = 0;
}

/// One instruction of a rule for the kernel's small virtual machine: its name and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) name: &'static str,
    pub(super) fields: Vec<Field>,
}

/// An attribute of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    kind: u16,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Fields(Vec<Field>),
}

impl Field {
    pub(super) fn bytes(kind: u16, bytes: &[u8]) -> Self {
        Self { kind, value: Value::Bytes(bytes.to_vec()) }
    }

    /// A number; `nf_tables` expects all numbers in network byte order.
    pub(super) fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn text(kind: u16, text: &str) -> Self {
        Self::bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub(super) fn nest(kind: u16, fields: Vec<Field>) -> Self {
        Self { kind, value: Value::Fields(fields) }
    }

    fn write(&self, body: &mut Body<'_>) {
        match &self.value {
            Value::Bytes(bytes) => body.attribute(self.kind, bytes),
            Value::Fields(fields) => body.nest(self.kind, |body| fields.iter().for_each(|f| f.write(body))),
        }
    }
}

impl Expression {
    /// Whether an item of a dumped list of expressions equals this expression.
    pub(super) fn is(&self, item: &Attribute<'_>) -> bool {
        let item = item.nested();
        let none = Attributes::new(&[]);
        item.get(expression::NAME).and_then(Attribute::text) == Some(self.name)
            && same(&item.get(expression::DATA).map_or(none, Attribute::nested), &self.fields)
    }
}

/// Whether the attributes express the same as the fields, in any order. Kernels differ in which defaults they spell
/// out, so attributes that are not among the fields are accepted if they are zero.
fn same(attributes: &Attributes<'_>, fields: &[Field]) -> bool {
    fields.iter().all(|field| attributes.get(field.kind).is_some())
        && attributes.clone().all(|attribute| {
            match fields.iter().find(|field| field.kind == attribute.kind).map(|field| &field.value) {
                Some(Value::Bytes(bytes)) => attribute.value == bytes.as_slice(),
                Some(Value::Fields(fields)) => same(&attribute.nested(), fields),
                None => attribute.value.iter().all(|byte| *byte == 0),
            }
        })
}

/// The user data that holds the comment of a table or rule, as `nft` writes it.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut data = Vec::new();
    user_data_entry(&mut data, user_data::COMMENT, &[text.as_bytes(), &[0]].concat());
    data
}

/// The comment in the user data of a table or rule.
pub(super) fn comment_of(mut user_data: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == user_data::COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0])?).ok();
        }
        user_data = rest;
    }
    None
}

fn user_data_entry(data: &mut Vec<u8>, kind: u8, value: &[u8]) {
    data.push(kind);
    data.push(u8::try_from(value.len()).expect("comments are our own, and shorter than nft's limit of 128"));
    data.extend_from_slice(value);
}

/// A transaction being written: `nf_tables` carries out all of it, or nothing.
#[derive(Debug)]
pub(super) struct Transaction {
    frames: Frames,
    /// The table that messages are about unless they name another one.
    table: &'static str,
}

impl Transaction {
    pub(super) fn new() -> Self {
        let mut frames = Frames::new();
        frames.push(BATCH_BEGIN, 0, enclosing);
        Self { frames, table: TABLE }
    }

    /// A transaction about another table than ours.
    pub(super) fn about(table: &'static str) -> Self {
        Self { table, ..Self::new() }
    }

    /// A transaction that is refused as a whole (`ERESTART`) if anything of nftables has changed since this generation.
    pub(super) fn since(generation: u32) -> Self {
        let mut frames = Frames::new();
        frames.push(BATCH_BEGIN, 0, |body| {
            enclosing(body);
            body.be32(BATCH_GENERATION, generation);
        });
        Self { frames, table: TABLE }
    }

    /// The messages to be sent. The first and the last one enclose the others.
    pub(super) fn finish(mut self) -> Frames {
        self.frames.push(BATCH_END, 0, enclosing);
        self.frames
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, body: impl FnOnce(&mut Body<'_>)) {
        self.frames.push(kind, flags, |message| {
            header(message, family);
            body(message);
        });
    }

    /// Makes the family's table anew, empty. As deleting a missing table fails, the table is first created if need be.
    pub(super) fn replace_table(&mut self, family: Family, note: &str) {
        let table = self.table;
        let name = |body: &mut Body<'_>| body.text(table::NAME, table);
        self.push(NEW_TABLE, CREATE, family, name);
        self.push(DELETE_TABLE, 0, family, name);
        self.push(NEW_TABLE, CREATE | EXCLUSIVE, family, |body| {
            name(body);
            // No flags: with NFT_TABLE_F_OWNER the table would vanish with our socket.
            body.attribute(table::USER_DATA, &comment(note));
        });
    }

    /// Deletes a table, which must exist, with everything in it.
    pub(super) fn delete_table(&mut self, family: Family, name: &str) {
        self.push(DELETE_TABLE, 0, family, |body| body.text(table::NAME, name));
    }

    /// Deletes a rule of any table.
    pub(super) fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        self.push(DELETE_RULE, 0, family, |body| {
            body.text(rule::TABLE, table);
            body.text(rule::CHAIN, chain);
            body.be64(rule::HANDLE, handle);
        });
    }

    /// Deletes all rules of a chain of any table.
    pub(super) fn empty_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.push(DELETE_RULE, 0, family, |body| {
            body.text(rule::TABLE, table);
            body.text(rule::CHAIN, chain);
        });
    }

    /// Deletes a chain of any table. It must be empty, and nothing may refer to it.
    pub(super) fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.push(DELETE_CHAIN, 0, family, |body| {
            body.text(chain::TABLE, table);
            body.text(chain::NAME, chain);
        });
    }

    /// Puts sets, chains and rules into a new table.
    pub(super) fn add_ruleset(&mut self, family: Family, ruleset: &Ruleset) {
        for (id, set) in (1..).zip(&ruleset.sets) {
            self.add_set(family, id, set);
        }
        for chain in &ruleset.chains {
            self.add_chain(family, chain);
            for rule in &chain.rules {
                self.add_rule(family, chain.name, rule);
            }
        }
    }

    fn add_set(&mut self, family: Family, id: u32, set: &Set) {
        let byte_order = |parts: Parts| match parts.0 {
            [Part::Interface] => user_data::HOST,
            [_] => user_data::BIG_ENDIAN,
            _ => user_data::NO_BYTE_ORDER,
        };
        let mut data = Vec::new();
        user_data_entry(&mut data, user_data::SET_KEY_BYTE_ORDER, &byte_order(set.key).to_ne_bytes());
        if let Some(value) = set.value {
            user_data_entry(&mut data, user_data::SET_VALUE_BYTE_ORDER, &byte_order(value).to_ne_bytes());
        }
        user_data_entry(&mut data, user_data::SET_COMMENT, &[set.comment.as_bytes(), &[0]].concat());
        let table = self.table;
        self.push(NEW_SET, CREATE | EXCLUSIVE, family, |body| {
            body.text(set::TABLE, table);
            body.text(set::NAME, set.name);
            body.be32(set::FLAGS, flags_of(set));
            body.be32(set::KEY_TYPE, set.key.nft_type(family));
            body.be32(set::KEY_LENGTH, set.key.length(family));
            if let Some(value) = set.value {
                body.be32(set::VALUE_TYPE, value.nft_type(family));
                body.be32(set::VALUE_LENGTH, value.length(family));
            }
            body.be32(set::ID, id);
            if set.interval {
                body.nest(set::DESCRIPTION, |body| {
                    body.nest(set::FIELDS, |body| {
                        for length in set.key.0.iter().flat_map(|part| part.range_fields(family)) {
                            body.nest(LIST_ITEM, |body| body.be32(set::FIELD_LENGTH, length));
                        }
                    });
                });
            }
            body.attribute(set::USER_DATA, &data);
        });
    }

    fn add_chain(&mut self, family: Family, chain: &Chain) {
        let table = self.table;
        self.push(NEW_CHAIN, CREATE | EXCLUSIVE, family, |body| {
            body.text(chain::TABLE, table);
            body.text(chain::NAME, chain.name);
            body.text(chain::TYPE, chain.kind);
            body.be32(chain::POLICY, verdict::ACCEPT);
            body.nest(chain::HOOK, |body| {
                body.be32(chain::HOOK_NUMBER, chain.hook);
                body.attribute(chain::HOOK_PRIORITY, &chain.priority.to_be_bytes());
            });
        });
    }

    fn add_rule(&mut self, family: Family, chain: &str, rule: &Rule) {
        let table = self.table;
        self.push(NEW_RULE, CREATE | APPEND, family, |body| {
            body.text(rule::TABLE, table);
            body.text(rule::CHAIN, chain);
            body.nest(rule::EXPRESSIONS, |body| {
                for expression in &rule.expressions {
                    body.nest(LIST_ITEM, |body| {
                        body.text(expression::NAME, expression.name);
                        body.nest(expression::DATA, |body| {
                            expression.fields.iter().for_each(|field| field.write(body));
                        });
                    });
                }
            });
            body.attribute(rule::USER_DATA, &comment(&rule.comment));
        });
    }

    /// Puts elements into the sets of a new table, as many per message as its list can hold: a thousand ranges of IPv6
    /// are too many. All must belong to the family.
    pub(super) fn fill(&mut self, family: Family, elements: &[Element]) {
        let mut by_set: BTreeMap<&str, Vec<Encoded>> = BTreeMap::new();
        for element in elements {
            let (set, encoded) = encode(*element);
            by_set.entry(set.name).or_default().push(encoded);
        }
        for (set, elements) in by_set {
            let mut rest = elements.as_slice();
            while !rest.is_empty() {
                let written = self.elements(NEW_ELEMENTS, CREATE, family, set, rest);
                rest = &rest[written..];
            }
        }
    }

    /// Puts one element into its set: `EEXIST` if the element exists.
    pub(super) fn add_element(&mut self, element: Element) {
        let (set, encoded) = encode(element);
        self.elements(NEW_ELEMENTS, CREATE | EXCLUSIVE, element.family(), set.name, &[encoded]);
    }

    /// Takes one element out of its set: `ENOENT` if the element does not exist.
    pub(super) fn delete_element(&mut self, element: Element) {
        let (set, encoded) = encode(element);
        self.elements(DELETE_ELEMENTS, 0, element.family(), set.name, &[encoded]);
    }

    /// Writes a message about elements of one set: the first of these, as many as it can hold. Returns how many.
    fn elements(&mut self, kind: u16, flags: u16, family: Family, set: &str, list: &[Encoded]) -> usize {
        let mut written = 0;
        let table = self.table;
        self.push(kind, flags, family, |body| {
            body.text(elements::TABLE, table);
            body.text(elements::SET, set);
            written = body.list(elements::LIST, list, |body, element| {
                body.nest(LIST_ITEM, |body| {
                    let mut data = |kind, bytes: &[u8]| {
                        body.nest(kind, |body| body.attribute(elements::VALUE, bytes));
                    };
                    data(elements::KEY, &element.key);
                    if let Some(last) = &element.key_end {
                        data(elements::KEY_END, last);
                    }
                    if let Some(value) = &element.value {
                        data(elements::MAPPED, value);
                    }
                });
            });
        });
        written
    }
}

/// The `NFTA_SET_FLAGS` of a set.
pub(super) fn flags_of(set: &Set) -> u32 {
    let interval = if set.interval { set_flags::INTERVAL | set_flags::CONCATENATION } else { 0 };
    interval | if set.value.is_some() { set_flags::MAP } else { 0 }
}

/// Writes the fixed part of the two messages that enclose a transaction: it names the subsystem.
fn enclosing(body: &mut Body<'_>) {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    body.fixed(&[0, 0, high, low]);
}
