//! Credential plugins: a program that a kubeconfig names (`users[].user.exec`) prints a token, or a client certificate
//! with its key, as an `ExecCredential` of `client.authentication.k8s.io`.
//!
//! kube's client runs plugins too, but runs them again only for tokens with an expiry: other tokens, and certificates,
//! are kept forever. It also waits for a plugin without limit, in a thread that nothing ends, and meanwhile starts
//! another one for each request. So plugins are run here, and another client is made from their credentials: shortly
//! before these expire, and after the server denied them (401), as in client-go. Watches go on over the connections of
//! the previous client.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Deserializer};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tower::service_fn;

use super::first_line;

/// How long a plugin may run: less than a request waits for its answer, so that the request can still succeed.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a plugin is left alone after a run.
const PAUSE: Duration = Duration::from_secs(5);
/// How long before its expiry a credential is renewed.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A plugin.
pub(super) struct Plugin {
    exec: ExecConfig,
    limit: Duration,
    pause: Duration,
}

/// What a plugin printed.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Credentials>,
}

/// The credentials that a plugin printed.
#[derive(Clone, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Credentials {
    #[serde(default, deserialize_with = "unless_empty")]
    token: Option<String>,
    #[serde(default, deserialize_with = "unless_empty")]
    client_certificate_data: Option<String>,
    #[serde(default, deserialize_with = "unless_empty")]
    client_key_data: Option<String>,
    expiration_timestamp: Option<Timestamp>,
}

/// A text; an empty one is treated as absent, as in client-go.
fn unless_empty<'de, D: Deserializer<'de>>(text: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(text)?.filter(|text| !text.is_empty()))
}

impl Credentials {
    /// Puts the credentials into a user, in place of those in the kubeconfig itself.
    pub(super) fn give_to(&self, user: &mut AuthInfo) {
        // Base64, as in Secrets and kubeconfigs.
        let base64 = |text: &str| {
            let text = serde_json::to_value(ByteString(text.into())).expect("bytes can be written");
            text.as_str().expect("as a string").to_owned()
        };
        if let Some(token) = &self.token {
            user.token = Some(token.clone().into());
        }
        if let (Some(certificate), Some(key)) = (&self.client_certificate_data, &self.client_key_data) {
            user.client_certificate_data = Some(base64(certificate));
            user.client_key_data = Some(base64(key).into());
        }
    }

    fn expire_soon(&self) -> bool {
        self.expiration_timestamp.is_some_and(|end| Timestamp::now() + MARGIN >= end)
    }
}

impl Plugin {
    /// Takes the plugin out of a user, and returns it if it is to be run: all other credentials of the user take
    /// precedence.
    pub(super) fn of(user: &mut AuthInfo) -> Option<Self> {
        let exec = user.exec.take()?;
        let has_certificate = (user.client_certificate.is_some() || user.client_certificate_data.is_some())
            && (user.client_key.is_some() || user.client_key_data.is_some());
        let is_known = user.token.is_some()
            || user.token_file.is_some()
            || user.auth_provider.is_some()
            || has_certificate
            || (user.username.is_some() && user.password.is_some());
        (!is_known).then_some(Self { exec, limit: LIMIT, pause: PAUSE })
    }

    /// Runs the program. If the future is dropped, it kills the program and everything that the program started.
    ///
    /// # Errors
    /// One line, without anything that was printed on standard output, which may be a secret.
    pub(super) async fn run(&self) -> Result<Credentials, String> {
        let name = self.exec.command.as_deref().ok_or("command: is not set")?;
        if self.exec.interactive_mode == Some(ExecInteractiveMode::Always) {
            return Err("interactiveMode: is \"Always\", and there is no terminal to answer on".to_owned());
        }
        let output = self.output(name).await.map_err(|error| {
            let hint = self.exec.install_hint.as_deref().map(first_line).unwrap_or_default();
            let colon = if hint.is_empty() { "" } else { ": " };
            format!("{name}: {error}{colon}{hint}")
        })?;
        if !output.status.success() {
            let said = first_line(&String::from_utf8_lossy(&output.stderr));
            return Err(format!("{name}: {}: {said}", output.status));
        }
        let wrong = |what: &str| format!("{name}: {what}");
        let credentials: ExecCredential = serde_json::from_slice(&output.stdout).map_err(|error| {
            wrong(&format!("printed no ExecCredential (line {}, column {})", error.line(), error.column()))
        })?;
        let credentials = credentials.status.ok_or_else(|| wrong("printed no status"))?;
        match (&credentials.client_certificate_data, &credentials.client_key_data) {
            (Some(_), None) => Err(wrong("printed a certificate without its key")),
            (None, Some(_)) => Err(wrong("printed a key without its certificate")),
            (None, None) if credentials.token.is_none() => {
                Err(wrong("printed neither a token nor a certificate"))
            }
            _ => Ok(credentials),
        }
    }

    async fn output(&self, name: &str) -> std::io::Result<Output> {
        let mut command = Command::new(name);
        command.args(self.exec.args.iter().flatten());
        let variables = self.exec.env.iter().flatten();
        command.envs(variables.filter_map(|variable| Some((variable.get("name")?, variable.get("value")?))));
        let cluster = self.exec.cluster.as_ref().filter(|_| self.exec.provide_cluster_info);
        let mut about = serde_json::json!({
            "apiVersion": self.exec.api_version,
            "kind": "ExecCredential",
            "spec": {"interactive": false},
        });
        if let Some(cluster) = cluster {
            about["spec"]["cluster"] = serde_json::to_value(cluster)?;
        }
        command.env("KUBERNETES_EXEC_INFO", about.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The program gets a process group of its own, so that whatever it starts ends with it.
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
        let output = timeout(self.limit, child.wait_with_output()).await.map_err(|_| {
            std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("did not finish within {:?}", self.limit),
            )
        })??;
        group.has_ended();
        Ok(output)
    }
}

/// A process group, which is killed on drop unless it has ended.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A client that is made anew from the plugin's credentials whenever those have run out, or were denied.
///
/// # Errors
/// If it cannot be made from the plugin's first credentials.
pub(super) fn client<M>(plugin: Plugin, first: Credentials, make: M) -> Result<Client, kube::Error>
where
    M: Fn(&Credentials) -> Result<Client, kube::Error> + Send + Sync + 'static,
{
    let client = make(&first)?;
    let namespace = client.default_namespace().to_owned();
    let now = Now { client, credentials: first, number: 1, ran: Instant::now(), told: None };
    let renewed = Arc::new(Renewed { plugin, make, now: Mutex::new(now), denied: AtomicU64::new(0) });
    let send = move |request: Request<Body>| {
        let renewed = Arc::clone(&renewed);
        async move {
            let (client, number) = renewed.client().await;
            let answer = client.send(request).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                renewed.denied.fetch_max(number, Ordering::Relaxed);
            }
            Ok::<_, kube::Error>(answer)
        }
    };
    Ok(Client::new(service_fn(send), namespace))
}

struct Renewed<M> {
    plugin: Plugin,
    make: M,
    /// Locked while the plugin runs: there is never a second run.
    now: Mutex<Now>,
    /// The number of the newest credentials that were denied.
    denied: AtomicU64,
}

struct Now {
    client: Client,
    credentials: Credentials,
    /// The number of these credentials, counted from 1.
    number: u64,
    /// When the plugin last started or ended.
    ran: Instant,
    /// Why it last failed, as it was logged.
    told: Option<String>,
}

impl<M: Fn(&Credentials) -> Result<Client, kube::Error>> Renewed<M> {
    /// The client for the plugin's latest credentials, and their number. While the plugin fails, that is the previous
    /// client.
    async fn client(&self) -> (Client, u64) {
        let mut now = self.now.lock().await;
        let is_denied = self.denied.load(Ordering::Relaxed) == now.number;
        if (is_denied || now.credentials.expire_soon()) && now.ran.elapsed() >= self.plugin.pause {
            // Set before the run too: if the request is given up, this future is dropped.
            now.ran = Instant::now();
            let ended = self.plugin.run().await;
            now.ran = Instant::now();
            let made = ended.and_then(|credentials| {
                let made = (self.make)(&credentials);
                made.map(|client| (client, credentials)).map_err(|error| first_line(&error.to_string()))
            });
            match made {
                Ok((client, credentials)) => {
                    tracing::debug!("The credential plugin renewed the credentials");
                    (now.client, now.credentials, now.told) = (client, credentials, None);
                    now.number += 1;
                }
                Err(reason) if now.told.as_ref() != Some(&reason) => {
                    tracing::warn!(
                        err = reason,
                        "The credential plugin failed, keeping its previous credentials"
                    );
                    now.told = Some(reason);
                }
                Err(_) => {}
            }
        }
        (now.client.clone(), now.number)
    }
}

#[cfg(test)]
mod tests;
