//! A running kube-proxy.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::control_plane::ControlPlane;
use crate::kube_proxy::{Mode, Variant};
use crate::lab;
use crate::proxy::eventually;
use crate::topology;

/// The program, or why it is missing.
pub(crate) fn path() -> Result<PathBuf, String> {
    let path = std::env::var_os("KUBE_PROXY").ok_or("KUBE_PROXY is not set")?;
    let path = PathBuf::from(path);
    if path.exists() { Ok(path) } else { Err(format!("KUBE_PROXY: there is no {}", path.display())) }
}

/// A kube-proxy on a node. It is killed when this is dropped.
pub(crate) struct KubeProxy {
    node: &'static str,
    child: Child,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it, and waits until both families are written.
    pub(crate) fn start(
        cluster: &Cluster,
        control_plane: &ControlPlane,
        node: &'static str,
        mode: Mode,
        variant: Variant,
    ) -> Self {
        let log = std::env::temp_dir().join(format!("kube-proxy-{node}.log"));
        let file = File::create(&log).unwrap();
        let mut command = Command::new(path().expect("callers check that there is one"));
        command
            .env("PATH", path_with(variant))
            .arg("--kubeconfig")
            .arg(control_plane.kubeconfig())
            .args(["--hostname-override", node, "--cluster-cidr", topology::POD_NETWORKS, "-v", "2"])
            .args(["--proxy-mode", mode.word()])
            // Machine-wide settings of connection tracking cannot be changed in a namespace.
            .args(["--conntrack-max-per-core", "0", "--conntrack-min", "0"])
            // Its ipvs mode deletes other people's virtual servers: those of `crate::others` are in these networks.
            .args(["--ipvs-exclude-cidrs", "203.0.113.0/24,192.168.0.0/24"])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        // Its ipvs mode enables this, and its other modes leave it to the node.
        cluster.host(node).shell("sysctl -qw net.ipv4.ip_forward=1");
        let child = cluster.host(node).run(move || command.spawn().unwrap());
        let proxy = Self { node, child, log };
        proxy.wait_synced(cluster);
        proxy
    }

    fn wait_synced(&self, cluster: &Cluster) {
        // Its start mainly consists of thousands of processes, which take minutes in the lab, and longer on a busy
        // machine.
        let synced = eventually(Duration::from_mins(15), || {
            // Each look costs it processor time.
            thread::sleep(Duration::from_millis(500));
            let metrics = cluster.host(self.node).run(metrics).unwrap_or_default();
            let written = |family: &&str| {
                let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
                metrics.contains(&format!("\n{name}{{ip_family=\"{family}\"}} "))
            };
            ["IPv4", "IPv6"].iter().all(written)
        });
        assert!(synced, "kube-proxy does not sync:\n{}", fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its metrics, in one piece: HTTP 1.0 has no chunks.
fn metrics() -> io::Result<String> {
    let mut stream = TcpStream::connect("127.0.0.1:10249")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A `PATH` in which the iptables names without a variant stand for this variant.
fn path_with(variant: Variant) -> String {
    let word = variant.word();
    let folder = std::env::temp_dir().join(word);
    let folder = folder.display();
    lab::shell(&format!(
        "mkdir -p {folder}
         for tool in iptables ip6tables; do
           for what in '' -save -restore; do
             ln -sf \"$(command -v $tool-{word}$what)\" {folder}/$tool$what
           done
         done"
    ));
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}
