//! Before the first write: does this kernel have what is needed, and may we use it? Nothing here changes anything, with
//! two exceptions. If a scheduler has to be tried, a virtual server exists for a moment, at an address reserved for
//! documentation. If the rules have to be tried, a table is made that is gone at the end of the same transaction.
//!
//! **Modules.** Asking for a feature is what loads its module: the kernel runs the host's own modprobe (sysctl
//! `kernel.modprobe`) in the host's own file system, whatever file system the asking process has. So the process needs
//! neither a modprobe binary, nor `/lib/modules`, nor `CAP_SYS_MODULE`:
//!
//! | asked for | alias that the kernel loads |
//! |---|---|
//! | the family "IPVS" of generic netlink | `net-pf-16-proto-16-family-IPVS` (`ip_vs`) |
//! | a scheduler | `ip_vs_NAME` |
//! | a link of kind dummy | `rtnl-link-dummy` |
//! | `nf_tables`, its expressions and types of chains | `nfnetlink-subsys-10`, `nft-expr-...`, `nft-chain-...` |
//! | entries of connection tracking | `nfnetlink-subsys-1` (`nf_conntrack_netlink`) |
//!
//! Rejected: loading the files with `finit_module(2)`. It needs privileges and access to the module files, and achieves
//! nothing that the kernel would not do when asked, except on hosts where modprobe is switched off on purpose.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::ipvs::Ipvs;
use super::netlink::{self, Socket};
use super::nft::Tables;
use super::{Outcome, Refusal, link};
use crate::cluster::types::{Family, Protocol};
use crate::diff::Step;
use crate::state::{RealServers, VirtualServer, VirtualServerKey};

/// The schedulers of Linux, for the list of those that can be used. Any other that the kernel has is accepted just as
/// well.
const KNOWN_SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "twos"];

/// Where a scheduler is tried (contract 4.1): in TEST-NET-2 (RFC 5737), which holds nobody's service addresses.
const PROBE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0));
/// The port for the trial; if somebody has a virtual server there, the following ports are tried.
const PROBE_PORT: u16 = 20000;

/// Why this kernel cannot be used: everything that is missing, in one line.
#[derive(Debug)]
pub struct Unusable(Vec<Lack>);

#[derive(Debug)]
enum Lack {
    Permission,
    /// What the kernel does not have.
    Feature(&'static Feature),
    /// The kernel refused something that the rules of a family need.
    Rules(Family, Refusal),
    /// A feature that is not loaded, and that was not asked for.
    NotLoaded(&'static Feature),
    /// A feature that could not be checked, and why.
    Unclear(&'static str, io::Error),
}

/// A feature that a kernel may have.
#[derive(Debug, PartialEq, Eq)]
struct Feature {
    /// Its name.
    name: &'static str,
    /// The module that provides it.
    module: &'static str,
    /// The kernel's configuration option.
    option: &'static str,
}

const IPVS: Feature = Feature { name: "IPVS", module: "ip_vs", option: "CONFIG_IP_VS" };
const DUMMY: Feature = Feature { name: "dummy devices", module: "dummy", option: "CONFIG_DUMMY" };
const NF_TABLES: Feature = Feature { name: "nf_tables", module: "nf_tables", option: "CONFIG_NF_TABLES" };

impl Unusable {
    /// `what` cannot be used, for this reason.
    pub(super) fn new(what: &'static str, reason: io::Error) -> Self {
        Self(vec![Lack::Unclear(what, reason)])
    }

    /// The rules of a family cannot be made, because of this refusal.
    pub(super) fn of_rules(family: Family, refusal: Refusal) -> Self {
        Self(vec![Lack::Rules(family, refusal)])
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        write!(f, "cannot use this kernel, {release}: ")?;
        for (index, lack) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            match lack {
                Lack::Permission => f.write_str(
                    "no permission to change its network: run as root, or give the process CAP_NET_ADMIN \
                     (in a pod: securityContext.privileged, or capability NET_ADMIN)",
                )?,
                Lack::Feature(Feature { name, module, option }) => write!(
                    f,
                    "it has no {name}, and could not load the module for it: run `modprobe {module}` as root on the \
                     node; if there is no such module, install the kernel's package of further modules \
                     (linux-modules-extra-{release} on Ubuntu, kernel-modules-extra on Fedora and its relatives) or \
                     use a kernel with {option}"
                )?,
                Lack::Rules(family, refusal) => write!(
                    f,
                    "it refuses the rules that are needed for {family}: {refusal}; a module that does not exist may be in \
                     the kernel's package of further modules (linux-modules-extra-{release} on Ubuntu, \
                     kernel-modules-extra on Fedora and its relatives), and kernels before 5.6 lack a part of what the \
                     rules need"
                )?,
                Lack::NotLoaded(Feature { name, module, .. }) => write!(
                    f,
                    "{name} is not loaded, and a dry run loads no modules: run `modprobe {module}` as root on the node, \
                     which changes no traffic, and try again"
                )?,
                Lack::Unclear(what, error) => write!(f, "{what}: {error}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Unusable {}

/// The sockets that the kernel was checked with, for further use.
pub(super) struct Opened {
    pub(super) ipvs: Ipvs,
    pub(super) route: Socket,
    pub(super) tables: Tables,
}

/// Checks that the process may change the network, and that the kernel has IPVS, dummy devices and `nf_tables` (asking
/// loads their modules, if the kernel can load them).
///
/// # Errors
/// Everything that is missing.
pub(super) fn open() -> Result<Opened, Unusable> {
    check_permission()?;
    let ipvs = ask(&IPVS, Ipvs::open(), |ipvs| ipvs.version().map(|_| true));
    let route = ask(&DUMMY, Socket::open(netlink::Protocol::Route), link::dummies_supported);
    all(ipvs, route)
}

/// As [`open`], for callers that only read. It does not ask for dummy devices, since their module makes a device
/// (`dummy0`) when it is loaded, nor for IPVS if it is not loaded, since loading fixes the size of its connection
/// table. Whether `nf_tables` is loaded cannot be seen: asking may load it, as `nft list ruleset` does.
///
/// # Errors
/// Everything that is missing.
pub(super) fn open_to_read() -> Result<Opened, Unusable> {
    check_permission()?;
    // Of the thread, as the sockets are; /proc/net is that of the process.
    let ipvs = if Path::new("/proc/thread-self/net/ip_vs").exists() {
        ask(&IPVS, Ipvs::open(), |ipvs| ipvs.version().map(|_| true))
    } else {
        Err(Lack::NotLoaded(&IPVS))
    };
    let route = Socket::open(netlink::Protocol::Route).map_err(|error| Lack::Unclear("rtnetlink", error));
    all(ipvs, route)
}

fn check_permission() -> Result<(), Unusable> {
    let sets =
        rustix::thread::capabilities(None).map_err(|error| Unusable::new("capabilities", error.into()))?;
    let may = sets.effective.contains(CapabilitySet::NET_ADMIN);
    if may { Ok(()) } else { Err(Unusable(vec![Lack::Permission])) }
}

/// Combines these with the packet filter; fails with everything that is missing.
fn all(ipvs: Result<Ipvs, Lack>, route: Result<Socket, Lack>) -> Result<Opened, Unusable> {
    let tables = ask(&NF_TABLES, Tables::open(), Tables::supported);
    match (ipvs, route, tables) {
        (Ok(ipvs), Ok(route), Ok(tables)) => Ok(Opened { ipvs, route, tables }),
        (ipvs, route, tables) => {
            Err(Unusable([ipvs.err(), route.err(), tables.err()].into_iter().flatten().collect()))
        }
    }
}

/// What was opened, if the kernel has the feature.
fn ask<T>(
    feature: &'static Feature,
    opened: io::Result<T>,
    supported: impl FnOnce(&mut T) -> io::Result<bool>,
) -> Result<T, Lack> {
    let answer = opened.and_then(|mut opened| Ok(supported(&mut opened)?.then_some(opened)));
    match answer {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) => Err(Lack::Feature(feature)),
        Err(error) => Err(match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP) => Lack::Feature(feature),
            _ if error.kind() == io::ErrorKind::PermissionDenied => Lack::Permission,
            _ => Lack::Unclear(feature.name, error),
        }),
    }
}

/// Why the kernel lacks what this needed: a family, a type of chain, an expression of rules, or a flag of one of these.
/// (`EINVAL` says the last: what is tried is the same everywhere, so nothing else can be wrong with it.) Other refusals
/// say nothing about what the kernel has: permission or memory may be missing, or somebody else interfered.
pub(super) fn lack(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Refused(refusal) => (refusal.is_of_a_lack() || refusal.is(Errno::INVAL)).then_some(refusal),
        Outcome::Done | Outcome::Unknown | Outcome::Skipped(_) => None,
    }
}

/// Why a scheduler cannot be used.
#[derive(Debug)]
pub struct SchedulerError {
    name: String,
    reason: io::Error,
    /// The schedulers that can be used; empty if that could not be found out.
    usable: Vec<&'static str>,
}

impl fmt::Display for SchedulerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IPVS scheduler \"{}\" cannot be used on this kernel ({})",
            self.name.escape_debug(),
            self.reason
        )?;
        if !self.usable.is_empty() {
            write!(f, "; usable are: {}", self.usable.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for SchedulerError {}

/// Checks that virtual servers can have this scheduler: one that has it already exists, or one can be made (contract
/// 4.1), which loads the scheduler's module if the kernel can load it.
///
/// # Errors
/// The reason, with the schedulers that can be used.
pub fn check_scheduler(ipvs: &mut Ipvs, name: &str) -> Result<(), SchedulerError> {
    match try_scheduler(ipvs, name) {
        Ok(()) => Ok(()),
        Err(reason) => Err(SchedulerError { name: name.to_owned(), reason, usable: usable_schedulers(ipvs) }),
    }
}

/// The known schedulers that can be used.
pub fn usable_schedulers(ipvs: &mut Ipvs) -> Vec<&'static str> {
    KNOWN_SCHEDULERS.into_iter().filter(|name| try_scheduler(ipvs, name).is_ok()).collect()
}

/// Whether some virtual server is seen to have this scheduler, which proves that the kernel has it. Changes nothing.
pub(super) fn is_in_use(ipvs: &mut Ipvs, scheduler: &str) -> io::Result<bool> {
    // Not all virtual servers are listed: with tens of thousands, the kernel takes a second, and those of one proxy all
    // have the same scheduler.
    Ok(ipvs.some()?.values().any(|server| *server.scheduler == *scheduler))
}

fn try_scheduler(ipvs: &mut Ipvs, name: &str) -> io::Result<()> {
    // The kernel takes "none" to mean a virtual server without scheduler, which serves nobody.
    if name.is_empty() || name == "none" || name.contains('\0') {
        return Err(io::Error::from(Errno::NOENT));
    }
    if is_in_use(ipvs, name)? {
        return Ok(());
    }
    for port in PROBE_PORT..=u16::MAX {
        let key = VirtualServerKey { address: PROBE_ADDRESS, protocol: Protocol::Tcp, port };
        let server = VirtualServer {
            scheduler: name.into(),
            flags: 0,
            timeout_seconds: 0,
            netmask_bits: 32,
            real_servers: RealServers::default(),
        };
        match ipvs.apply(&[&Step::AddVirtualServer(key, server)]).pop() {
            // Only a virtual server that is known to be ours is deleted.
            Some(Outcome::Done) => {
                return match ipvs.apply(&[&Step::DeleteVirtualServer(key)]).pop() {
                    Some(Outcome::Done) => Ok(()),
                    _ => Err(io::Error::other(format!(
                        "virtual server {key}, made to try it, cannot be deleted"
                    ))),
                };
            }
            Some(Outcome::Refused(refusal)) if refusal.is(Errno::EXIST) => {}
            Some(Outcome::Refused(refusal)) => return Err(io::Error::from_raw_os_error(refusal.errno)),
            _ => return Err(netlink::lost()),
        }
    }
    Err(io::Error::other(format!("every port of {PROBE_ADDRESS} from {PROBE_PORT} on has a virtual server")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_said_in_one_line() {
        let lacks = vec![Lack::Feature(&IPVS), Lack::Unclear("nf_tables", io::Error::from(Errno::INVAL))];
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let text = Unusable(lacks).to_string();
        assert_eq!(
            text.replace(&release, "6.1"),
            "cannot use this kernel, 6.1: it has no IPVS, and could not load the module for it: run `modprobe ip_vs` as \
             root on the node; if there is no such module, install the kernel's package of further modules \
             (linux-modules-extra-6.1 on Ubuntu, kernel-modules-extra on Fedora and its relatives) or use a kernel with \
             CONFIG_IP_VS; nf_tables: Invalid argument (os error 22)"
        );
        let not_loaded = Unusable(vec![Lack::NotLoaded(&IPVS)]).to_string();
        assert!(
            not_loaded.ends_with(
                "IPVS is not loaded, and a dry run loads no modules: run `modprobe ip_vs` as root on \
             the node, which changes no traffic, and try again"
            ),
            "{not_loaded}"
        );
        let refusal = "rule \"x\" of chain input: No such file or directory (os error 2)";
        let rules =
            Unusable::of_rules(Family::V4, Refusal { errno: 2, text: refusal.to_owned() }).to_string();
        let said = format!(
            "it refuses the rules that are needed for IPv4: {refusal}; a module that does not exist may"
        );
        assert!(rules.contains(&said) && !rules.contains('\n'), "{rules}");
        let permission = Unusable(vec![Lack::Permission]).to_string();
        assert!(permission.contains("CAP_NET_ADMIN") && !permission.contains('\n'), "{permission}");
    }

    #[test]
    fn what_a_kernel_does_not_have_is_told_from_what_it_refuses() {
        let refused = |errno: Errno| Outcome::Refused(Refusal::of(&io::Error::from(errno)));
        for missing in
            [Errno::NOENT, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::INVAL]
        {
            assert!(lack(refused(missing)).is_some_and(|refusal| refusal.is(missing)), "{missing}");
        }
        for outcome in
            [Errno::PERM, Errno::NOMEM, Errno::NOBUFS, Errno::BUSY, Errno::EXIST, Errno::AGAIN].map(refused)
        {
            assert_eq!(lack(outcome.clone()), None, "{outcome:?}");
        }
        assert_eq!((lack(Outcome::Done), lack(Outcome::Unknown)), (None, None));
    }

    #[test]
    fn an_unusable_scheduler_is_shown_so_that_a_terminal_survives_it() {
        let reason = io::Error::from(Errno::NOENT);
        let error = SchedulerError { name: "r\u{1b}r".into(), reason, usable: vec![] };
        assert_eq!(
            error.to_string(),
            "IPVS scheduler \"r\\u{1b}r\" cannot be used on this kernel (No such file or directory (os error 2))"
        );
    }
}
