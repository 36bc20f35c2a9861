//! What an audit found: what was changed behind our back is put among the changes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::audit::Look;
use super::super::note::Note;
use super::super::schedule::Urgency;
use super::Reconciler;
use crate::cluster::types::Family;
use crate::diff;
use crate::kernel::{Foundations, Selection, Witnesses};
use crate::state::{Key, Scope, State, VirtualServerKey, ownership};

/// Which device and tables existed when the kernel was last asked.
#[derive(Debug, Default)]
pub(super) struct SeenFoundations {
    pub(super) device: Option<u32>,
    pub(super) tables: BTreeMap<Family, u64>,
}

impl Reconciler {
    /// Takes in which foundations were found.
    ///
    /// What should exist and does not is read, and then made again. What is on the device or in a table is read where
    /// that is another one than before, or may be; and where one virtual server or address is gone, others may be too.
    /// What could not be seen stays as it was.
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
                // All addresses are read anyway where the device is another one.
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
        self.give_up_room();
        self.notes.push(Note::LookedFor(failures));
    }

    /// Gives up room that was needed when there was more than now.
    ///
    /// Here, since this happens now and then, while nothing else is to be done. Who hears the note gives free memory
    /// back.
    fn give_up_room(&mut self) {
        self.cluster.give_up_room();
        self.desired.give_up_room();
    }

    /// The table of a family has this handle; `None`: there is no table.
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

    /// The device has this number; `None`: there is no device.
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

    /// Notes that somebody else changed what a key stands for.
    fn drifted(&mut self, key: Key) {
        match key.family() {
            Some(family) => self.notes.extend(self.progress.queued([family])),
            None => self.queued(),
        }
        self.notes.push(Note::Drift(key));
    }

    /// Compares what was read with the picture: what differs is drift. Where all virtual servers of a slice are gone,
    /// the others likely are too, so they are listed at once.
    pub(super) fn compare(&mut self, selection: &Selection, read: &State) {
        if let Selection::Keys(slice) = selection
            && read.virtual_servers.is_empty()
            && slice.iter().any(|key| self.actual.contains(key))
        {
            self.audit.look(vec![Look::List]);
        }
        let keys: BTreeSet<Key> = match selection {
            // Only these, so as not to walk through everything for each slice.
            Selection::Keys(keys) => keys.clone(),
            _ => self.actual.keys().chain(read.keys()).filter(|key| selection.covers(key)).collect(),
        };
        for key in keys {
            // It was read before it was ours, or is not ours at all.
            let unknown_server = matches!(&key, Key::VirtualServer(server) if self.foreign.contains(server));
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

    /// Whether a setting is as wanted; `false` for every other key. A timeout that is left to the kernel may have any
    /// value.
    fn is_set_as_wanted(&self, key: &Key) -> bool {
        if key.is_removable() {
            return false;
        }
        let scope = Scope::from([key.clone()]);
        diff::accepts(&self.desired.select(&scope), &self.actual, &scope)
    }

    /// Compares the list of virtual servers with the picture.
    ///
    /// What the list misses is gone: a list is complete or not given at all, and nothing else was done while it was
    /// made. What it shows and we do not know is read next. If the list was wrong, the kernel says so when we make a
    /// virtual server that exists, and the virtual server is looked at then.
    pub(super) fn listed(&mut self, keys: &BTreeSet<VirtualServerKey>) {
        let intruders = std::mem::take(&mut self.intruders);
        let (ours, foreign): (BTreeSet<_>, BTreeSet<_>) = keys.iter().copied().partition(|key| {
            let is_ours = ownership::is_ours(&self.actual, key) || intruders.contains(&key.address);
            self.actual.virtual_servers.contains_key(key)
                || self.desired.wants(&Key::VirtualServer(*key))
                || is_ours && !ownership::is_excluded(&self.exclude_cidrs, key)
        });
        self.foreign.are(foreign);
        let known = self.actual.virtual_servers.keys();
        let gone: Vec<Key> =
            known.filter(|key| !keys.contains(key)).copied().map(Key::VirtualServer).collect();
        let is_unknown = |key: &VirtualServerKey| !self.actual.virtual_servers.contains_key(key);
        self.audit.look_at(ours.into_iter().filter(is_unknown).collect());
        for key in &gone {
            self.take_in(key, &State::default());
            self.drifted(key.clone());
        }
        // In pieces: these may be all virtual servers, and changes go in between.
        self.schedule.add_all(Urgency::Bulk, gone);
    }
}
