//! What this node's kernel supports.

use std::collections::BTreeSet;
use std::path::Path;

use super::{ROOT, system};
use crate::cluster::types::Family;
use crate::desired::Desired;
use crate::desired::settings::Supported;
use crate::kernel::{Refusal, sysctl, version};
use crate::options::Options;
use crate::state::Key;

/// What this kernel lacks for a family.
pub(super) struct Lack {
    /// The missing thing, in a word or two.
    pub(super) what: &'static str,
    /// The kernel's answer when it was asked for it.
    pub(super) refusal: Refusal,
}

impl Lack {
    /// The kernel refuses our rules.
    pub(super) fn of_rules(refusal: Refusal) -> Self {
        Self { what: "packet filter", refusal }
    }

    /// The kernel refuses virtual servers.
    pub(super) fn of_virtual_servers(refusal: Refusal) -> Self {
        Self { what: "IPVS", refusal }
    }
}

/// Finds out what this kernel supports. Sets the options that depend on it, and logs the wanted parameters that it
/// lacks.
pub(super) fn supported(options: &mut Options, lacks: impl FnOnce(Family) -> Option<Lack>) -> Supported {
    let kernel = version::running();
    let processors = system::processors(Path::new(ROOT));
    options.proxy.run_estimation = options.estimator.should_run(kernel, processors);
    let families = supported_families(Path::new(ROOT), lacks);
    let mut supported = Supported { families, kernel, missing: BTreeSet::new() };
    let desired = Desired::new(options.proxy.clone(), options.node_name.clone(), supported.clone());
    let wanted = desired.setting_keys().into_iter().filter_map(|key| match key {
        Key::Sysctl(sysctl) => Some(sysctl),
        _ => None,
    });
    supported.missing = wanted.filter(|sysctl| !sysctl::is_there(*sysctl)).collect();
    if !supported.missing.is_empty() {
        let names = supported.missing.iter().map(|sysctl| sysctl.path()).collect::<Vec<_>>().join(", ");
        tracing::warn!(entries = names, "This kernel does not have these parameters");
    }
    supported
}

/// The families that this kernel supports, looked up below `root`. IPv4 is always supported. IPv6 may be missing, or
/// switched off for all devices or for future ones: no device then accepts an IPv6 address, and each attempt fails as
/// if for lack of permission. IPv6 is also left out where the kernel has no packet filter (contract 3.6) or no IPVS for
/// it: each Service of that family would be refused, and make the node unhealthy.
fn supported_families(root: &Path, lacks: impl FnOnce(Family) -> Option<Lack>) -> BTreeSet<Family> {
    let is_off = |devices: &str| {
        let path = root.join(format!("proc/sys/net/ipv6/conf/{devices}/disable_ipv6"));
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
    };
    let mut families = BTreeSet::from([Family::V4]);
    if root.join("proc/net/if_inet6").exists() && !is_off("all") && !is_off("default") {
        match lacks(Family::V6) {
            None => _ = families.insert(Family::V6),
            Some(Lack { what, refusal }) => {
                tracing::warn!(err = %refusal, "This kernel has no {what} for IPv6: it is left out");
            }
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_is_switched_off_is_none_of_this_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let has_v6 = || supported_families(root, |_| None).contains(&Family::V6);
        assert!(!has_v6(), "a kernel without it");
        put("proc/net/if_inet6", "");
        assert!(has_v6());
        for devices in ["all", "default"] {
            let path = format!("proc/sys/net/ipv6/conf/{devices}/disable_ipv6");
            put(&path, "1\n");
            assert!(!has_v6(), "{devices}");
            put(&path, "0\n");
            assert!(has_v6(), "{devices}");
        }
        for lack in [Lack::of_rules, Lack::of_virtual_servers] {
            let refused = |_| Some(lack(Refusal { errno: 95, text: "Operation not supported".to_owned() }));
            assert_eq!(supported_families(root, refused), [Family::V4].into());
        }
        assert_eq!(supported_families(root, |_| None), Family::ALL.into());
    }
}
