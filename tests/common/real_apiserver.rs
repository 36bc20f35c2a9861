//! The real API machinery, as processes: `etcd` and `kube-apiserver` from the folder that `KUBEBUILDER_ASSETS` names
//! (envtest's convention), on free ports and in a temporary folder.
//!
//! There are two users: `admin`, who may do everything, and `system:kube-proxy`, who may do what RBAC's role
//! `system:node-proxier` allows. The processes end when the value is dropped, by their process ids.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kube_ipvs::api::client::connect;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::{Builder, Runtime};

use super::kubeconfig::kubeconfig;

/// How long a process may take to become ready; it takes 2 to 5 s on a quiet machine, and half a minute in the lab.
const READY: Duration = Duration::from_mins(3);

/// The folder with the programs, or why they are missing.
pub fn assets() -> Result<PathBuf, String> {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").ok_or("KUBEBUILDER_ASSETS is not set")?;
    let folder = PathBuf::from(folder);
    for program in ["etcd", "kube-apiserver"] {
        if !folder.join(program).exists() {
            return Err(format!("KUBEBUILDER_ASSETS: {} has no {program}", folder.display()));
        }
    }
    Ok(folder)
}

/// A running cluster without nodes.
pub struct RealApiServer {
    folder: TempDir,
    assets: PathBuf,
    flags: Vec<String>,
    /// The address on which the API server listens, also after restarts.
    pub address: Ipv4Addr,
    /// The port on which the API server listens, also after restarts.
    pub port: u16,
    etcd_port: u16,
    etcd: Child,
    server: Option<Child>,
}

/// The token of `system:kube-proxy` in the group `system:node-proxier`.
#[allow(dead_code, reason = "each test program uses its own part of this")]
pub const PROXY_TOKEN: &str = "proxy";

impl RealApiServer {
    /// Starts both, with these flags for the API server in addition to the usual ones, and waits until it is ready.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, flags).await
    }

    /// Does the same, on this address of the host.
    pub async fn start_at(address: Ipv4Addr, flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), address, flags).await
    }

    /// Does the same, with the data of another server's etcd: see [`RealApiServer::end`].
    pub async fn start_with(data: &Path, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-r").arg(data).arg(folder.path().join("etcd")).status();
        assert!(copied.unwrap().success(), "{} can be copied", data.display());
        Self::start_in(folder, Ipv4Addr::LOCALHOST, flags).await
    }

    /// Does the same for callers without a runtime; returns one, too, and a client of `admin`.
    #[allow(dead_code, reason = "each test program uses its own part of this")]
    pub fn with_runtime(address: Ipv4Addr, flags: &[&str]) -> (Runtime, Self, kube::Client) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (server, admin) = runtime.block_on(async {
            let server = Self::start_at(address, flags).await;
            let admin = server.client("admin").await;
            (server, admin)
        });
        (runtime, server, admin)
    }

    async fn start_in(folder: TempDir, address: Ipv4Addr, flags: &[&str]) -> Self {
        let assets = assets().expect("callers check that there are assets");
        let [port, etcd_port, peer_port] = free_ports();
        let tokens = "admin,admin,1,\"system:masters\"\n\
                      proxy,system:kube-proxy,2,\"system:node-proxier\"\n\
                      nobody,nobody,3\n";
        std::fs::write(folder.path().join("tokens.csv"), tokens).unwrap();
        let etcd = Command::new(assets.join("etcd"))
            .arg(format!("--data-dir={}", folder.path().join("etcd").display()))
            .args(["--unsafe-no-fsync", "--log-level=error", "--logger=zap"])
            .arg(format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"))
            .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer_port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(folder.path(), "etcd.log"))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server = Self { folder, assets, flags, address, port, etcd_port, etcd, server: None };
        for user in ["admin", "proxy", "nobody"] {
            server.kubeconfig_at(user, server.port);
        }
        server.restart().await;
        server
    }

    /// Whether the API server runs.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// Starts the API server again, on the same port and etcd, and waits until it is ready.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "it is running");
        let certificates = self.path("certs");
        let key = certificates.join("apiserver.key");
        let child = Command::new(self.assets.join("kube-apiserver"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--bind-address={}", self.address))
            .arg(format!("--advertise-address={}", self.address))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", certificates.display()))
            .arg(format!("--token-auth-file={}", self.path("tokens.csv").display()))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"])
            // kube-apiserver requires these flags; it creates the key pair itself.
            .args([
                "--service-account-issuer=https://127.0.0.1",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(self.folder.path(), "apiserver.log"))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.server = Some(child);
        let begun = Instant::now();
        while !self.is_ready().await {
            let ended = self.server.as_mut().and_then(|child| child.try_wait().unwrap());
            if ended.is_some() || begun.elapsed() > READY {
                let log = std::fs::read_to_string(self.path("apiserver.log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(10).collect();
                panic!("kube-apiserver does not become ready ({ended:?}):\n{}", end.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        // The certificate is created at the first start.
        let Ok(client) = connect(Some(&self.kubeconfig("admin")), None).await else { return false };
        let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
        client.request_text(request).await.is_ok_and(|text| text == "ok")
    }

    /// Ends the API server as a power failure would (`SIGKILL`), and waits until it is gone.
    pub async fn kill(&mut self) {
        self.server.take().expect("it is running").kill().await.unwrap();
    }

    /// Ends the API server properly (`SIGTERM`), and waits until it is gone.
    pub async fn stop(&mut self) {
        let mut child = self.server.take().expect("it is running");
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap()));
        kill_process(pid.expect("it was not waited for"), Signal::TERM).unwrap();
        child.wait().await.unwrap();
    }

    /// Ends both properly, and leaves etcd's data in this folder.
    pub async fn end(mut self, data: &Path) {
        self.stop().await;
        let pid = self.etcd.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap()));
        kill_process(pid.expect("it was not waited for"), Signal::TERM).unwrap();
        self.etcd.wait().await.unwrap();
        std::fs::rename(self.path("etcd"), data).unwrap();
    }

    /// Makes etcd forget everything but the present.
    pub async fn compact(&self) {
        let etcd = connect(None, Some(&format!("http://127.0.0.1:{}", self.etcd_port))).await.unwrap();
        let ask = async |path: &str, body: String| {
            let request = http::Request::post(path).body(body.into_bytes()).unwrap();
            etcd.request::<serde_json::Value>(request).await.unwrap()
        };
        let status = ask("/v3/maintenance/status", "{}".into()).await;
        let revision = status["header"]["revision"].as_str().expect("etcd knows its revision");
        ask("/v3/kv/compaction", format!("{{\"revision\": \"{revision}\", \"physical\": true}}")).await;
    }

    /// The kubeconfig of `admin`, `proxy` or `nobody`.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("{user}-{}.kubeconfig", self.port))
    }

    /// The kubeconfig of a user for a server that is reached on another port.
    pub fn kubeconfig_at(&self, user: &str, port: u16) -> PathBuf {
        let file = self.path(&format!("{user}-{port}.kubeconfig"));
        let server = format!("https://{}:{port}", self.address);
        let cluster = format!("{{server: {server}, certificate-authority: certs/apiserver.crt}}");
        std::fs::write(&file, kubeconfig(&cluster, &format!("{{token: {user}}}"))).unwrap();
        file
    }

    /// A client of a user.
    pub async fn client(&self, user: &str) -> kube::Client {
        connect(Some(&self.kubeconfig(user)), None).await.unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn log(folder: &Path, name: &str) -> Stdio {
    let mut file = std::fs::File::options().append(true).create(true).open(folder.join(name)).unwrap();
    file.flush().unwrap();
    file.into()
}

/// Ports that are free at this moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
