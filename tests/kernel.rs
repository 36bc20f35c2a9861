//! The real kernel: what is written over netlink, read back with `ipvsadm`, `ip` and our own readers.

#[path = "kernel/addresses.rs"]
mod addresses;
#[path = "kernel/batches.rs"]
mod batches;
#[path = "kernel/build.rs"]
mod build;
#[path = "kernel/conntrack.rs"]
mod conntrack;
#[path = "kernel/device.rs"]
mod device;
#[path = "common/lab.rs"]
mod lab;
#[path = "kernel/node_addresses.rs"]
mod node_addresses;
#[path = "kernel/probe.rs"]
mod probe;
#[path = "kernel/reading.rs"]
mod reading;
#[path = "kernel/settings.rs"]
mod settings;
#[path = "kernel/speed.rs"]
mod speed;
#[path = "kernel/virtual_servers.rs"]
mod virtual_servers;

use lab::{Test, shell, try_shell};

fn main() -> std::process::ExitCode {
    const HERE: &[Test] = lab::tests![every_test_has_a_network_of_its_own];
    let all = [
        HERE,
        virtual_servers::TESTS,
        batches::TESTS,
        device::TESTS,
        addresses::TESTS,
        settings::TESTS,
        reading::TESTS,
        probe::TESTS,
        node_addresses::TESTS,
        conntrack::TESTS,
        speed::TESTS,
    ];
    lab::run(&all.concat())
}

fn every_test_has_a_network_of_its_own() {
    let addresses = shell("ip -br address");
    assert_eq!(
        addresses.lines().filter(|line| line.split_whitespace().count() > 2).count(),
        1,
        "{addresses}"
    );
    assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    lab::new_namespace();
    assert_eq!(shell("ip -br address"), addresses);
    let (success, output) = try_shell("ip link show kube-ipvs0");
    assert!(!success && output.contains("does not exist"), "{output}");
}
