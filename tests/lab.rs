//! The lab's scripts.

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/lab.rs"]
mod lab;

use lab::shell;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        administrators_programs_are_found_on_the_hosts_kernel,
        what_a_killed_build_left_goes_with_the_next_one,
    ])
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

fn what_a_killed_build_left_goes_with_the_next_one() {
    // A build that ends before it begins: its packages cannot be installed.
    let left = shell(&format!(
        r#"dir=$(mktemp -d); cd "$dir"
        cp {FOLDER}/kernel.sh {FOLDER}/uml.config .
        printf '#!/bin/sh\nexit 1\n' >packages.sh; chmod +x packages.sh
        cache=$dir/kube-ipvs-lab
        mkdir -p "$cache/.build-linux-killed" "$cache/.build-others" "$cache/linux-source-0-0"
        touch "$cache/.build-linux-killed.log" "$cache/.build-linux-killed/Makefile"
        build() {{ XDG_CACHE_HOME=$dir LAB_KERNEL=linux-source-0.0 timeout 2 ./kernel.sh && echo "it was built"; }}
        # Not while somebody else builds.
        flock "$cache/lock" sleep 3 & sleep 0.5
        build
        [ -d "$cache/.build-linux-killed" ] || echo "it was in use"
        wait
        build
        ls -A "$cache"; rm -rf "$dir""#
    ));
    let lines: Vec<_> = left.lines().filter(|line| !line.starts_with("lab: ")).collect();
    assert_eq!(lines, [".build-others", "linux-source-0-0", "lock"], "{left}");
}
