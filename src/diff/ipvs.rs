//! The difference of virtual and real servers.

use super::order::Draft;
use super::plan::Step;
use crate::state::{RealServer, State, VirtualServer, VirtualServerKey, Weight};

pub(super) fn virtual_server(wanted: &State, actual: &State, key: VirtualServerKey, draft: &mut Draft) {
    match (wanted.virtual_servers.get(&key), actual.virtual_servers.get(&key)) {
        (None, None) => {}
        (None, Some(_)) => draft.add(Step::DeleteVirtualServer(key)),
        (Some(wanted), None) => {
            let bare = wanted.without_real_servers();
            real_servers(key, wanted, &bare, draft);
            draft.add(Step::AddVirtualServer(key, bare));
        }
        (Some(wanted), Some(actual)) => {
            if !wanted.same_settings(actual) {
                draft.add(Step::EditVirtualServer(key, wanted.without_real_servers()));
            }
            real_servers(key, wanted, actual, draft);
        }
    }
}

fn real_servers(key: VirtualServerKey, wanted: &VirtualServer, actual: &VirtualServer, draft: &mut Draft) {
    if wanted.real_servers == actual.real_servers {
        return;
    }
    let mut both = 0;
    for (server_key, server, known) in wanted.real_servers.beside(&actual.real_servers) {
        both += usize::from(known.is_some());
        match (server.weight, known) {
            (Weight::Exactly(_), None) => draft.add(Step::AddRealServer(key, *server_key, *server)),
            (Weight::Exactly(_), Some(known)) if known != server => {
                draft.add(Step::EditRealServer(key, *server_key, *server));
            }
            (Weight::DrainIfPresent, Some(known)) if known.weight != Weight::Exactly(0) => {
                // The real server as it will be: the step also removes its threshold.
                let drained = RealServer { weight: Weight::Exactly(0), is_limited: false, ..*known };
                draft.add(Step::EditRealServer(key, *server_key, drained));
            }
            (Weight::Exactly(_), Some(_)) | (Weight::DrainIfPresent, _) => {}
        }
    }
    // All actual real servers are wanted: nearly always true, since a real server drains before it goes.
    if both == actual.real_servers.len() {
        return;
    }
    for (server_key, _) in actual.real_servers.without(&wanted.real_servers) {
        draft.add(Step::DeleteRealServer(key, *server_key));
    }
}
