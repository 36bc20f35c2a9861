//! What the kernel refuses, and what it accepts again. Logged together: a kernel that accepts nothing refuses
//! everything.

use std::collections::BTreeMap;

use super::{NAMED, named};
use crate::diff::StepKind;
use crate::reconcile::core::Reconciler;
use crate::state::{Key, RealServerKey};

/// What was refused, and what recovered, so far.
#[derive(Default)]
pub(super) struct Troubles {
    /// What was refused, by kind of step and reason.
    refused: BTreeMap<(StepKind, String), Vec<Trouble>>,
    /// What was refused before and is as wanted now.
    pub(super) recovered: Vec<Key>,
}

struct Trouble {
    key: Key,
    real_server: Option<RealServerKey>,
    /// The Services that the key belongs to.
    services: String,
}

impl Troubles {
    /// Takes in a step that was refused.
    pub(super) fn refused(
        &mut self,
        reconciler: &Reconciler,
        key: Key,
        kind: StepKind,
        real_server: Option<RealServerKey>,
        text: String,
    ) {
        let others = self.refused.entry((kind, text)).or_default();
        // Looked up only for the steps that the log names.
        let services = if others.len() < NAMED { named(reconciler.services_of(&key)) } else { String::new() };
        others.push(Trouble { key, real_server, services });
    }

    /// Writes all of it to the log.
    pub(super) fn tell(self) {
        for ((kind, err), troubles) in self.refused {
            let count = troubles.len();
            if count > NAMED {
                let services = named(troubles.iter().map(|trouble| &trouble.services));
                let objects = named(troubles.iter().map(|trouble| &trouble.key));
                tracing::error!(
                    count,
                    kind = kind.as_str(),
                    objects,
                    services,
                    err,
                    "The kernel refused a write, trying again"
                );
                continue;
            }
            for Trouble { key, real_server, services } in troubles {
                match real_server {
                    // kube-proxy's words for it.
                    Some(endpoint) => tracing::error!(
                        service = services, virtual_server = %key, %endpoint, err, "Failed to sync endpoint for service"
                    ),
                    None => {
                        tracing::error!(
                            service = services, object = %key, kind = kind.as_str(), err,
                            "The kernel refused a write, trying again"
                        );
                    }
                }
            }
        }
        match self.recovered.len() {
            count if count > NAMED => {
                tracing::info!(count, objects = named(&self.recovered), "The kernel accepts them now");
            }
            _ => self
                .recovered
                .iter()
                .for_each(|key| tracing::info!(object = %key, "The kernel accepts it now")),
        }
    }
}
