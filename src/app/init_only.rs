//! `--init-only`: does what needs privileges, and ends. A second container without privileges may follow: it finds
//! every kernel parameter as it should be, and writes none.

use anyhow::{Context as _, bail};

use crate::desired::Desired;
use crate::desired::settings::Supported;
use crate::diff::{Step, diff};
use crate::kernel::{Kernel, Outcome, Selection};
use crate::report;
use crate::state::{Key, Scope};

/// Writes the settings that do not depend on any object, except the rules: the device, parameters, timeouts. Parameters
/// that this kernel lacks, needed ones included, were named before. A start goes on without them, unhealthy, so they
/// must not prevent it from beginning.
///
/// # Errors
/// The kernel refuses a setting; the error says which, and why.
pub(super) fn initialize(
    kernel: &mut dyn Kernel,
    desired: &Desired,
    supported: &Supported,
) -> anyhow::Result<()> {
    let lacks = |key: &Key| matches!(key, Key::Sysctl(sysctl) if supported.missing.contains(sysctl));
    let keys = desired.setting_keys().into_iter();
    let scope: Scope = keys.filter(|key| Selection::Settings.covers(key) && !lacks(key)).collect();
    let actual = kernel.read(&Selection::Settings).context("cannot read the kernel's settings")?;
    let plan = diff(&desired.select(&scope), &actual, &scope);
    let outcomes = kernel.apply(&plan);
    for (planned, outcome) in plan.steps.iter().zip(&outcomes) {
        if let (Step::SetSysctl(sysctl, after), Outcome::Done) = (&planned.step, outcome) {
            report::tell_sysctl(*sysctl, actual.sysctls.get(sysctl).map(String::as_str), after);
        }
    }
    let refused: Vec<_> = plan
        .steps
        .iter()
        .zip(outcomes)
        .filter_map(|(planned, outcome)| match outcome {
            Outcome::Done => None,
            Outcome::Refused(refusal) => Some(format!("{}: {}", planned.step, refusal.text)),
            Outcome::Unknown | Outcome::Skipped(_) => Some(format!("{}: not known to be done", planned.step)),
        })
        .collect();
    if !refused.is_empty() {
        bail!("cannot initialize: {}", refused.join("; "));
    }
    tracing::info!("System initialized and --init-only specified");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::types::Family;
    use crate::kernel::memory::{Fault, MemoryKernel};
    use crate::options::ProxyOptions;
    use crate::state::Sysctl;

    #[test]
    fn settings_are_written_and_nothing_else() {
        let options = ProxyOptions { strict_arp: true, ..ProxyOptions::default() };
        let supported = Supported {
            families: Family::ALL.into(),
            kernel: (6, 12),
            missing: [Sysctl::VsConnReuseMode].into(),
        };
        let desired = Desired::new(options, "node".into(), supported.clone());
        let mut kernel = MemoryKernel::default();
        initialize(&mut kernel, &desired, &supported).unwrap();
        let state = kernel.read(&Selection::Everything).unwrap();
        assert!(state.device);
        assert_eq!(state.sysctls.get(&Sysctl::ArpIgnore).map(String::as_str), Some("1"));
        assert_eq!(state.sysctls.get(&Sysctl::VsConntrack).map(String::as_str), Some("1"));
        assert!(!state.sysctls.contains_key(&Sysctl::VsConnReuseMode), "the kernel does not have it");
        assert!(state.rules.is_empty() && state.addresses.is_empty());
    }

    /// `ENOENT`.
    const NOT_THERE: i32 = 2;

    #[test]
    fn what_is_needed_and_not_there_keeps_no_start_from_beginning() {
        let missing = [Sysctl::VsConntrack].into();
        let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing };
        let desired = Desired::new(ProxyOptions::default(), "node".into(), supported.clone());
        let mut kernel = MemoryKernel::default();
        kernel.set_faults(Some(Box::new(|step| {
            matches!(step, Step::SetSysctl(Sysctl::VsConntrack, _)).then_some(Fault::Refuse(NOT_THERE))
        })));
        initialize(&mut kernel, &desired, &supported).unwrap();
        let state = kernel.read(&Selection::Everything).unwrap();
        assert_eq!(state.sysctls.get(&Sysctl::Ipv4Forward).map(String::as_str), Some("1"));
        assert!(!state.sysctls.contains_key(&Sysctl::VsConntrack));
        // A parameter that exists and is refused is an error.
        let supported = Supported { missing: BTreeSet::new(), ..supported };
        let refused = initialize(&mut kernel, &desired, &supported).unwrap_err().to_string();
        assert!(refused.starts_with("cannot initialize: set sysctl net/ipv4/vs/conntrack"), "{refused}");
    }
}
