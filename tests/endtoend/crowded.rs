//! A system without room for another thread.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::lab::shell;
use crate::proxy::Proxy;
use crate::tools::{ipvsadm, wait_for};
use crate::{folder, put, web};

/// How long tokio keeps an idle thread, by default.
const KEPT: Duration = Duration::from_secs(10);

/// Like a cgroup that has reached its limit of processes. A limit on a user's processes refuses threads with the same
/// error, but does not apply to root, nor to processes with the capability to ignore it.
pub(crate) fn manifests_are_read_where_no_thread_can_be_started() {
    let folder = folder();
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).expect("a folder");
    put(&manifests, "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let lines = "capabilities=+net_admin,+dac_override
        exec setpriv --reuid 65533 --inh-caps=$capabilities --ambient-caps=$capabilities \"$PROGRAM\" \
            --manifests \"$MANIFESTS\" --cluster-cidr 10.244.0.0/16 --hostname-override node1";
    let path = manifests.to_string_lossy();
    let variables = [("PROGRAM", env!("CARGO_BIN_EXE_kube-ipvs")), ("MANIFESTS", &*path)];
    let mut proxy = Proxy::of_shell(folder.path(), "crowded", lines, &variables);
    proxy.wait_synced();
    shell(&format!("prlimit --pid {} --nproc=1:1", proxy.id()));
    thread::sleep(KEPT + Duration::from_secs(2));
    put(&manifests, "web.yaml", &web("10.96.0.2", &["10.244.0.2"]));
    wait_for("the change is written", 10, || ipvsadm().contains("10.96.0.2:80"));
    let (status, log) = proxy.terminate();
    assert_eq!(status, Some(0), "{log}");
}
