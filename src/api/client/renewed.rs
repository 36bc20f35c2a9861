//! Client certificates that somebody else renews in place, as kubelet and cert-manager do.
//!
//! kube's client reads them once, when it is made: after they have expired, every new connection would be refused. So
//! the files are read again for each request (there are few, see [`TokenFile`](super::TokenFile)), and another client
//! is made when their contents have changed. Watches go on over the connections of the previous client.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Error};
use tower::service_fn;

use crate::telemetry::Said;

/// The files that the certificate and its key are read from, if they are not in the kubeconfig itself.
pub(super) fn files(user: &AuthInfo) -> Vec<PathBuf> {
    let certificate = user.client_certificate.as_ref().filter(|_| user.client_certificate_data.is_none());
    let key = user.client_key.as_ref().filter(|_| user.client_key_data.is_none());
    certificate.into_iter().chain(key).map(PathBuf::from).collect()
}

/// A client that is made anew whenever the contents of these files have changed.
///
/// # Errors
/// If it cannot be made for the first time.
pub(super) fn client<M>(files: Vec<PathBuf>, make: M) -> Result<Client, Error>
where
    M: Fn() -> Result<Client, Error> + Send + 'static,
{
    let read = contents(&files);
    let client = make()?;
    let namespace = client.default_namespace().to_owned();
    let renewed = Mutex::new(Renewed { files, make, read, client, said: Said::default() });
    let send = move |request: http::Request<Body>| {
        let client = renewed.lock().unwrap_or_else(PoisonError::into_inner).client();
        async move { client.send(request).await }
    };
    Ok(Client::new(service_fn(send), namespace))
}

struct Renewed<M> {
    files: Vec<PathBuf>,
    make: M,
    /// The contents of the files from which the client was made.
    read: Option<Vec<Vec<u8>>>,
    client: Client,
    /// What was logged about why no other client could be made.
    said: Said,
}

impl<M: Fn() -> Result<Client, Error>> Renewed<M> {
    /// The client for the current contents of the files. While they cannot be read, or do not fit together, as may
    /// happen for a moment, the previous client is used. The next request tries again: the cause may be in another
    /// file, that of the authorities.
    fn client(&mut self) -> Client {
        let now = contents(&self.files);
        if now.is_some() && now != self.read {
            match (self.make)() {
                Ok(client) => {
                    tracing::info!("The client certificate was renewed");
                    self.client = client;
                    self.read = now;
                    self.said.over();
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.said.is_news(&error, Instant::now()) {
                        tracing::warn!(
                            err = error,
                            "The renewed client certificate cannot be used, keeping the previous one"
                        );
                    }
                }
            }
        }
        self.client.clone()
    }
}

fn contents(files: &[PathBuf]) -> Option<Vec<Vec<u8>>> {
    files.iter().map(|file| std::fs::read(file).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::telemetry;

    /// A client that answers everything with the current contents of this file; an error if those are "broken".
    fn made_of(file: &std::path::Path) -> Result<Client, Error> {
        let text = std::fs::read_to_string(file).unwrap();
        if text == "broken" {
            return Err(Error::TlsRequired);
        }
        let answer = move |_: http::Request<Body>| {
            let answer = http::Response::new(Body::from(text.clone().into_bytes()));
            async { Ok::<_, Infallible>(answer) }
        };
        Ok(Client::new(service_fn(answer), "default"))
    }

    #[tokio::test]
    async fn what_is_in_the_files_counts_once_it_can_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        std::fs::write(&certificate, "first").unwrap();
        std::fs::write(&key, "").unwrap();
        let file = certificate.clone();
        let client = client(vec![certificate.clone(), key.clone()], move || made_of(&file)).unwrap();
        let ask =
            async || client.request_text(http::Request::get("/").body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(ask().await, "first");
        for (written, wanted) in [("second", "second"), ("broken", "second"), ("third", "third")] {
            std::fs::write(&certificate, written).unwrap();
            assert_eq!(ask().await, wanted);
            assert_eq!(ask().await, wanted);
        }
        std::fs::remove_file(&key).unwrap();
        std::fs::write(&certificate, "without a key").unwrap();
        assert_eq!(ask().await, "third", "the other half is to come");
        std::fs::write(&key, "key").unwrap();
        assert_eq!(ask().await, "without a key");
    }

    /// This is what happens when the file of the authorities is being written at that moment.
    #[tokio::test]
    async fn what_was_of_no_use_is_tried_again() {
        let (log, _listening) = telemetry::tests::listen();
        let folder = tempfile::tempdir().unwrap();
        let [certificate, authority] = ["certificate", "authority"].map(|name| folder.path().join(name));
        std::fs::write(&certificate, "first").unwrap();
        std::fs::write(&authority, "here").unwrap();
        let files = (certificate.clone(), authority.clone());
        let client = client(vec![certificate.clone()], move || {
            made_of(&files.1)?;
            made_of(&files.0)
        });
        let client = client.unwrap();
        let ask =
            async || client.request_text(http::Request::get("/").body(Vec::new()).unwrap()).await.unwrap();
        std::fs::write(&authority, "broken").unwrap();
        std::fs::write(&certificate, "second").unwrap();
        for _ in 0..3 {
            assert_eq!(ask().await, "first");
        }
        assert_eq!(
            log.lines_with("The renewed client certificate cannot be used").len(),
            1,
            "{:?}",
            log.lines()
        );
        std::fs::write(&authority, "here again").unwrap();
        assert_eq!(ask().await, "second");
    }

    #[test]
    fn only_files_that_are_read_are_looked_at() {
        let of = |text: &str| {
            let user: AuthInfo = serde_json::from_str(text).unwrap();
            files(&user).into_iter().map(|file| file.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of(r#"{"client-certificate": "a", "client-key": "b"}"#), ["a", "b"]);
        assert_eq!(of(r#"{"client-certificate": "a", "client-key-data": "Yg=="}"#), ["a"]);
        assert_eq!(of(r#"{"client-certificate-data": "YQ==", "client-key": "b"}"#), ["b"]);
        assert_eq!(of(r#"{"token": "a"}"#), [""; 0]);
    }
}
