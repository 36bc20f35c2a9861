//! What a dry run prints: first the numbers, then what is taken away, then the rest, each in a stable order.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::app::system::Change;
use crate::cluster::types::Family;
use crate::diff::Step;
use crate::leftovers::report::{Finding, Report};
use crate::reconcile::rehearse::Write;
use crate::state::{VirtualServerKey, Weight};

/// The first place of steps that take nothing away.
const MADE: u8 = 5;

/// All that a start would change.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    /// What the first sync would write.
    pub(super) writes: Vec<Write>,
    /// What would be set once, at the start.
    pub(super) parameters: Vec<Change>,
    /// How many stale entries of connection tracking would be deleted.
    pub(super) stale: BTreeMap<Family, usize>,
    /// What the takeover would do; "removed" stands for "would be removed".
    pub(super) leftovers: Report,
    /// The virtual servers that are not ours, and stay.
    pub(super) foreign: Vec<VirtualServerKey>,
}

impl Foreseen {
    /// Everything, as text for a person.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let (stays, takeover): (Vec<&Finding>, Vec<&Finding>) =
            self.leftovers.findings.iter().partition(|finding| matches!(finding, Finding::Kept { .. }));
        let stale: Vec<_> = self.stale.iter().filter(|(_, count)| **count > 0).collect();
        let nothing =
            self.writes.is_empty() && self.parameters.is_empty() && stale.is_empty() && takeover.is_empty();
        if nothing {
            writeln!(out, "Nothing would change.")?;
        }
        self.write_first_sync(out)?;
        if !self.parameters.is_empty() {
            writeln!(out, "Set once, at the start:")?;
            for Change { entry, before, after } in &self.parameters {
                writeln!(out, "  set {entry} = {after} (now {before})")?;
            }
        }
        if !stale.is_empty() {
            writeln!(out, "Deleted after the first sync:")?;
            for (family, count) in stale {
                writeln!(out, "  stale UDP entries of connection tracking, {family}: {count}")?;
            }
        }
        if !takeover.is_empty() {
            writeln!(out, "Taken over from kube-proxy, after the first sync:")?;
            takeover.iter().try_for_each(|finding| writeln!(out, "  {}", Foretold(finding)))?;
        }
        if !stays.is_empty() || !self.foreign.is_empty() {
            writeln!(out, "Stays as it is:")?;
            stays.iter().try_for_each(|finding| writeln!(out, "  {}", Foretold(finding)))?;
            for server in &self.foreign {
                writeln!(out, "  virtual server {server}: it is not ours, or in an excluded network")?;
            }
        }
        Ok(())
    }

    fn write_first_sync(&self, out: &mut String) -> fmt::Result {
        if self.writes.is_empty() {
            return Ok(());
        }
        let mut writes: Vec<(u8, &Write)> =
            self.writes.iter().map(|write| (place(&write.step), write)).collect();
        writes.sort_by_cached_key(|(place, write)| (*place, write.step.key(), write.step.real_server()));
        writeln!(out, "First sync, writes: {}", writes.len())?;
        for of_kind in writes.chunk_by(|(left, _), (right, _)| left == right) {
            writeln!(out, "  {}: {}", kind(&of_kind[0].1.step), of_kind.len())?;
        }
        let (taken, made) = writes.split_at(writes.partition_point(|(place, _)| *place < MADE));
        for (title, part) in
            [("TAKEN AWAY by the first sync:", taken), ("Made or changed by the first sync:", made)]
        {
            if !part.is_empty() {
                writeln!(out, "{title}")?;
            }
            for (_, Write { step, services, before }) in part {
                write!(out, "  {step}")?;
                if let Some(before) = before {
                    write!(out, " (now {before})")?;
                }
                if !services.is_empty() {
                    let services: Vec<_> = services.iter().map(ToString::to_string).collect();
                    write!(out, ", of {}", services.join(" and "))?;
                }
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

/// The place at which a step is shown. What is taken away comes first: it is what may hurt.
fn place(step: &Step) -> u8 {
    match step {
        Step::DeleteVirtualServer(_) => 0,
        Step::DeleteRealServer(..) => 1,
        Step::EditRealServer(..) if drains(step) => 2,
        Step::DeleteAddress(_) => 3,
        Step::DeleteElement(_) => 4,
        Step::SetSysctl(..) => MADE,
        Step::AddDevice => 6,
        Step::SetTimeouts(_) => 7,
        Step::InstallRules(..) => 8,
        Step::AddVirtualServer(..) => 9,
        Step::EditVirtualServer(..) => 10,
        Step::AddRealServer(..) => 11,
        Step::EditRealServer(..) => 12,
        Step::AddAddress(_) => 13,
        Step::EditAddress(_) => 14,
        Step::AddRoute(_) => 15,
        Step::AddElement(_) => 16,
    }
}

/// Whether a step keeps new connections away from a real server that stays.
fn drains(step: &Step) -> bool {
    matches!(step, Step::EditRealServer(_, _, real) if real.weight == Weight::Exactly(0))
}

/// The kind of a step in the words of the log and the metrics; says which changes of real servers only drain them.
fn kind(step: &Step) -> String {
    let drains = if drains(step) { " to weight 0" } else { "" };
    step.kind().as_str().replace('_', " ") + drains
}

/// A finding of the takeover, worded as something that has not happened yet.
struct Foretold<'a>(&'a Finding);

impl fmt::Display for Foretold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Finding::Removed { what, names } if what == "ipsets" => {
                write!(f, "remove ipsets that no other rule refers to: {}", names.join(", "))
            }
            Finding::Removed { what, names } => write!(f, "remove {what}: {}", names.join(", ")),
            Finding::Added(what) => write!(f, "add {what}"),
            Finding::Lost { what, rules } => write!(
                f,
                "NO LONGER ACCEPTED in {what}, which drops what no rule accepts (add accept rules of your own): {}",
                rules.join(", ")
            ),
            // `Back` is not a finding of a takeover that only begins.
            Finding::Kept { what, why } | Finding::Back { what, why } => write!(f, "{what}: {why}"),
            Finding::OutOfReach { what, why } => write!(f, "CANNOT remove or make {what}: {why}"),
            Finding::Failed { what, why } => write!(f, "cannot look at {what}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
