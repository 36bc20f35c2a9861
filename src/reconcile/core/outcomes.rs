//! What became of a plan, and who owns a virtual server afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::note::{Note, Verdict, WriteCounts};
use super::super::refusals;
use super::super::schedule::Urgency;
use super::Reconciler;
use crate::diff::{self, Plan};
use crate::kernel::{Outcome, Refusal};
use crate::state::{Key, Scope, State, VirtualServerKey};

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

    pub(super) fn take_outcomes(
        &mut self,
        plan: &Plan,
        scope: &Scope,
        outcomes: Vec<Outcome>,
        took: Duration,
        now: Instant,
    ) {
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
                        // Other foundations may be missing as well.
                        self.audit.ask_for_foundations(now);
                    }
                    // Once for each key: all real servers of a virtual server may be refused.
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
        self.schedule.took(scope.len(), took);
        self.notes.push(Note::Wrote { counts, families, filter_refused, took });
        self.succeeded(scope.iter().filter(|key| !troubled.contains(key)));
    }

    /// What became of a step is not known: its key is read and tried again at once.
    ///
    /// If that happens again, it is tried later: answers that are lost each time, for want of memory, would keep
    /// everything else waiting.
    fn unanswered(&mut self, step: &diff::Step, key: &Key, now: Instant) {
        let (kind, real_server) = (step.kind(), step.real_server());
        let text = "the kernel's answer was lost".to_owned();
        if self.schedule.surprise(key, format!("{kind}: {text}"), false, now) {
            self.notes.push(Note::Refused { key: key.clone(), kind, real_server, text });
        }
    }

    /// The kernel refused a step for a key: the key is tried again, and the refusal noted where it is new.
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

    /// Takes over from `read` what the kernel has of this key.
    pub(super) fn take_in(&mut self, key: &Key, read: &State) {
        self.actual.copy(key, read);
        self.own(key);
        if *key == Key::Device && !read.device {
            // The addresses went with the device.
            let gone = self.actual.take_addresses();
            self.schedule.add_all(Urgency::Change, gone.into_keys().map(Key::Address).collect());
        }
    }

    /// A virtual server in the picture no longer belongs to others: a Service asks for it now.
    fn own(&mut self, key: &Key) {
        if let Key::VirtualServer(server) = key
            && self.actual.virtual_servers.contains_key(server)
        {
            self.foreign.remove(server);
        }
    }

    /// These virtual servers of ours belong to others from now on, as they would after another start.
    pub(super) fn disown(&mut self, servers: Vec<VirtualServerKey>) {
        for server in &servers {
            self.actual.copy(&Key::VirtualServer(*server), &State::default());
        }
        self.foreign.add(servers);
    }
}
