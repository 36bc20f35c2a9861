//! What this node's kernel supports.

use std::collections::BTreeSet;
use std::path::Path;

use super::{ROOT, system};
use crate::cluster::types::Family;
use crate::desired::Desired;
use crate::desired::settings::Supported;
use crate::kernel::{Refusal, sysctl, version};
use crate::options::Options;
use crate::state::{Key, Sysctl};

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
    let (names, estimates) = told(&supported.missing, options.proxy.run_estimation);
    if !names.is_empty() {
        tracing::warn!(entries = names.join(", "), "This kernel does not have these parameters");
    }
    if estimates {
        tracing::warn!(
            "IPVS's estimator cannot be stopped on this kernel, which has no net.ipv4.vs.run_estimation (Linux has it \
             since 5.15): where there are many virtual servers, packets may be held up for 10 to 200 ms every two seconds"
        );
    }
    supported
}

/// What to say about the parameters that this kernel lacks: the names of those to list, and whether the estimator goes
/// on although it is to be stopped.
fn told(missing: &BTreeSet<Sysctl>, run_estimation: Option<bool>) -> (Vec<&'static str>, bool) {
    let estimates = run_estimation == Some(false) && missing.contains(&Sysctl::VsRunEstimation);
    let named = missing.iter().filter(|sysctl| !estimates || **sysctl != Sysctl::VsRunEstimation);
    (named.map(|sysctl| sysctl.path()).collect(), estimates)
}

/// Warns what follows where this kernel cannot be asked for entries of connection tracking. Everything else works
/// without that.
pub(super) fn tell_of_conntrack(lack: Option<Refusal>) {
    if let Some(refusal) = lack {
        tracing::warn!(
            err = %refusal,
            "This kernel does not have nf_conntrack_netlink (CONFIG_NF_CT_NETLINK), or could not load it: UDP clients may \
             keep sending to an endpoint that is gone, until their entry of connection tracking expires"
        );
    }
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
    fn what_follows_is_said_where_the_estimator_cannot_be_stopped() {
        let both = [Sysctl::VsSloppySctp, Sysctl::VsRunEstimation].into();
        let (sloppy, estimation) = (Sysctl::VsSloppySctp.path(), Sysctl::VsRunEstimation.path());
        assert_eq!(told(&both, Some(false)), (vec![sloppy], true));
        assert_eq!(told(&[Sysctl::VsRunEstimation].into(), Some(false)), (vec![], true));
        assert_eq!(told(&[Sysctl::VsSloppySctp].into(), Some(false)), (vec![sloppy], false));
        // It runs there, as is wanted.
        assert_eq!(told(&[Sysctl::VsRunEstimation].into(), Some(true)), (vec![estimation], false));
        assert_eq!(told(&BTreeSet::new(), None), (vec![], false));
    }

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
