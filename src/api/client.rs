//! How to reach the API server: a kubeconfig, a URL, or the credentials of the pod.
//!
//! `--kubeconfig FILE` is read once. Files that it names are read again for every request where they hold a token, or a
//! client certificate and its key; the certificates of authorities are not. A credential plugin that it names is run again
//! when what it said runs out (`plugin`). `--master URL` replaces the server in it, or
//! stands alone, without credentials; with neither, the program is a pod and uses its service account (contract 10.4).
//!
//! Two things of kube's client are replaced. It repeats refused requests by itself, up to 15 times, before anyone
//! sees an error: that is off, since [`super::watch`] has a backoff of its own and health must see the failure. And
//! it takes a token file as it is, keeping it for a minute: here line ends are cut off, as client-go does (a
//! token written with `echo` works), and a rotated token counts from the next request on.

mod observe;
mod plugin;
mod renewed;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use kube::client::{Body, ClientBuilder};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

pub use self::observe::{Exchange, Observer};
use self::plugin::Plugin;

/// To establish a connection, TLS included. kube-proxy's is 30 s; a node that lost one of several API servers
/// should try the next one sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without being able to send a byte.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why there is no client. Each is one line that says where to look.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read.
    #[error("--kubeconfig {}: {error}", file.display())]
    Read {
        /// The kubeconfig.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The kubeconfig is not YAML, or not of a kubeconfig's shape.
    #[error("--kubeconfig {}: not a kubeconfig: {reason}", file.display())]
    Parse {
        /// The kubeconfig.
        file: PathBuf,
        /// What the parser says, with the place.
        reason: String,
    },
    /// A field of the kubeconfig is missing, or of no use.
    #[error("--kubeconfig {}: {field}: {problem}", file.display())]
    Field {
        /// The kubeconfig.
        file: PathBuf,
        /// The field's path, with the names of list entries: `clusters[lab].cluster.server`.
        field: String,
        /// What was found, and what is allowed.
        problem: String,
    },
    /// `--master` is not the URL of a server.
    #[error("--master {url:?}: {problem}")]
    Master {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Neither flag was given, and this is not a pod.
    #[error(
        "neither --kubeconfig nor --master is given, and this is not a pod: {0} is not set (or use --manifests, \
         which needs no API server)"
    )]
    NotInCluster(&'static str),
    /// A part of the pod's credentials is missing or broken.
    #[error("in-cluster credentials: {what}: {problem}")]
    InCluster {
        /// The file or variable.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server's certificate could not be verified by anything.
    #[error(
        "server {server}: no certificate authority is given ({hint}), and the system's own certificates cannot \
         be used: {reason}"
    )]
    NoAuthority {
        /// The server's URL.
        server: String,
        /// Where one would be given.
        hint: String,
        /// Why the system's are of no use.
        reason: String,
    },
    /// The client cannot be made, for another reason: a client certificate without its key, a plugin that fails.
    #[error("{origin}: {reason}")]
    Client {
        /// Where the settings are from.
        origin: String,
        /// What kube's client says.
        reason: String,
    },
}

/// Makes the client for what the flags `--kubeconfig` and `--master` say. It does not talk to the server yet.
/// Must run inside the tokio runtime that will carry the connections.
///
/// # Errors
/// [`Error`], for a configuration that cannot work.
pub async fn connect(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Client, Error> {
    connect_observed(kubeconfig, master, Arc::new(|_| {})).await
}

/// The same; the observer is told of every request.
///
/// # Errors
/// [`Error`], for a configuration that cannot work.
pub async fn connect_observed(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    observer: Observer,
) -> Result<Client, Error> {
    match (kubeconfig, master) {
        (Some(file), master) => from_kubeconfig(file, master, observer).await,
        (None, Some(url)) => {
            let config = Config::new(server_url(url, false).map_err(|problem| master_error(url, problem))?);
            build(config, &Origin::Master, observer).await
        }
        (None, None) => {
            tracing::info!(
                "Neither kubeconfig file nor master URL was specified, falling back to in-cluster config"
            );
            build(in_cluster()?, &Origin::Pod, observer).await
        }
    }
}

/// Where settings are from, for messages.
enum Origin {
    /// `--kubeconfig`; the cluster and the user.
    File { file: PathBuf, cluster: String, user: String },
    /// `--master` alone.
    Master,
    /// The pod's service account.
    Pod,
}

impl Origin {
    fn field(&self, field: String, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        match self {
            Self::File { file, .. } => Error::Field { file: file.clone(), field, problem },
            Self::Master => {
                Error::Client { origin: "--master".into(), reason: format!("{field}: {problem}") }
            }
            Self::Pod => Error::InCluster { what: field, problem },
        }
    }

    fn cluster_field(&self, name: &str) -> String {
        match self {
            Self::File { cluster, .. } => format!("clusters[{cluster}].cluster.{name}"),
            Self::Master | Self::Pod => name.into(),
        }
    }

    fn user_field(&self, name: &str) -> String {
        match self {
            Self::File { user, .. } => format!("users[{user}].user.{name}"),
            Self::Master | Self::Pod => name.into(),
        }
    }
}

async fn from_kubeconfig(file: &Path, master: Option<&str>, observer: Observer) -> Result<Client, Error> {
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => Error::Read { file: file.into(), error },
        KubeconfigError::Parse(error) => {
            Error::Parse { file: file.into(), reason: first_line(&error.to_string()) }
        }
        other => Error::Parse { file: file.into(), reason: first_line(&other.to_string()) },
    })?;
    let origin = check_references(file, &kubeconfig)?;
    let Origin::File { cluster: ref cluster_name, user: ref user_name, .. } = origin else {
        unreachable!("references are checked of files only")
    };
    let cluster = kubeconfig
        .clusters
        .iter_mut()
        .find(|named| named.name == *cluster_name)
        .and_then(|named| named.cluster.as_mut())
        .expect("references were checked");

    let user = kubeconfig.auth_infos.iter().find(|named| named.name == *user_name);
    let user = user.and_then(|named| named.auth_info.as_ref());
    let https_by_default = cluster.certificate_authority.is_some()
        || cluster.certificate_authority_data.is_some()
        || cluster.insecure_skip_tls_verify == Some(true)
        || user
            .is_some_and(|user| user.client_certificate.is_some() || user.client_certificate_data.is_some());
    let server = if let Some(url) = master {
        // As client-go: a server name that belongs to the file's server does not apply to another one.
        cluster.tls_server_name = None;
        server_url(url, https_by_default).map_err(|problem| master_error(url, problem))?
    } else {
        let field = origin.cluster_field("server");
        let url = cluster.server.as_deref().unwrap_or_default();
        if url.is_empty() {
            return Err(
                origin.field(field, "is not set: the URL of the API server is needed, here or by --master")
            );
        }
        server_url(url, https_by_default)
            .map_err(|problem| origin.field(field, format!("{url:?}: {problem}")))?
    };
    cluster.server = Some(server.to_string());
    if let Some(proxy) = cluster.proxy_url.as_deref().filter(|proxy| !proxy.is_empty()) {
        let problem = format!("{proxy:?}: proxies are not supported");
        return Err(origin.field(origin.cluster_field("proxy-url"), problem));
    }
    let files = [(origin.cluster_field("certificate-authority"), cluster.certificate_authority.clone())];
    let files = files.into_iter().chain(user.into_iter().flat_map(|user| {
        [
            (origin.user_field("client-certificate"), user.client_certificate.clone()),
            (origin.user_field("client-key"), user.client_key.clone()),
        ]
    }));
    for (field, path) in files {
        if let Some(path) = path {
            std::fs::File::open(&path).map_err(|error| origin.field(field, format!("{path}: {error}")))?;
        }
    }

    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| load_error(&origin, &error))?;
    // Taken from the environment (HTTPS_PROXY) where the file has none. The API server is never behind it.
    config.proxy_url = None;
    build(config, &origin, observer).await
}

/// Follows current-context to its cluster and user.
fn check_references(file: &Path, kubeconfig: &Kubeconfig) -> Result<Origin, Error> {
    let error = |field: String, problem: String| Error::Field { file: file.into(), field, problem };
    let context_names = || names(kubeconfig.contexts.iter().map(|named| named.name.as_str()));
    let current = kubeconfig.current_context.as_deref().unwrap_or_default();
    if current.is_empty() {
        let problem = format!("is not set; contexts of this file: {}", context_names());
        return Err(error("current-context".into(), problem));
    }
    let context = kubeconfig.contexts.iter().find(|named| named.name == current);
    let context = context.and_then(|named| named.context.as_ref()).ok_or_else(|| {
        let problem = format!("no context is named {current:?}; contexts of this file: {}", context_names());
        error("current-context".into(), problem)
    })?;
    if !kubeconfig.clusters.iter().any(|named| named.name == context.cluster && named.cluster.is_some()) {
        let there_are = names(kubeconfig.clusters.iter().map(|named| named.name.as_str()));
        let problem =
            format!("no cluster is named {:?}; clusters of this file: {there_are}", context.cluster);
        return Err(error(format!("contexts[{current}].context.cluster"), problem));
    }
    // No user at all is allowed, and means no credentials.
    let user = context.user.clone().unwrap_or_default();
    if !user.is_empty() && !kubeconfig.auth_infos.iter().any(|named| named.name == user) {
        let there_are = names(kubeconfig.auth_infos.iter().map(|named| named.name.as_str()));
        let problem = format!("no user is named {user:?}; users of this file: {there_are}");
        return Err(error(format!("contexts[{current}].context.user"), problem));
    }
    Ok(Origin::File { file: file.into(), cluster: context.cluster.clone(), user })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The URL of a server. Without a scheme it is http, or https where there is something to do TLS with, as for
/// client-go.
fn server_url(text: &str, https_by_default: bool) -> Result<http::Uri, String> {
    let text = text.trim();
    let with_scheme = match (text.contains("://"), https_by_default) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let uri: http::Uri = with_scheme
        .parse()
        .map_err(|error| format!("{error}; a URL like https://192.0.2.1:6443 is needed"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err("the scheme must be http or https".into()),
    }
}

fn master_error(url: &str, problem: String) -> Error {
    Error::Master { url: url.into(), problem }
}

fn load_error(origin: &Origin, error: &KubeconfigError) -> Error {
    let data = |error: &LoadDataError| match error {
        LoadDataError::DecodeBase64(error) => format!("not base64: {error}"),
        LoadDataError::ReadFile(error, path) => format!("{}: {error}", path.display()),
        LoadDataError::NoBase64DataOrFile => "is missing".into(),
    };
    match error {
        KubeconfigError::LoadCertificateAuthority(error @ LoadDataError::DecodeBase64(_)) => {
            origin.field(origin.cluster_field("certificate-authority-data"), data(error))
        }
        KubeconfigError::LoadCertificateAuthority(error) => {
            origin.field(origin.cluster_field("certificate-authority"), data(error))
        }
        KubeconfigError::ParseCertificates(error) => {
            origin.field(origin.cluster_field("certificate-authority"), format!("not PEM: {error}"))
        }
        KubeconfigError::LoadClientCertificate(error) => {
            origin.field(origin.user_field("client-certificate"), data(error))
        }
        KubeconfigError::LoadClientKey(error) => origin.field(origin.user_field("client-key"), data(error)),
        other => client_error(origin, &other.to_string()),
    }
}

fn client_error(origin: &Origin, reason: &str) -> Error {
    let origin = match origin {
        Origin::File { file, .. } => format!("--kubeconfig {}", file.display()),
        Origin::Master => "--master".into(),
        Origin::Pod => "in-cluster credentials".into(),
    };
    Error::Client { origin, reason: first_line(reason) }
}

fn in_cluster() -> Result<Config, Error> {
    if let Some(variable) = missing_variable(|name| std::env::var_os(name)) {
        return Err(Error::NotInCluster(variable));
    }
    if let Some(server) = service_address(|name| std::env::var_os(name)) {
        tracing::warn!(
            server = ?server,
            "The API server is reached by a service address, and this program is what serves those: on a node that has \
             just booted it would wait for ever. Name another address, in a kubeconfig or by the variables \
             KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, unless somebody else serves this one"
        );
    }
    let error = |what: &str, problem: String| Error::InCluster { what: what.into(), problem };
    Config::incluster().map_err(|reason| match reason {
        InClusterError::ReadDefaultNamespace(reason) => {
            error(&format!("{SERVICE_ACCOUNT}/namespace"), reason.to_string())
        }
        InClusterError::ReadCertificateBundle(reason) => {
            error(&format!("{SERVICE_ACCOUNT}/ca.crt"), reason.to_string())
        }
        InClusterError::ParseCertificates(reason) => {
            error(&format!("{SERVICE_ACCOUNT}/ca.crt"), format!("not PEM: {reason}"))
        }
        InClusterError::ParseClusterPort(reason) => error("KUBERNETES_SERVICE_PORT", reason.to_string()),
        InClusterError::ParseClusterUrl(reason) => error("KUBERNETES_SERVICE_HOST", reason.to_string()),
        InClusterError::ReadEnvironmentVariable(reason) => {
            error("KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT", reason.to_string())
        }
    })
}

/// Which of the variables that every pod has is not there.
fn missing_variable(lookup: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    let is_missing = |name: &&str| lookup(name).is_none_or(|value| value.is_empty());
    ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"].into_iter().find(is_missing)
}

/// The address of a pod's API server, unless somebody set another one in the place of the Service's: kubelet sets this
/// variable too, which nobody looks at.
fn service_address(lookup: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    let server = lookup("KUBERNETES_SERVICE_HOST")?;
    let of_service = lookup("KUBERNETES_PORT_443_TCP_ADDR");
    of_service.is_none_or(|address| address == server).then_some(server)
}

/// The last part, the same for all: timeouts, trust, token.
async fn build(mut config: Config, origin: &Origin, observer: Observer) -> Result<Client, Error> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Whoever reads has a limit: hyper-timeout's wakes the thread that waits for sockets at every byte that comes, to wait
    // again.
    config.read_timeout = None;
    config.write_timeout = Some(WRITE_TIMEOUT);
    config.default_retry = false;

    let authority_field = origin.cluster_field("certificate-authority");
    let verifies = config.cluster_url.scheme_str() == Some("https") && !config.accept_invalid_certs;
    match &config.root_cert {
        Some(certificates) if verifies && certificates.is_empty() => {
            return Err(origin.field(authority_field, "holds no certificate"));
        }
        // Where nothing is verified the system's certificates must not be asked for: an image without any is fine.
        None if !verifies => config.root_cert = Some(Vec::new()),
        _ => {}
    }
    let files = renewed::files(&config.auth_info);
    let plugin = Plugin::of(&mut config.auth_info);
    let token = match config.auth_info.token_file.take() {
        None => None,
        Some(path) => {
            // The file goes before a token in the kubeconfig, as for client-go.
            config.auth_info.token = None;
            let field = match origin {
                Origin::Pod => path.clone(),
                _ => origin.user_field("tokenFile"),
            };
            let problem = |error: String| if *field == path { error } else { format!("{path}: {error}") };
            Some(
                TokenFile::open(Path::new(&path))
                    .map_err(|error| origin.field(field.clone(), problem(error)))?,
            )
        }
    };

    let observe = observe::Layer::new(&config.cluster_url, observer);
    let server = config.cluster_url.to_string();
    let without_authority = config.root_cert.is_none() && config.root_cert_file.is_none();
    let token = token.map(Arc::new);
    let make = move |config: Config| -> Result<Client, kube::Error> {
        let builder = ClientBuilder::try_from(config)?.with_layer(&observe);
        Ok(match token.clone() {
            None => builder.build(),
            Some(token) => {
                let layer = MapRequestLayer::new(move |mut request: http::Request<Body>| {
                    request.headers_mut().insert(AUTHORIZATION, token.header());
                    request
                });
                builder.with_layer(&layer).build()
            }
        })
    };
    let client = if let Some(plugin) = plugin {
        let said = plugin.run().await;
        let said = said.map_err(|reason| origin.field(origin.user_field("exec"), reason))?;
        plugin::client(plugin, said, move |credentials| {
            let mut config = config.clone();
            credentials.give_to(&mut config.auth_info);
            make(config)
        })
    } else if files.is_empty() {
        make(config)
    } else {
        renewed::client(files, move || make(config.clone()))
    };
    client.map_err(|error| match error {
        kube::Error::RustlsTls(reason) if without_authority => Error::NoAuthority {
            server,
            hint: match origin {
                Origin::Master => "by a kubeconfig".into(),
                _ => authority_field,
            },
            reason: first_line(&reason.to_string()),
        },
        kube::Error::RustlsTls(reason) => client_error(origin, &format!("TLS: {reason}")),
        kube::Error::InferKubeconfig(reason) => load_error(origin, &reason),
        other => client_error(origin, &other.to_string()),
    })
}

/// A file with a token that someone else renews.
///
/// It is read for every request: there are few (three or four watches, opened every five to ten minutes), and the file
/// is small and in memory.
struct TokenFile {
    path: PathBuf,
    /// What was read last: used when the file is gone for a moment, or for good (some remove it after the start).
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { path: path.into(), last: Mutex::new(Self::read(path)?) })
    }

    fn read(path: &Path) -> Result<HeaderValue, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let token = text.trim();
        if token.is_empty() {
            return Err("the file is empty, a token is needed".into());
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The value of the header `Authorization`.
    fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = Self::read(&self.path) {
            *last = now;
        }
        last.clone()
    }
}

/// Parsers answer with drawings of several lines; a log line and an exit message have one.
fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
