//! The configuration file, from the disk to the resulting options.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use kube_ipvs::options::merge::Merged;
use kube_ipvs::options::{Command, Source, from_args};

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Runs with `--config` and these other words.
fn run(text: &[u8], words: &[&str]) -> Result<Merged, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text).expect("a temporary file");
    let words = words.iter().map(OsString::from);
    let words = [OsString::from("--config"), file.path().into()].into_iter().chain(words);
    let result = from_args(words, std::iter::empty());
    match result {
        Ok(Command::Run(merged)) => Ok(*merged),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string().replace(&path(file.path()), "FILE")),
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_file_from_kubeadm_with_the_flags_from_kubeadm() {
    let text = format!(
        "{HEADER}bindAddress: 0.0.0.0\nclientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n\
         clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\nconntrack:\n  maxPerCore: null\nhealthzBindAddress: \"\"\n\
         hostnameOverride: \"\"\niptables:\n  masqueradeBit: null\n  syncPeriod: 0s\nipvs:\n  excludeCIDRs: null\n  \
         minSyncPeriod: 0s\n  scheduler: lc\n  tcpTimeout: 15m0s\nmetricsBindAddress: \"\"\nmode: ipvs\n\
         winkernel:\n  enableDSR: false\n"
    );
    let Merged { options, notices, .. } = run(text.as_bytes(), &["--hostname-override=Node-A"]).unwrap();
    let kubeconfig = Some("/var/lib/kube-proxy/kubeconfig.conf".into());
    assert_eq!(options.source, Source::Api { kubeconfig, master: None, protobuf: true });
    assert_eq!(&*options.node_name, "node-a");
    assert_eq!(&*options.proxy.scheduler, "lc");
    assert_eq!(options.proxy.timeouts.tcp_seconds, 900);
    assert_eq!(options.proxy.masquerade_mark, 0x4000);
    assert_eq!(options.proxy.cluster_cidrs.len(), 2);
    assert_eq!((options.sync_period, options.min_sync_period), (Duration::from_secs(30), Duration::ZERO));
    assert_eq!(options.healthz_address, "0.0.0.0:10256".parse().ok());
    assert_eq!(options.metrics_address, "127.0.0.1:10249".parse().ok());
    assert_eq!(notices, []);
}

/// The parser accepts a byte order mark before a comment, but not before the first key, as in the `ConfigMap`, nor
/// before `---`.
#[test]
fn a_byte_order_mark_says_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
    let kubeadm = text("kubeadm.yaml");
    let (comment, keys) = kubeadm.split_once('\n').expect("lines");
    assert!(comment.starts_with('#') && keys.starts_with("apiVersion: "), "{kubeadm}");
    for text in [keys, &kubeadm, &format!("---\n{keys}"), &text("json.json")] {
        let read = |text: &str| {
            let merged = run(text.as_bytes(), &["--hostname-override=node1"])
                .unwrap_or_else(|error| panic!("{error}"));
            (merged.configuration, merged.notices)
        };
        assert_eq!(read(&format!("\u{feff}{text}")), read(text), "{text}");
    }
}

#[test]
fn the_same_in_json() {
    let text = br#"{"kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "mode": "ipvs", "ipvs": {"udpTimeout": "1m"}, "logging": {"verbosity": 2}}"#;
    let options = run(text, &[]).unwrap().options;
    assert_eq!((options.proxy.timeouts.udp_seconds, options.verbosity), (60, 2));
}

#[test]
fn what_is_wrong_names_the_file_and_the_field() {
    for (body, line) in [
        (
            "ipvs:\n  tcpTimeout: 15\n",
            "failed to decode: ipvs.tcpTimeout: Invalid value: 15: a duration needs a unit: write for example 15s at \
             line 4 column 15",
        ),
        ("mode: [\n", "failed to decode: "),
        ("\tmode: ipvs\n", "failed to decode: "),
    ] {
        let error = run(format!("{HEADER}{body}").as_bytes(), &[]).unwrap_err();
        assert!(error.starts_with(&format!("failed complete: --config=FILE: {line}")), "{error}");
        assert!(error.contains(" line "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(
        run(format!("{HEADER}mode: iptables\niptables:\n  masqueradeBit: 40\n").as_bytes(), &[]).unwrap_err(),
        "failed validate: KubeProxyConfiguration.mode: Invalid value: \"iptables\": must be \"ipvs\" or empty; for mode \
         iptables use kube-proxy; KubeProxyConfiguration.iptables.masqueradeBit: Invalid value: \"40\": must be within \
         0 and 31"
    );
    assert_eq!(
        run(b"apiVersion: v1\nkind: Pod\n", &[]).unwrap_err(),
        "failed complete: --config=FILE: failed to decode: apiVersion: Invalid value: \"v1\": must be \
         \"kubeproxy.config.k8s.io/v1alpha1\""
    );
    assert_eq!(
        run(b"mode: \xff\n", &[]).unwrap_err(),
        "failed complete: --config=FILE: cannot read it: stream did not contain valid UTF-8"
    );
}

#[test]
fn unknown_fields_only_warn() {
    let merged = run(format!("{HEADER}ipvs:\n  scheduler: sh\n  ipSet: x\n").as_bytes(), &[]).unwrap();
    assert_eq!(&*merged.options.proxy.scheduler, "sh");
    assert_eq!(merged.notices[0].message, "Using lenient decoding as strict decoding failed");
    assert_eq!(merged.notices[0].detail, "unknown field \"ipvs.ipSet\"");
}

/// What configuration generators write: files of kubeadm, Kubespray and others, flags of kops and others (one per
/// line). All of them load, and the snapshots show the results.
#[test]
fn what_generators_write_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort_unstable();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        // Comes first, since a name in the flags overrides this one.
        let mut words = vec![OsString::from("--hostname-override=node1")];
        if file.extension() == Some(std::ffi::OsStr::new("flags")) {
            words.extend(std::fs::read_to_string(&file).expect("flags").lines().map(OsString::from));
        } else {
            words.extend(["--config".into(), file.into_os_string()]);
        }
        let merged = match from_args(words.into_iter(), std::iter::empty()) {
            Ok(Command::Run(merged)) => *merged,
            other => panic!("{name}: {other:?}"),
        };
        let Merged { mut options, notices, .. } = merged;
        // The path depends on where the tree is checked out.
        options.config_file = options.config_file.map(|path| path.file_name().expect("a name").into());
        insta::assert_debug_snapshot!(name, (options, notices));
    }
}
