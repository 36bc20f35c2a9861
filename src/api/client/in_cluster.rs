//! The settings of a pod: two variables, and the files of its service account.

use std::ffi::OsString;

use kube::Config;
use kube::config::InClusterError;

use super::Error;

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Reads the settings.
pub(super) fn settings() -> Result<Config, Error> {
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
pub(super) fn missing_variable(lookup: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
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
