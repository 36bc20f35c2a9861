//! How to reach the API server: a kubeconfig, a URL, or the credentials of the pod.
//!
//! `--kubeconfig FILE` is read once. Of the files that it names, token files and client certificates with their keys
//! are read again for every request, certificates of authorities once a minute. A credential plugin that it names is
//! run again when its credentials run out (`plugin`). `--master URL` replaces the server in the kubeconfig or, on its
//! own, is a server without credentials. With neither flag, the program is a pod and uses its service account
//! (contract 10.4).
//!
//! Three behaviours of kube's client are replaced. It repeats refused requests up to 15 times before anyone sees an
//! error; here nothing is repeated, since [`super::watch`] has its own backoff and health must see the failure. It
//! takes a token file as it is and keeps it for a minute; here line ends are cut off, as in client-go (so a token
//! written with `echo` works), and a rotated token counts from the next request on. And it may try only the first
//! address of a name (`stack`).

mod error;
mod in_cluster;
mod kubeconfig;
mod observe;
mod origin;
mod plugin;
mod renewed;
mod stack;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{AUTHORIZATION, USER_AGENT};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

pub use self::error::Error;
pub use self::observe::{Exchange, Observer};
use self::origin::{Origin, client_error, load_error};
use self::plugin::Plugin;
use self::token::TokenFile;

/// How long it may take to establish a connection, TLS included. kube-proxy allows 30 s; a node that lost one of
/// several API servers should try the next one sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be unable to send a byte.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the client that the flags `--kubeconfig` and `--master` describe. It does not talk to the server yet. Must run
/// inside the tokio runtime that will carry the connections.
///
/// # Errors
/// [`Error`], for a configuration that cannot work.
pub async fn connect(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Client, Error> {
    connect_observed(kubeconfig, master, Arc::new(|_| {})).await
}

/// Like [`connect`]; the observer is told of every request.
///
/// # Errors
/// [`Error`], for a configuration that cannot work.
pub async fn connect_observed(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    observer: Observer,
) -> Result<Client, Error> {
    let (config, origin) = match (kubeconfig, master) {
        (Some(file), master) => kubeconfig::settings(file, master).await?,
        (None, Some(url)) => (kubeconfig::of_master(url)?, Origin::Master),
        (None, None) => {
            tracing::info!(
                "Neither kubeconfig file nor master URL was specified, falling back to in-cluster config"
            );
            (in_cluster::settings()?, Origin::Pod)
        }
    };
    build(config, &origin, observer).await
}

/// The last part, common to all origins: time limits, trust, credentials.
async fn build(mut config: Config, origin: &Origin, observer: Observer) -> Result<Client, Error> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // All readers have limits of their own. The one of hyper-timeout would wake the thread that waits for sockets at
    // every byte received, only to make it wait again.
    config.read_timeout = None;
    config.write_timeout = Some(WRITE_TIMEOUT);
    settle_trust(&mut config, origin)?;
    config.headers.push((USER_AGENT, user_agent()));
    let files = renewed::files(&config.auth_info);
    let plugin = Plugin::of(&mut config.auth_info);
    let token = take_token(&mut config, origin)?.map(Arc::new);

    let observe = observe::Layer::new(&config.cluster_url, observer);
    let server = config.cluster_url.to_string();
    let without_authority = config.root_cert.is_none() && config.root_cert_file.is_none();
    let make = move |config: Config| -> Result<Client, kube::Error> {
        let service = stack::service(&config)?;
        let builder = ClientBuilder::new(service, config.default_namespace).with_layer(&observe);
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
                _ => origin.cluster_field("certificate-authority"),
            },
            reason: first_line(&reason.to_string()),
        },
        kube::Error::RustlsTls(reason) => client_error(origin, &format!("TLS: {reason}")),
        kube::Error::InferKubeconfig(reason) => load_error(origin, &reason),
        other => client_error(origin, &other.to_string()),
    })
}

/// The name of this program in the API server's audit logs, in the form of Kubernetes' own programs.
fn user_agent() -> HeaderValue {
    let (version, system, machine) =
        (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    HeaderValue::try_from(format!("kube-ipvs/v{version} ({system}/{machine})")).expect("visible letters")
}

/// Settles what the server's certificate is verified with.
fn settle_trust(config: &mut Config, origin: &Origin) -> Result<(), Error> {
    let verifies = config.cluster_url.scheme_str() == Some("https") && !config.accept_invalid_certs;
    match &config.root_cert {
        Some(certificates) if verifies && certificates.is_empty() => {
            Err(origin.field(origin.cluster_field("certificate-authority"), "holds no certificate"))
        }
        // If nothing is verified, the system's certificates must not be asked for: an image without any is fine.
        None if !verifies => {
            config.root_cert = Some(Vec::new());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The file that holds the token, if there is one. It takes precedence over a token in the kubeconfig, as in client-go.
fn take_token(config: &mut Config, origin: &Origin) -> Result<Option<TokenFile>, Error> {
    let Some(path) = config.auth_info.token_file.take() else {
        return Ok(None);
    };
    config.auth_info.token = None;
    let file = TokenFile::open(Path::new(&path)).map_err(|problem| match origin {
        // Here the file itself is the field.
        Origin::Pod => origin.field(path.clone(), problem),
        _ => origin.field(origin.user_field("tokenFile"), format!("{path}: {problem}")),
    })?;
    Ok(Some(file))
}

/// The first line of a parser's answer. Parsers draw over several lines, but a log line and an exit message have only
/// one.
fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
