//! Reads a table back: is it as we would make it, and what do its sets hold?
//!
//! Chains and sets are asked for by name, rules by table: the cost of a dump of all chains would grow with those of
//! others (an iptables-nft host has thousands). That the table holds nothing *else* follows from the number of its
//! objects, which the kernel reports.

use std::collections::BTreeSet;
use std::io;

use rustix::io::Errno;

use super::rules::{Chain, Ruleset, TABLE, Variant, settings_of};
use super::sets::{self, Encoded, Set};
use super::wire;
use crate::cluster::types::Family;
use crate::kernel::netlink::{Attribute, Attributes, Body, Dump, Message, Socket, malformed, settled};
use crate::kernel::nfnetlink;
use crate::state::{Element, RuleSettings, Rules};

/// How often reading is attempted if the table is replaced meanwhile.
const ATTEMPTS: usize = 5;

/// What the kernel says about the table itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FoundTable {
    /// Never reused.
    handle: u64,
    flags: u32,
    /// How many chains, sets and other objects it holds.
    objects: u32,
}

/// What the kernel says about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FoundRule {
    chain: String,
    user_data: Vec<u8>,
    /// The attributes in `NFTA_RULE_EXPRESSIONS`.
    expressions: Vec<u8>,
}

/// Why a table yields no settings.
#[derive(Debug)]
enum Unfit {
    /// The table is not as we make it.
    Other(String),
    /// It could not be read.
    Unreadable(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// [`Unfit::Other`] with this reason, unless the condition holds.
fn ensure(condition: bool, why: impl FnOnce() -> String) -> Result<(), Unfit> {
    if condition { Ok(()) } else { Err(Unfit::Other(why())) }
}

/// See [`super::Tables::read`].
pub(super) fn table(socket: &mut Socket, family: Family) -> io::Result<(Option<Rules>, BTreeSet<Element>)> {
    for _ in 0..ATTEMPTS {
        let Some(before) = read_table(socket, family)? else { return Ok((None, BTreeSet::new())) };
        let contents = read_contents(socket, family, before);
        // Rules and sets belong together only if both come from the same table.
        if read_table(socket, family)?.is_some_and(|after| after.handle == before.handle) {
            let (rules, elements) = contents?;
            return Ok((Some(rules), elements));
        }
    }
    Err(io::Error::other(format!("table {TABLE} was replaced while it was read, {ATTEMPTS} times in a row")))
}

/// See [`super::Tables::has_rules`].
pub(super) fn has_rules(socket: &mut Socket, family: Family) -> io::Result<bool> {
    let Some(table) = read_table(socket, family)? else { return Ok(false) };
    match inspect(socket, family, table) {
        Ok(_) => Ok(true),
        Err(Unfit::Other(_)) => Ok(false),
        Err(Unfit::Unreadable(error)) => Err(error),
    }
}

/// See [`super::Tables::handle`].
pub(super) fn handle(socket: &mut Socket, family: Family) -> io::Result<Option<u64>> {
    Ok(read_table(socket, family)?.map(|table| table.handle))
}

fn read_contents(
    socket: &mut Socket,
    family: Family,
    table: FoundTable,
) -> io::Result<(Rules, BTreeSet<Element>)> {
    let mut elements = BTreeSet::new();
    let mut strange = None;
    for set in sets::of(family) {
        for encoded in read_elements(socket, family, set.name)? {
            if let Some(element) = sets::decode(family, &set, &encoded) {
                elements.insert(element);
            } else {
                let name = set.name;
                let key = if encoded.key.is_empty() { "*" } else { &format!("{:02x?}", encoded.key) };
                strange = Some(format!("set {name} holds an element that kube-ipvs never adds: {key}"));
            }
        }
    }
    let rules = match (strange, inspect(socket, family, table)) {
        (_, Err(Unfit::Unreadable(error))) => return Err(error),
        (Some(why), _) | (None, Err(Unfit::Other(why))) => Rules::Other(why),
        (None, Ok(settings)) => Rules::Intact(settings),
    };
    Ok((rules, elements))
}

/// The settings that the table was made from, if all of it is as we make it.
fn inspect(socket: &mut Socket, family: Family, table: FoundTable) -> Result<RuleSettings, Unfit> {
    let found = read_rules(socket, family)?;
    let settings = found.iter().rev().find_map(|rule| settings_of(wire::comment_of(&rule.user_data)?));
    let settings = settings.ok_or_else(|| {
        Unfit::Other("no rule has the comment in which kube-ipvs records its settings".to_owned())
    })?;
    let ruleset = Ruleset::new(family, &settings, Variant::ALL[0]);
    ensure(table.flags == 0, || format!("the table has flags {:#x}", table.flags))?;
    for set in &ruleset.sets {
        inspect_set(socket, family, set)?;
    }
    for chain in &ruleset.chains {
        inspect_chain(socket, family, chain)?;
    }
    let objects = ruleset.sets.len() + ruleset.chains.len();
    ensure(usize::try_from(table.objects) == Ok(objects), || {
        format!("the table holds {} chains, sets and other objects instead of {objects}", table.objects)
    })?;
    let mut why = None;
    for variant in Variant::ALL {
        match difference(&Ruleset::new(family, &settings, variant).chains, &found) {
            None => return Ok(settings),
            Some(difference) => why = why.or(Some(difference)),
        }
    }
    Err(Unfit::Other(why.unwrap_or_default()))
}

/// The first difference between the rules that should be in the chains and those that are there.
fn difference(chains: &[Chain], found: &[FoundRule]) -> Option<String> {
    chains.iter().find_map(|chain| {
        let found: Vec<_> = found.iter().filter(|rule| rule.chain == chain.name).collect();
        let same = |(wanted, found): (&super::rules::Rule, &&FoundRule)| {
            let mut expressions = Attributes::new(&found.expressions);
            wire::comment_of(&found.user_data) == Some(&wanted.comment)
                && wanted.expressions.iter().all(|e| expressions.next().is_some_and(|item| e.is(&item)))
                && expressions.next().is_none()
        };
        let equal = chain.rules.iter().zip(&found).take_while(|pair| same(*pair)).count();
        (equal < chain.rules.len().max(found.len())).then(|| {
            format!(
                "chain {}: rule {} is different ({} rules instead of {})",
                chain.name,
                equal + 1,
                found.len(),
                chain.rules.len()
            )
        })
    })
}

/// Turns the error for an object that does not exist into `None`.
pub(super) fn existing<T>(answer: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(None),
        answer => answer,
    }
}

/// Writes the body of a request about an object of this family and these names.
fn named<const N: usize>(family: Family, names: [(u16, &str); N]) -> impl Fn(&mut Body<'_>) {
    move |body| {
        nfnetlink::header(body, family);
        for (kind, name) in names {
            body.text(kind, name);
        }
    }
}

fn read_table(socket: &mut Socket, family: Family) -> io::Result<Option<FoundTable>> {
    let body = named(family, [(wire::table::NAME, TABLE)]);
    existing(socket.get(wire::GET_TABLE, body, |message| {
        let attributes = nfnetlink::attributes(&message);
        let number = |kind| attributes.get(kind).and_then(Attribute::be32);
        let found = (
            attributes.get(wire::table::HANDLE).and_then(Attribute::be64),
            number(wire::table::FLAGS),
            number(wire::table::USE),
        );
        let (Some(handle), Some(flags), Some(objects)) = found else { return Err(malformed("a table")) };
        Ok(Some(FoundTable { handle, flags, objects }))
    }))
}

fn inspect_set(socket: &mut Socket, family: Family, wanted: &Set) -> Result<(), Unfit> {
    let body = named(family, [(wire::set::TABLE, TABLE), (wire::set::NAME, wanted.name)]);
    let found = existing(socket.get(wire::GET_SET, body, |message| {
        let attributes = nfnetlink::attributes(&message);
        let number = |kind| attributes.get(kind).and_then(Attribute::be32);
        let description = attributes.get(wire::set::DESCRIPTION).map(Attribute::nested);
        let most = description.and_then(|attributes| attributes.get(wire::set::SIZE)?.be32());
        // The kernel omits what is zero. The type, which only nft interprets, is not checked.
        let flags = number(wire::set::FLAGS).unwrap_or(0);
        let lengths = (number(wire::set::KEY_LENGTH), number(wire::set::VALUE_LENGTH));
        Ok(Some((flags, most.unwrap_or(0), lengths)))
    }))?;
    let name = wanted.name;
    ensure(found.is_some(), || format!("set {name} is missing"))?;
    let lengths = (Some(wanted.key.length(family)), wanted.value.map(|value| value.length(family)));
    ensure(found == Some((wire::flags_of(wanted), 0, lengths)), || format!("set {name} is of another kind"))
}

fn inspect_chain(socket: &mut Socket, family: Family, wanted: &Chain) -> Result<(), Unfit> {
    let body = named(family, [(wire::chain::TABLE, TABLE), (wire::chain::NAME, wanted.name)]);
    let found = existing(socket.get(wire::GET_CHAIN, body, |message| {
        let attributes = nfnetlink::attributes(&message);
        let text = |kind| attributes.get(kind).and_then(Attribute::text).map(str::to_owned);
        let hook = attributes.get(wire::chain::HOOK).map(Attribute::nested);
        let in_hook = |kind| hook.as_ref()?.get(kind)?.be32();
        Ok(Some((
            text(wire::chain::TYPE),
            in_hook(wire::chain::HOOK_NUMBER),
            in_hook(wire::chain::HOOK_PRIORITY).map(u32::cast_signed),
            attributes.get(wire::chain::POLICY).and_then(Attribute::be32),
        )))
    }))?;
    let name = wanted.name;
    ensure(found.is_some(), || format!("chain {name} is missing"))?;
    let kind = Some(wanted.kind.to_owned());
    let wanted = (kind, Some(wanted.hook), Some(wanted.priority), Some(wire::verdict::ACCEPT));
    ensure(found == Some(wanted), || format!("chain {name} has another type, hook, priority or policy"))
}

/// The rules of all chains of the table; those of one chain in order.
fn read_rules(socket: &mut Socket, family: Family) -> io::Result<Vec<FoundRule>> {
    let dump = socket.dump(wire::GET_RULE, named(family, [(wire::rule::TABLE, TABLE)]), |message| {
        let attributes = nfnetlink::attributes(&message);
        let table = attributes.get(wire::rule::TABLE).and_then(Attribute::text);
        if !nfnetlink::is_of_family(&message, family) || table != Some(TABLE) {
            // Some kernels do not filter the dump.
            return Ok(None);
        }
        let bytes = |kind| attributes.get(kind).map(|attribute| attribute.value.to_vec()).unwrap_or_default();
        Ok(Some(FoundRule {
            // It may be somebody else's chain, of any name: then the table is not as we make it.
            chain: attributes
                .get(wire::rule::CHAIN)
                .map(Attribute::name)
                .ok_or_else(|| malformed("a rule"))?
                .into_owned(),
            user_data: bytes(wire::rule::USER_DATA),
            expressions: bytes(wire::rule::EXPRESSIONS),
        }))
    })?;
    Ok(dump.items)
}

/// All elements of a set; none if the set does not exist.
fn read_elements(socket: &mut Socket, family: Family, set: &str) -> io::Result<Vec<Encoded>> {
    let names = [(wire::elements::TABLE, TABLE), (wire::elements::SET, set)];
    let dump = || {
        let decode = |message: Message<'_>| Ok(Some(elements_of(message)));
        socket.dump(wire::GET_ELEMENTS, named(family, names), decode).map(joined)
    };
    // The kernel enlarges a set's hash table a little after elements were added, and does not mark a dump during which
    // it did so: of 20,000 elements 18,000 were seen. A set that is not empty is read twice, however small it is, since
    // its last datagram brings an empty list. That costs little; and since the kernel's mark counts a transaction
    // before it is carried out, a single dump could contain half of one.
    Ok(existing(settled(dump, PartialEq::eq).map(Some))?.unwrap_or_default())
}

/// Joins the elements, wherever the kernel cut their list: its datagrams are shorter when it finds no contiguous pages
/// for longer ones, and the same set then takes another number of messages.
pub(super) fn joined<T>(dump: Dump<Vec<T>>) -> Dump<T> {
    Dump { items: dump.items.into_iter().flatten().collect(), datagrams: dump.datagrams }
}

/// The elements in a message about elements.
pub(super) fn elements_of(message: Message<'_>) -> Vec<Encoded> {
    let list = nfnetlink::attributes(&message).get(wire::elements::LIST);
    let found = list.into_iter().flat_map(Attribute::nested).map(|element| {
        let element = element.nested();
        let data = |kind| Some(element.get(kind)?.nested().get(wire::elements::VALUE)?.value.to_vec());
        Encoded {
            // The element that stands for all keys not in the set has no key.
            key: data(wire::elements::KEY).unwrap_or_default(),
            key_end: data(wire::elements::KEY_END),
            value: data(wire::elements::MAPPED),
        }
    });
    found.collect()
}
