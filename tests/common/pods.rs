//! Pods: network namespaces behind the caller's.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::shell;

/// Creates a pod in a network namespace of its own, with a route to everything through the caller's.
pub(crate) fn pod(name: &str, address: &str, gateway: &str) {
    shell(&format!(
        "ip netns add {name}
         ip link add {name} type veth peer name eth0 netns {name}
         ip addr add {gateway}/32 dev {name}
         ip link set {name} up
         ip -n {name} link set lo up
         ip -n {name} addr add {address}/32 dev eth0
         ip -n {name} link set eth0 up
         ip -n {name} route add {gateway} dev eth0
         ip -n {name} route add default via {gateway}
         ip route add {address} dev {name}"
    ));
}

/// Runs something on a thread in the network namespace of a pod.
pub(crate) fn in_pod<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> T {
    in_namespace_of(Path::new(&format!("/run/netns/{name}")), run)
}

/// Runs something on a thread in the network namespace of a file.
pub(crate) fn in_namespace_of<T: Send>(file: &Path, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = File::open(file).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("into the namespace");
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
