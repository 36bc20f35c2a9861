//! `ipvsadm -Sn` compared with what kube-proxy's ipvs mode programs for the same objects (contract 4.4, 4.5, 5.2 and
//! 15.3).
//!
//! `tests/ipvsadm/NAME/cluster.yaml`: manifests; `arguments`, if present: command line arguments. `ipvsadm.txt`: the
//! rules in the format of `ipvsadm --save`, sorted. A line that begins with `-` and a space is kube-proxy's alone, one
//! that begins with `+` and a space is ours alone, and the line `# ...` before it says why. Every node here has
//! `192.168.0.1` and `fd0f::1` on eth0 and `10.9.0.1` on eth1, and is called node1.

#[path = "common/lab.rs"]
#[expect(dead_code, unused_imports, unused_macros, reason = "each test program uses its own part of this")]
mod lab;
#[path = "common/proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod proxy;

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use lab::shell;
use proxy::Proxy;

fn main() -> std::process::ExitCode {
    lab::run_trials(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ipvsadm");
        let mut folders: Vec<PathBuf> =
            fs::read_dir(root).expect("cases").map(|entry| entry.expect("an entry").path()).collect();
        folders.sort();
        folders.into_iter().map(trial).collect()
    })
}

fn trial(folder: PathBuf) -> Trial {
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    Trial::test(name, move || {
        // A thread has a namespace of its own.
        let run = std::thread::spawn(move || compare(&folder));
        run.join().map_err(|_| "see above".into())
    })
}

fn compare(folder: &Path) {
    lab::new_namespace();
    shell(
        "sysctl -qw net.ipv6.conf.default.accept_dad=0
         for n in 0 1; do ip link add eth$n type dummy; ip link set eth$n up; done
         ip address add 192.168.0.1/24 dev eth0
         ip address add fd0f::1/64 dev eth0
         ip address add 10.9.0.1/24 dev eth1",
    );
    let expected = fs::read_to_string(folder.join("ipvsadm.txt")).expect("what is expected");
    let arguments = fs::read_to_string(folder.join("arguments")).unwrap_or_default();
    let manifests = folder.join("cluster.yaml");
    let mut all = vec!["--manifests", manifests.to_str().expect("a path"), "--hostname-override", "node1"];
    all.extend(arguments.split_whitespace());
    let logs = tempfile::tempdir().expect("a folder");
    let mut proxy = Proxy::start(logs.path(), "node1", &all);
    proxy.wait_synced();

    let mut wanted: Vec<&str> = Vec::new();
    let mut reason = None;
    for line in expected.lines().filter(|line| !line.is_empty()) {
        match line.split_once(' ') {
            Some(("#", text)) => reason = Some(text),
            Some(("-", _)) => assert!(reason.is_some(), "{line}: without a reason"),
            Some(("+", ours)) => {
                assert!(reason.is_some(), "{line}: without a reason");
                wanted.push(ours);
            }
            _ => {
                reason = None;
                wanted.push(line);
            }
        }
    }
    wanted.sort_unstable();
    let saved = shell("ipvsadm --save --numeric");
    let mut there: Vec<&str> = saved.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    there.sort_unstable();
    assert_eq!(there, wanted, "{}\n{}", folder.display(), proxy.log());
}
