//! The settings of a pod: two variables, and the files of its service account.

use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::Path;

use kube::Config;
use kube::config::AuthInfo;

use super::Error;

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Reads the settings.
pub(super) fn settings() -> Result<Config, Error> {
    if let Some(variable) = missing_variable(|name| std::env::var_os(name)) {
        return Err(Error::NotInCluster(variable));
    }
    if let Some(server) = service_address(|name| std::env::var_os(name)) {
        tracing::warn!(
            server = ?server,
            "The API server's address is a Service address, which this program itself has to serve: on a node that \
             has just booted it would wait forever. Give another address, in a kubeconfig or by the variables \
             KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, unless another program serves this one"
        );
    }
    read(|name| std::env::var_os(name), Path::new(SERVICE_ACCOUNT))
}

/// Reads the variables and the folder. Of the folder's files, `namespace` is not read, as in client-go: a volume that
/// somebody assembled may not have one.
pub(super) fn read(lookup: impl Fn(&str) -> Option<OsString>, folder: &Path) -> Result<Config, Error> {
    let error = |what: &dyn ToString, problem: String| Error::InCluster { what: what.to_string(), problem };
    let text = |name: &'static str| {
        let value = lookup(name).ok_or(Error::NotInCluster(name))?;
        let unusable =
            |value: OsString| error(&name, format!("{:?}: is not Unicode", value.to_string_lossy()));
        value.into_string().map_err(unusable)
    };
    let (host, port) = (text(HOST)?, text(PORT)?);
    let port: u16 = port.parse().map_err(|reason| {
        error(&PORT, format!("{port:?}: {reason}; a port is needed, a number from 1 to 65535"))
    })?;
    let in_url = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
    let server = format!("https://{in_url}:{port}").parse().map_err(|reason| {
        error(&HOST, format!("{host:?}: {reason}; an address or name is needed, without scheme and port"))
    })?;
    let authority = folder.join("ca.crt");
    let certificates = certificates(&authority).map_err(|problem| error(&authority.display(), problem))?;
    let mut config = Config::new(server);
    config.root_cert = Some(certificates);
    config.root_cert_file = Some(authority);
    let token_file = Some(folder.join("token").to_string_lossy().into_owned());
    config.auth_info = AuthInfo { token_file, ..AuthInfo::default() };
    Ok(config)
}

/// The certificates in a file, as the bytes of each.
fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let parts = pem::parse_many(text).map_err(|error| format!("not PEM: {error}"))?;
    let certificates = parts.into_iter().filter(|part| part.tag() == "CERTIFICATE");
    Ok(certificates.map(pem::Pem::into_contents).collect())
}

/// The first variable that every pod has but that is missing here.
pub(super) fn missing_variable(lookup: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    let is_missing = |name: &&str| lookup(name).is_none_or(|value| value.is_empty());
    [HOST, PORT].into_iter().find(is_missing)
}

/// The address of the API server, unless somebody has replaced the Service's address by another one. kubelet sets
/// `KUBERNETES_PORT_443_TCP_ADDR` to the Service's address too, and nobody replaces that, since no client looks at it.
fn service_address(lookup: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    let server = lookup(HOST)?;
    let of_service = lookup("KUBERNETES_PORT_443_TCP_ADDR");
    of_service.is_none_or(|address| address == server).then_some(server)
}
