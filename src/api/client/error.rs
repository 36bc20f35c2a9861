//! Why there is no client.

use std::path::PathBuf;

/// Why there is no client. Each error is one line that says where to look.
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
    /// A field of the kubeconfig is missing or unusable.
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
    /// There is nothing to verify the server's certificate with.
    #[error(
        "server {server}: no certificate authority is given ({hint}), and the system's own certificates cannot \
         be used: {reason}"
    )]
    NoAuthority {
        /// The server's URL.
        server: String,
        /// Where an authority could be given.
        hint: String,
        /// Why the system's own certificates cannot be used.
        reason: String,
    },
    /// The client cannot be made, for another reason: a client certificate without its key, a plugin that fails.
    #[error("{origin}: {reason}")]
    Client {
        /// Where the settings come from.
        origin: String,
        /// What kube's client says.
        reason: String,
    },
}
