//! What answers of the kernel mean: outcomes of a plan, and what an audit read.

use std::collections::BTreeSet;
use std::time::Instant;

use super::super::audit::Look;
use super::super::note::{Note, Verdict, WriteCounts};
use super::super::refusals;
use super::super::schedule::Urgency;
use super::Reconciler;
use crate::cluster::types::Family;
use crate::diff::{self, Plan};
use crate::kernel::{Foundations, Outcome, Refusal, Selection, Witnesses};
use crate::state::{Key, Scope, State, VirtualServerKey, ownership};

impl Reconciler {
    pub(super) fn succeeded<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) {
        for key in keys {
            if self.schedule.succeed(key) {
                self.notes.push(Note::Recovered(key.clone()));
            }
            if let Key::VirtualServer(key) = key
                && let Some(wanted) = self.desired.virtual_server(key)
            {
                self.actual.share(key, &wanted.real_servers);
            }
        }
    }

    pub(super) fn take_outcomes(&mut self, plan: &Plan, scope: &Scope, outcomes: Vec<Outcome>, now: Instant) {
        assert_eq!(plan.steps.len(), outcomes.len(), "one outcome per step");
        let (mut troubled, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let mut counts = WriteCounts::default();
        let (mut families, mut filter_refused) = (BTreeSet::new(), BTreeSet::new());
        for (planned, outcome) in plan.steps.iter().zip(outcomes) {
            let key = planned.step.key();
            match key.family() {
                Some(family) => _ = families.insert(family),
                None => families.clone_from(&self.families),
            }
            let verdict = Verdict::of(&outcome);
            if matches!(outcome, Outcome::Done | Outcome::Unknown) {
                self.purges.stepped(&planned.step, &self.actual, now);
                match &planned.step {
                    diff::Step::AddDevice => self.foundations.device = None,
                    diff::Step::InstallRules(family, ..) => _ = self.foundations.tables.remove(family),
                    _ => {}
                }
            }
            counts.add(planned.step.kind(), verdict);
            match outcome {
                Outcome::Done => {
                    if let diff::Step::SetSysctl(sysctl, after) = &planned.step {
                        let before = self.actual.sysctls.get(sysctl).cloned();
                        let after = after.clone();
                        self.notes.push(Note::SysctlChanged { sysctl: *sysctl, before, after });
                    }
                    self.actual.apply(&planned.step);
                    self.drains.stepped(&planned.step, now);
                    self.own(&key);
                }
                Outcome::Unknown => {
                    self.suspect(&planned.step, &key);
                    // Once for each key, as below.
                    if troubled.insert(key.clone()) {
                        self.unanswered(&planned.step, &key, now);
                    }
                }
                Outcome::Refused(refusal) => {
                    if matches!(key, Key::Rules(_) | Key::Element(_)) {
                        filter_refused.extend(key.family());
                    }
                    // What we believed of the key may be wrong, whatever the error says: look before the retry.
                    self.suspect(&planned.step, &key);
                    if let Some(missing) = refusals::misses(&planned.step, &refusal) {
                        self.schedule.suspect(missing);
                        // It may not be the only one.
                        self.audit.ask_for_foundations(now);
                    }
                    // Once for each key: of a virtual server all real servers may be refused.
                    if refused.insert(key.clone()) {
                        self.refused(&planned.step, &key, &refusal, now);
                    }
                    troubled.insert(key);
                }
                Outcome::Skipped(index) => {
                    if !troubled.contains(&key) {
                        self.schedule.wait_for(&key, &plan.steps[index].step.key());
                        troubled.insert(key);
                    }
                }
            }
        }
        let took = self.took(now);
        self.schedule.took(scope.len(), took);
        self.notes.push(Note::Wrote { counts, families, filter_refused, took });
        self.succeeded(scope.iter().filter(|key| !troubled.contains(key)));
    }

    /// What became of a step is not known: it is looked at and tried again at once; and later if that happens again, since
    /// answers that are lost each time, for want of memory, would keep everything else waiting.
    fn unanswered(&mut self, step: &diff::Step, key: &Key, now: Instant) {
        let (kind, real_server) = (step.kind(), step.real_server());
        let text = "the kernel's answer was lost".to_owned();
        if self.schedule.surprise(key, format!("{kind}: {text}"), false, now) {
            self.notes.push(Note::Refused { key: key.clone(), kind, real_server, text });
        }
    }

    /// The kernel refused a step for a key: it is tried again, and told where that is new.
    fn refused(&mut self, step: &diff::Step, key: &Key, refusal: &Refusal, now: Instant) {
        let (kind, real_server) = (step.kind(), step.real_server());
        let about = real_server.map(|real| format!(" {real}")).unwrap_or_default();
        let text = format!("{kind}{about}: {refusal}");
        let is_single = refusals::is_single(key, refusal);
        let is_news = if refusals::contradicts_picture(step, refusal) {
            self.schedule.surprise(key, text, is_single, now)
        } else {
            self.schedule.fail(key, text, is_single, now)
        };
        if is_news {
            self.notes.push(Note::Refused { key: key.clone(), kind, real_server, text: refusal.to_string() });
        }
    }

    /// Marks what a step may have changed as uncertain.
    fn suspect(&mut self, step: &diff::Step, key: &Key) {
        if let diff::Step::InstallRules(family, _, elements) = step {
            let known = self.actual.elements.iter().filter(|element| element.family() == *family);
            for element in known.chain(elements).copied().collect::<Vec<_>>() {
                self.schedule.suspect(Key::Element(element));
            }
        }
        self.schedule.suspect(key.clone());
    }

    /// What the kernel has of this key is as in `read`.
    pub(super) fn take_in(&mut self, key: &Key, read: &State) {
        self.actual.copy(key, read);
        self.own(key);
        if *key == Key::Device && !read.device {
            // They went with it.
            let gone = self.actual.take_addresses();
            self.schedule.add_all(Urgency::Change, gone.into_keys().map(Key::Address).collect());
        }
    }

    /// What is in the picture is not others' any more: a Service asks for it now.
    fn own(&mut self, key: &Key) {
        if let Key::VirtualServer(server) = key
            && self.foreign.servers.contains(server)
            && self.actual.virtual_servers.contains_key(server)
        {
            self.foreign.servers.remove(server);
            self.foreign.is_news = true;
        }
    }

    /// These virtual servers of ours are others' from now on, as they would be after another start.
    pub(super) fn disown(&mut self, servers: Vec<VirtualServerKey>) {
        if servers.is_empty() {
            return;
        }
        for server in servers {
            self.actual.copy(&Key::VirtualServer(server), &State::default());
            self.foreign.servers.insert(server);
        }
        self.foreign.is_news = true;
    }

    /// What should be there and is not is read, and then made again. What is on it is read where it is another one than
    /// before, or may be; and where one virtual server or address is gone, others may be. What could not be seen stays as it
    /// was.
    pub(super) fn look_for(&mut self, witnesses: &Witnesses, found: Foundations) {
        let mut looks = Vec::new();
        let mut failures = Vec::new();
        for (family, table) in found.tables {
            if !self.families.contains(&family) {
                continue;
            }
            match table {
                Ok(table) => looks.extend(self.look_for_table(family, table)),
                Err(error) => failures.push(error),
            }
        }
        match found.device {
            Ok(device) => looks.extend(self.look_for_device(device)),
            Err(error) => failures.push(error),
        }
        for (address, is_there) in found.addresses {
            let look = Look::Read(Selection::Addresses(Family::of(address)));
            match is_there {
                // All are read anyway where the device is another one.
                Ok(is_there) if is_there || looks.contains(&look) => {}
                Ok(_) => looks.push(look),
                Err(error) => failures.push(error),
            }
        }
        match found.virtual_server {
            Ok(is_there) if witnesses.virtual_server.is_some() && !is_there => {
                // IPVS's own parameters begin anew with its module.
                looks.extend([Look::Read(Selection::Settings), Look::List]);
            }
            Ok(_) => {}
            Err(error) => failures.push(error),
        }
        self.audit.look(looks);
        self.notes.push(Note::LookedFor(failures));
    }

    /// The table of a family has this handle, or is not there.
    fn look_for_table(&mut self, family: Family, found: Option<u64>) -> Option<Look> {
        let is_missing = found.is_none() && self.actual.rules.contains_key(&family);
        if is_missing {
            self.drifted(Key::Rules(family));
            self.schedule.suspect(Key::Rules(family));
        }
        let known = match found {
            Some(handle) => self.foundations.tables.insert(family, handle),
            None => self.foundations.tables.remove(&family),
        };
        let is_another = known.is_some() && known != found;
        (is_missing || is_another).then_some(Look::Read(Selection::Tables(family)))
    }

    /// The device has this number, or is not there.
    fn look_for_device(&mut self, found: Option<u32>) -> Vec<Look> {
        let is_missing = found.is_none() && self.actual.device;
        if is_missing {
            self.drifted(Key::Device);
            self.schedule.suspect(Key::Device);
        }
        let known = std::mem::replace(&mut self.foundations.device, found);
        let is_another = known.is_some() && known != found;
        let families = self.families.iter().filter(|_| is_missing || is_another);
        families.map(|family| Look::Read(Selection::Addresses(*family))).collect()
    }

    /// Somebody else changed what a key stands for.
    fn drifted(&mut self, key: Key) {
        match key.family() {
            Some(family) => self.notes.extend(self.progress.queued([family])),
            None => self.queued(),
        }
        self.notes.push(Note::Drift(key));
    }

    /// Compares what was read with the picture: what differs is drift. Where all virtual servers of a slice are gone, the
    /// others likely are too: they are listed at once.
    pub(super) fn compare(&mut self, selection: &Selection, read: &State) {
        if let Selection::Keys(slice) = selection
            && read.virtual_servers.is_empty()
            && slice.iter().any(|key| self.actual.contains(key))
        {
            self.audit.look(vec![Look::List]);
        }
        let keys: BTreeSet<Key> = match selection {
            // Not for each slice through everything.
            Selection::Keys(keys) => keys.clone(),
            _ => self.actual.keys().chain(read.keys()).filter(|key| selection.covers(key)).collect(),
        };
        for key in keys {
            // Read before it was ours, or not ours at all.
            let unknown_server =
                matches!(&key, Key::VirtualServer(server) if self.foreign.servers.contains(server));
            if unknown_server || self.actual.same(read, &key) {
                continue;
            }
            self.take_in(&key, read);
            if let Key::Address(address) = key
                && !self.desired.wants(&key)
            {
                self.intruders.insert(address);
            }
            let concerns_us = self.desired.wants(&key) || key.is_removable();
            if !concerns_us {
                continue;
            }
            if !self.is_set_as_wanted(&key) {
                self.drifted(key.clone());
            }
            self.schedule.add(Urgency::Change, key);
        }
    }

    /// Whether a setting is as it is wanted: of the timeouts, those that are left to the kernel may be anything.
    fn is_set_as_wanted(&self, key: &Key) -> bool {
        if key.is_removable() {
            return false;
        }
        let scope = Scope::from([key.clone()]);
        diff::accepts(&self.desired.select(&scope), &self.actual, &scope)
    }

    /// Compares the list of virtual servers with the picture. What it misses is gone: a list is complete, or was not given at
    /// all, and while it was made nothing else was done. What it shows and is not known is read next. If it was wrong, the
    /// kernel says so when a virtual server is made that is there, and that is looked at then.
    pub(super) fn listed(&mut self, keys: &BTreeSet<VirtualServerKey>) {
        let intruders = std::mem::take(&mut self.intruders);
        let (ours, foreign): (BTreeSet<_>, BTreeSet<_>) = keys.iter().copied().partition(|key| {
            let is_ours = ownership::is_ours(&self.actual, key) || intruders.contains(&key.address);
            self.actual.virtual_servers.contains_key(key)
                || self.desired.wants(&Key::VirtualServer(*key))
                || is_ours && !ownership::is_excluded(&self.exclude_cidrs, key)
        });
        if foreign != self.foreign.servers {
            self.foreign.servers = foreign;
            self.foreign.is_news = true;
        }
        let known = self.actual.virtual_servers.keys();
        let gone: Vec<Key> =
            known.filter(|key| !keys.contains(key)).copied().map(Key::VirtualServer).collect();
        let is_unknown = |key: &VirtualServerKey| !self.actual.virtual_servers.contains_key(key);
        self.audit.look_at(ours.into_iter().filter(is_unknown).collect());
        for key in &gone {
            self.take_in(key, &State::default());
            self.drifted(key.clone());
        }
        // In pieces: it may be all of them, and changes go between.
        self.schedule.add_all(Urgency::Bulk, gone);
    }
}
