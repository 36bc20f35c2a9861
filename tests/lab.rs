//! The lab's scripts.

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/lab.rs"]
mod lab;

use lab::shell;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![administrators_programs_are_found_on_the_hosts_kernel])
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab");

fn administrators_programs_are_found_on_the_hosts_kernel() {
    // The lab's kernel is such a host.
    let found = shell(&format!(
        "PATH=/usr/bin:/bin LAB_HOST=yes {FOLDER}/run.sh sh -c 'for name in ipvsadm nft sysctl; do command -v $name; done; echo $LAB'"
    ));
    let found: Vec<_> = found.lines().collect();
    assert!(matches!(found[..], [_, _, _, "host"]), "{found:?}");
}
