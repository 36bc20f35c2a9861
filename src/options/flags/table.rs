//! All flags: what each is called, what it says about itself, and what it sets.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Flags, VersionForm};
use crate::options::duration::GoDuration;

/// What a flag takes.
pub(super) enum Kind {
    /// Nothing, or a truth value behind `=`.
    Switch,
    /// A value; the name is shown in the help.
    Value(&'static str),
}

/// One flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) kind: Kind,
    /// Whether a configuration file replaces it: it is then ignored on the command line (contract 1.3).
    pub(super) replaced_by_file: bool,
    /// Shown in the help where not empty; the values themselves are in `merge`.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) set: fn(&mut Flags, &OsStr) -> Result<(), String>,
}

/// All flags, in the order of the help.
pub(super) static FLAGS: &[Flag] = &[
    Flag {
        name: "config",
        short: None,
        kind: Kind::Value("file"),
        replaced_by_file: false,
        default: "",
        help: "A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), YAML or JSON. The settings in it replace \
               their flags; --hostname-override, --master, --manifests and -v still count",
        set: |flags, value| {
            flags.config = non_empty(value).map(PathBuf::from);
            Ok(())
        },
    },
    Flag {
        name: "kubeconfig",
        short: None,
        kind: Kind::Value("file"),
        replaced_by_file: true,
        default: "",
        help: "The kubeconfig file that says how to reach the API server. Without it and --master: the credentials of \
               the pod",
        set: |flags, value| {
            flags.settings.kubeconfig = non_empty(value).map(PathBuf::from);
            Ok(())
        },
    },
    Flag {
        name: "master",
        short: None,
        kind: Kind::Value("url"),
        replaced_by_file: false,
        default: "",
        help: "The URL of the API server, instead of the one in the kubeconfig",
        set: |flags, value| {
            flags.master = non_empty(value).map(text).transpose()?.map(str::to_owned);
            Ok(())
        },
    },
    Flag {
        name: "manifests",
        short: None,
        kind: Kind::Value("path"),
        replaced_by_file: false,
        default: "",
        help: "A file, or a folder of files, with Services, EndpointSlices and Nodes in YAML or JSON, watched for \
               changes; no API server is used. May be given several times",
        set: |flags, value| {
            let path = non_empty(value).ok_or("must be the path of a file or a folder")?;
            flags.manifests.push(PathBuf::from(path));
            Ok(())
        },
    },
    Flag {
        name: "hostname-override",
        short: None,
        kind: Kind::Value("name"),
        replaced_by_file: false,
        default: "",
        help: "The name of this node, instead of the host's name",
        set: |flags, value| {
            flags.settings.hostname_override = non_empty(value).map(text).transpose()?.map(str::to_owned);
            Ok(())
        },
    },
    Flag {
        name: "proxy-mode",
        short: None,
        kind: Kind::Value("mode"),
        replaced_by_file: true,
        default: "ipvs",
        help: "ipvs is the only mode of this program",
        set: |flags, value| {
            flags.settings.mode = Some(text(value)?.to_owned());
            Ok(())
        },
    },
    Flag {
        name: "ipvs-scheduler",
        short: None,
        kind: Kind::Value("name"),
        replaced_by_file: true,
        default: "rr",
        help: "The scheduler of all virtual servers: any that the kernel has (rr, wrr, lc, wlc, sh, mh, ...)",
        set: |flags, value| {
            flags.settings.scheduler = Some(text(value)?.to_owned());
            Ok(())
        },
    },
    Flag {
        name: "ipvs-tcp-timeout",
        short: None,
        kind: Kind::Value("duration"),
        replaced_by_file: true,
        default: "0s",
        help: "How long an idle TCP connection is kept; 0 leaves the kernel's value",
        set: |flags, value| {
            flags.settings.tcp_timeout = Some(duration(value)?);
            Ok(())
        },
    },
    Flag {
        name: "ipvs-tcpfin-timeout",
        short: None,
        kind: Kind::Value("duration"),
        replaced_by_file: true,
        default: "0s",
        help: "How long a TCP connection is kept after a FIN; 0 leaves the kernel's value",
        set: |flags, value| {
            flags.settings.tcp_fin_timeout = Some(duration(value)?);
            Ok(())
        },
    },
    Flag {
        name: "ipvs-udp-timeout",
        short: None,
        kind: Kind::Value("duration"),
        replaced_by_file: true,
        default: "0s",
        help: "How long a UDP flow is kept after its last packet; 0 leaves the kernel's value",
        set: |flags, value| {
            flags.settings.udp_timeout = Some(duration(value)?);
            Ok(())
        },
    },
    Flag {
        name: "ipvs-min-sync-period",
        short: None,
        kind: Kind::Value("duration"),
        replaced_by_file: true,
        default: "0s",
        help: "The least time between two writes to the kernel; 0 writes each change at once",
        set: |flags, value| {
            flags.settings.min_sync_period = Some(duration(value)?);
            Ok(())
        },
    },
    Flag {
        name: "ipvs-sync-period",
        short: None,
        kind: Kind::Value("duration"),
        replaced_by_file: true,
        default: "30s",
        help: "A change that is not in the kernel after twice this time makes the node unhealthy",
        set: |flags, value| {
            flags.settings.sync_period = Some(duration(value)?);
            Ok(())
        },
    },
    Flag {
        name: "ipvs-exclude-cidrs",
        short: None,
        kind: Kind::Value("cidr,..."),
        replaced_by_file: true,
        default: "",
        help: "Virtual servers with addresses in these networks are never deleted, whoever made them",
        set: |flags, value| {
            let list = flags.settings.exclude_cidrs.get_or_insert_default();
            list.extend(text(value)?.split(',').filter(|_| !value.is_empty()).map(str::to_owned));
            Ok(())
        },
    },
    Flag {
        name: "cluster-cidr",
        short: None,
        kind: Kind::Value("cidr[,cidr]"),
        replaced_by_file: true,
        default: "",
        help: "The network of the pods, at most one per IP family; other sources are masqueraded",
        set: |flags, value| {
            flags.settings.cluster_cidr = Some(text(value)?.to_owned());
            Ok(())
        },
    },
    Flag {
        name: "masquerade-all",
        short: None,
        kind: Kind::Switch,
        replaced_by_file: true,
        default: "",
        help: "Masquerade all traffic to service addresses",
        set: |flags, value| {
            flags.settings.masquerade_all = Some(truth(value)?);
            Ok(())
        },
    },
    Flag {
        name: "iptables-masquerade-bit",
        short: None,
        kind: Kind::Value("bit"),
        replaced_by_file: true,
        default: "14",
        help: "The bit of the packet mark (0 to 31) that stands for masquerading",
        set: |flags, value| {
            flags.settings.masquerade_bit = Some(integer(value)?);
            Ok(())
        },
    },
    Flag {
        name: "healthz-bind-address",
        short: None,
        kind: Kind::Value("ip:port"),
        replaced_by_file: true,
        default: "0.0.0.0:10256",
        help: "Where /healthz and /livez answer; empty: nowhere",
        set: |flags, value| {
            flags.settings.healthz_bind_address = Some(text(value)?.to_owned());
            Ok(())
        },
    },
    Flag {
        name: "metrics-bind-address",
        short: None,
        kind: Kind::Value("ip:port"),
        replaced_by_file: true,
        default: "127.0.0.1:10249",
        help: "Where /metrics and /proxyMode answer; empty: nowhere",
        set: |flags, value| {
            flags.settings.metrics_bind_address = Some(text(value)?.to_owned());
            Ok(())
        },
    },
    Flag {
        name: "v",
        short: Some('v'),
        kind: Kind::Value("level"),
        replaced_by_file: false,
        default: "0",
        help: "How much is logged",
        set: |flags, value| {
            flags.settings.verbosity = Some(integer(value)?);
            Ok(())
        },
    },
    Flag {
        name: "cleanup",
        short: None,
        kind: Kind::Switch,
        replaced_by_file: false,
        default: "",
        help: "Remove everything of this program and of kube-proxy in all its modes from the kernel, say what, and \
               exit. Virtual servers in --ipvs-exclude-cidrs stay",
        set: |flags, value| {
            flags.cleanup = truth(value)?;
            Ok(())
        },
    },
    Flag {
        name: "cleanup-own",
        short: None,
        kind: Kind::Switch,
        replaced_by_file: false,
        default: "",
        help: "The way back: remove what only this program has (its nftables tables, its accept in FORWARD), say \
               what, and exit. Virtual servers and kube-ipvs0 stay for the kube-proxy that runs now",
        set: |flags, value| {
            flags.cleanup_own = truth(value)?;
            Ok(())
        },
    },
    Flag {
        name: "version",
        short: None,
        kind: Kind::Switch,
        replaced_by_file: false,
        default: "",
        help: "Print the version and exit; --version=raw prints all that is known of the build",
        set: |flags, value| {
            flags.version = match value.as_bytes() {
                b"raw" => Some(VersionForm::Raw),
                _ => truth(value)
                    .map_err(|_| "must be true, false or raw".to_owned())?
                    .then_some(VersionForm::Plain),
            };
            Ok(())
        },
    },
    Flag {
        name: "help",
        short: Some('h'),
        kind: Kind::Switch,
        replaced_by_file: false,
        default: "",
        help: "Print this text and exit",
        set: |flags, value| {
            flags.help = truth(value)?;
            Ok(())
        },
    },
];

fn non_empty(value: &OsStr) -> Option<&OsStr> {
    (!value.is_empty()).then_some(value)
}

fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "must be UTF-8".to_owned())
}

fn duration(value: &OsStr) -> Result<GoDuration, String> {
    text(value)?.parse().map_err(|error: crate::options::duration::DurationError| error.to_string())
}

/// Go's `strconv.ParseBool`.
fn truth(value: &OsStr) -> Result<bool, String> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Go's `strconv.ParseInt` with base 0: `14`, `0x0e`, `0o16`, `016`, `0b1110`.
fn integer(value: &OsStr) -> Result<i64, String> {
    let text = text(value)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let only_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let number = only_digits.then(|| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok());
    number.flatten().ok_or_else(|| "must be a whole number".to_owned())
}
