//! The image's file system, as `deploy/image/files.sh` makes it from this build: nothing outside it is visible.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

use super::kube_proxy::{Mode, NODES};
use super::kubeconfig::kubeconfig;
use super::proxy::Proxy;
use super::traffic::Traffic;
use super::{Before, lab, topology};

/// The file system of the image, in a folder.
fn image() -> String {
    lab::shell(concat!(
        "set -e
         root=$(mktemp -d)
         strip -o $root.binary ",
        env!("CARGO_BIN_EXE_kube-ipvs"),
        "
         ",
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/image/files.sh $root.binary $root
         rm $root.binary
         mkdir $root/manifests
         echo $root",
    ))
    .trim()
    .to_owned()
}

/// Runs the image's program for some seconds, with a kubeconfig that names no certificate authority, and returns its
/// log.
fn try_image(root: &str, server: &str) -> String {
    let cluster = format!("{{server: '{server}'}}");
    std::fs::write(format!("{root}/kubeconfig"), kubeconfig(&cluster, "{}")).expect("a file");
    lab::try_shell(&format!("timeout 5 chroot {root} /usr/local/bin/kube-proxy --kubeconfig /kubeconfig")).1
}

/// Without any certificates the program would end at once; with some it waits for an API server that answers.
pub(super) fn the_image_knows_authorities_for_a_kubeconfig_without_one() {
    let log = try_image(&image(), "https://127.0.0.1:1");
    assert!(log.contains("Connection refused"), "{log}");
}

/// Host names are resolved through `/etc/hosts`, which a container runtime writes, and through the name server in
/// `/etc/resolv.conf`.
pub(super) fn the_image_finds_the_api_server_by_its_name() {
    const IN_FILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const AT_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
    const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
    let root = image();
    std::fs::write(format!("{root}/etc/hosts"), format!("{IN_FILE} in-file.test\n")).expect("a file");
    std::fs::write(format!("{root}/etc/resolv.conf"), format!("nameserver {NAME_SERVER}\n")).expect("a file");
    let names = UdpSocket::bind((NAME_SERVER, 53)).expect("a name server");
    thread::spawn(move || serve_name(&names, AT_SERVER));
    for (name, address) in [("in-file.test", IN_FILE), ("at-server.test", AT_SERVER)] {
        let listener = TcpListener::bind((address, 0)).expect("an API server");
        let port = listener.local_addr().expect("its address").port();
        listener.set_nonblocking(true).expect("an API server that need not wait");
        let log = try_image(&root, &format!("https://{name}:{port}"));
        let asked = listener.accept().map(|(_, client)| client.ip());
        assert!(asked.is_ok_and(|client| client.is_loopback()), "{name}: {log}");
    }
}

/// Answers each question for an IPv4 address with this one, and all other questions with an empty answer.
fn serve_name(socket: &UdpSocket, address: Ipv4Addr) {
    const ANSWER: [u8; 2] = [0x81, 0x80];
    // The name in the question, type A, class IN, for a minute, four bytes.
    const RECORD: [u8; 12] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
    const IPV4: [u8; 2] = [0, 1];
    let mut question = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut question) {
        // After the header: the labels of the name and an empty one, then type and class.
        let name = question[12..length].iter().position(|byte| *byte == 0).expect("a name") + 12;
        let end = name + 5;
        let is_known = question[name + 1..name + 3] == IPV4;
        let mut answer = question[..end].to_vec();
        answer[2..4].copy_from_slice(&ANSWER);
        // One question, at most one answer, and nothing else.
        answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(is_known), 0, 0, 0, 0]);
        if is_known {
            answer.extend(RECORD.into_iter().chain(address.octets()));
        }
        socket.send_to(&answer, client).expect("a client");
    }
}

/// The image as the root of a process with the rights of `deploy/hardened` (and `chroot`, to get there). The iptables
/// mode leaves the parameters of IPVS as they are, so this works only if the init container sets them.
pub(super) fn the_image_takes_over_with_the_rights_of_the_hardened_daemonset() {
    const RUN: &str = "set -e
        # Volumes and what a container runtime mounts; then the root is read-only, and so are the kernel's parameters.
        mount --bind $root $root
        mount --bind $MANIFESTS $root/manifests
        mount -t tmpfs tmpfs $root/run
        mount -t proc proc $root/proc
        mount -t sysfs -o ro sysfs $root/sys
        set -- /usr/local/bin/kube-proxy --manifests /manifests --hostname-override $NODE --cluster-cidr $PODS
        # The init container.
        chroot $root \"$@\" --init-only
        mount --bind -o ro $root/proc/sys $root/proc/sys
        mount -o remount,bind,ro $root
        exec setpriv --bounding-set -all,+net_admin,+net_raw,+sys_chroot chroot $root \"$@\"";

    let root = image();
    let before = Before::new(Mode::Iptables);
    let traffic = Traffic::start(&before.cluster, &before.service);
    let manifests = before.cluster.manifests();
    for (node, _) in NODES {
        let (root, manifests) = (root.clone(), manifests.clone());
        let mut proxy = before.cluster.host(node).run(move || {
            let folder = tempfile::tempdir().expect("a folder").keep();
            Proxy::of_shell(
                &folder,
                node,
                RUN,
                &[
                    ("root", &root),
                    ("MANIFESTS", &manifests.to_string_lossy()),
                    ("NODE", node),
                    ("PODS", topology::POD_NETWORKS),
                ],
            )
        });
        proxy.wait_synced();
        before.wait_until_taken_over(node, &proxy);
        std::mem::forget(proxy);
    }
    traffic.end();
    before.assert_others_are_the_same();
    before.assert_new_service_is_reached();
}
