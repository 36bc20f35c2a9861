//! The unit in `deploy/systemd` under a systemd of its own, on a node with kube-proxy's configuration in its usual
//! place: the unit forbids nothing that the program needs.

use std::fs;

use serde_json::json;

use crate::control_plane::{NODE, cluster};
use crate::lab::{shell, try_shell};
use crate::objects::{service, slice};
use crate::proxy::Proxy;
use crate::table::shows;
use crate::tools::{kernel, wait_for};

/// A root of its own, with the host's programs, and systemd as its first process.
const BOOT: &str = "set -e
    mount -t tmpfs -o mode=755 tmpfs $root
    cd $root
    mkdir -p dev etc/systemd/system home old proc root run sys tmp usr var/lib/kube-proxy var/log
    for folder in bin lib lib64 sbin; do ln -s usr/$folder $folder; done
    mount --rbind /dev dev
    mount --bind /usr usr
    mount -o remount,bind,ro usr
    mount -t tmpfs tmpfs usr/local/bin
    cp $program usr/local/bin/kube-ipvs
    cp $files/* var/lib/kube-proxy
    # Only what the unit needs: the host's other units would start what the host has.
    cp $unit etc/systemd/system
    for target in sysinit basic shutdown umount network-online; do
        cp usr/lib/systemd/system/$target.target etc/systemd/system
    done
    mkdir etc/systemd/system/kube-ipvs.service.d
    # There is no journal.
    printf '[Service]\\nStandardOutput=append:/var/log/kube-ipvs\\n' >etc/systemd/system/kube-ipvs.service.d/log.conf
    echo 00000000000000000000000000000001 >etc/machine-id
    echo root:x:0:0::/root:/bin/sh >etc/passwd
    echo root:x:0: >etc/group
    # A misspelt setting would only be ignored.
    found=$(systemd-analyze verify --root=$root kube-ipvs.service 2>&1) || { echo \"$found\"; exit 1; }
    [ -z \"$found\" ] || { echo \"$found\"; exit 1; }
    mount -t tmpfs tmpfs run
    # It has the control groups below its own, and no others.
    mount -t cgroup2 cgroup2 old
    mkdir -p old/kube-ipvs-systemd
    echo $$ >old/kube-ipvs-systemd/cgroup.procs
    umount old
    exec unshare --cgroup --ipc --uts --pid --fork --kill-child sh -ec '
        mount -t proc proc proc
        mount -t sysfs sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        pivot_root . old
        umount -l old
        exec env -i container=lab PATH=/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \\
            /usr/lib/systemd/systemd --unit=kube-ipvs.service --log-target=null --show-status=no'";

pub fn the_unit_runs_under_systemd() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for name in ["root", "files"] {
        fs::create_dir(path(name)).unwrap();
    }
    let kubeconfig = fs::read_to_string(cluster.kubeconfig()).unwrap();
    assert!(kubeconfig.contains("certs/apiserver.crt"), "{kubeconfig}");
    fs::write(path("files/kubeconfig"), kubeconfig.replace("certs/apiserver.crt", "ca.crt")).unwrap();
    fs::copy(cluster.certificate(), path("files/ca.crt")).unwrap();
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs",
        "clientConnection": {"kubeconfig": "/var/lib/kube-proxy/kubeconfig"},
        "hostnameOverride": NODE, "clusterCIDR": "10.244.0.0/16,fd00:10:244::/56",
    });
    fs::write(path("files/config.conf"), configuration.to_string()).unwrap();
    cluster.create(service("web", json!({"clusterIP": "10.96.1.1", "ports": [{"port": 80}]})));
    cluster.create(slice("web-1", "web", &[("", 8080, "TCP")], &["10.244.0.1"]));

    let variables = [
        ("root", path("root")),
        ("files", path("files")),
        ("program", env!("CARGO_BIN_EXE_kube-ipvs").to_owned()),
        ("unit", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/kube-ipvs.service").to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let manager = Proxy::of_shell(folder.path(), "systemd", BOOT, &variables);
    let mut first = None;
    wait_for("systemd starts", 30, || {
        first = children(manager.id()).into_iter().find(|id| name(*id) == "systemd");
        first.is_some() || !manager.log().is_empty()
    });
    assert_eq!(manager.log(), "");
    let first = first.expect("it runs");
    let log = || fs::read_to_string(format!("/proc/{first}/root/var/log/kube-ipvs")).unwrap_or_default();
    let systemctl = |what: &str| {
        try_shell(&format!(
            "nsenter --target {first} --mount --pid --cgroup systemctl --no-pager {what} kube-ipvs"
        ))
    };
    let told = || format!("{}\n{}", systemctl("status").1, log());
    let synced = || {
        let log = log();
        log.lines().filter(|line| line.contains("First sync complete")).map(str::to_owned).collect::<Vec<_>>()
    };
    let syncs = |times: usize| {
        wait_for(&format!("it has synced {times} times\n{}", told()), 60, || synced().len() == times);
    };
    let runs = || children(first).into_iter().find(|id| name(*id) == "kube-ipvs");

    syncs(1);
    shows(&cluster, &web(&["10.244.0.1"]), &["10.96.1.1"]);
    let id = runs().unwrap_or_else(|| panic!("{}", told()));
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    // CAP_NET_ADMIN and CAP_NET_RAW; a filter of system calls.
    for line in ["NoNewPrivs:\t1", "CapBnd:\t0000000000003000", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is missing:\n{status}");
    }
    // The limit of tracked connections belongs to the machine, and this node is a network namespace.
    let refused = |line: &&str| {
        ["Cannot", "cannot", "refuses", "denied"].iter().any(|word| line.contains(word))
            && !line.contains("nf_conntrack_max")
    };
    assert_eq!(log().lines().find(refused), None, "{}", told());

    // Killed, it is started again, and continues where it was.
    let before = kernel();
    shell(&format!("kill -9 {id}"));
    syncs(2);
    assert_ne!(runs(), Some(id), "{}", told());
    assert_eq!(kernel(), before);
    assert!(synced()[1].contains("writes=0"), "{}", log());
    cluster.create(slice("web-2", "web", &[("", 8080, "TCP")], &["10.244.0.2"]));
    shows(&cluster, &web(&["10.244.0.1", "10.244.0.2"]), &["10.96.1.1"]);

    // Stopped, it leaves the data plane as it is, and has not failed.
    let before = kernel();
    let (stopped, output) = systemctl("stop");
    assert!(stopped && runs().is_none(), "{output}\n{}", told());
    // systemd remembers a failure.
    assert_eq!(systemctl("show --property Result").1, "Result=success\n", "{}", told());
    assert!(log().contains("\"Stopping; the data plane stays as it is\" signal=\"SIGTERM\""), "{}", log());
    assert_eq!(kernel(), before);

    // Control groups, which the kernel would keep.
    drop(manager);
    let groups = path("root");
    wait_for("its control groups are empty", 10, || {
        try_shell(&format!(
            "mount -t cgroup2 cgroup2 {groups}
             find {groups}/kube-ipvs-systemd -depth -type d -exec rmdir {{}} +
             status=$?
             umount {groups}
             exit $status"
        ))
        .0
    });
}

fn web(endpoints: &[&str]) -> String {
    let servers = endpoints.iter().map(|address| format!("  -> {address}:8080 Masq 1 0 0\n"));
    ["TCP 10.96.1.1:80 rr\n".to_owned()].into_iter().chain(servers).collect()
}

/// The running child processes of a process.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let numbers = processes.filter_map(|name| name.to_str()?.parse().ok());
    // "1234 (its name) S 1 ..."
    let of_parent = |id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(&*parent.to_string())
    };
    numbers.filter(of_parent).collect()
}

fn name(id: u32) -> String {
    fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default().trim().to_owned()
}
