//! Lives that are killed, and the ones after them.

use super::*;

/// When a life is killed.
#[derive(Clone, Copy)]
pub(crate) enum Killed {
    /// While it writes a change.
    Running,
    /// While it starts, with a change since the previous life.
    Starting,
}

/// Kills a life before its n-th step after a change, and starts the next one. Returns whether there were that many
/// steps.
pub(crate) fn crashes(
    before: &[Event],
    change: &[Event],
    killed: Killed,
    crash_at: usize,
) -> Result<bool, TestCaseError> {
    let kernel = MemoryKernel::default();
    let mut life = Life::new(kernel.clone());
    let mut cluster = Cluster::default();
    for event in complete().iter().chain(before) {
        cluster.apply(event.clone());
        life.feed([event.clone()]);
    }
    life.settle();
    kernel.take_written();
    in_pieces(&mut life, change.len());
    for event in change {
        cluster.apply(event.clone());
    }
    let crashed = match killed {
        Killed::Running => life.die_before(crash_at, change.iter().cloned()),
        Killed::Starting => Life::new(kernel.clone()).die_before(crash_at, everything(&cluster)),
    };

    let mut next = Life::new(kernel.clone());
    next.feed(everything(&cluster));
    let adopted = kernel.state();
    next.settle();
    assert_converged(&next, &cluster);
    let is = kernel.state();
    for step in kernel.take_written() {
        match &step {
            Step::DeleteAddress(address) => prop_assert!(!is.addresses.contains_key(address), "{step:?}"),
            Step::DeleteVirtualServer(key) => {
                prop_assert!(!is.virtual_servers.contains_key(key), "{step:?}");
            }
            Step::AddRealServer(key, real, _) => {
                let known = adopted.virtual_servers.get(key).and_then(|server| server.real_servers.get(real));
                prop_assert!(known.is_none(), "{step:?}");
            }
            Step::InstallRules(..) => prop_assert!(moved(change), "rules are made once, not {step:?}"),
            _ => {}
        }
    }
    Ok(crashed)
}
