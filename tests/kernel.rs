//! The real kernel: what is written over netlink, read back with `ipvsadm`, `ip` and our own readers.

#[path = "common/lab.rs"]
mod lab;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![every_test_has_a_network_of_its_own])
}

fn every_test_has_a_network_of_its_own() {
    let addresses = lab::shell("ip -br address");
    assert_eq!(
        addresses.lines().filter(|line| line.split_whitespace().count() > 2).count(),
        1,
        "{addresses}"
    );
    assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    lab::new_namespace();
    assert_eq!(lab::shell("ip -br address"), addresses);
    let (success, output) = lab::try_shell("ip link show kube-ipvs0");
    assert!(!success && output.contains("does not exist"), "{output}");
}
