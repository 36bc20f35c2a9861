//! Where the settings of a client come from, and how an error names that place.

use std::path::PathBuf;

use kube::config::{KubeconfigError, LoadDataError};

use super::{Error, first_line};

/// Where settings come from, for messages.
pub(super) enum Origin {
    /// `--kubeconfig`, with the names of the cluster and the user.
    File { file: PathBuf, cluster: String, user: String },
    /// `--master` alone.
    Master,
    /// The pod's service account.
    Pod,
}

impl Origin {
    /// An error about this field.
    pub(super) fn field(&self, field: String, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        match self {
            Self::File { file, .. } => Error::Field { file: file.clone(), field, problem },
            Self::Master => {
                Error::Client { origin: "--master".into(), reason: format!("{field}: {problem}") }
            }
            Self::Pod => Error::InCluster { what: field, problem },
        }
    }

    /// The path of a field that belongs to the cluster.
    pub(super) fn cluster_field(&self, name: &str) -> String {
        match self {
            Self::File { cluster, .. } => format!("clusters[{cluster}].cluster.{name}"),
            Self::Master | Self::Pod => name.into(),
        }
    }

    /// The path of a field that belongs to the user.
    pub(super) fn user_field(&self, name: &str) -> String {
        match self {
            Self::File { user, .. } => format!("users[{user}].user.{name}"),
            Self::Master | Self::Pod => name.into(),
        }
    }
}

/// The error for settings that kube's client cannot load.
pub(super) fn load_error(origin: &Origin, error: &KubeconfigError) -> Error {
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

/// The error for a problem that no single field causes.
pub(super) fn client_error(origin: &Origin, reason: &str) -> Error {
    let origin = match origin {
        Origin::File { file, .. } => format!("--kubeconfig {}", file.display()),
        Origin::Master => "--master".into(),
        Origin::Pod => "in-cluster credentials".into(),
    };
    Error::Client { origin, reason: first_line(reason) }
}
