//! The settings in a kubeconfig: its current context, that context's cluster and user, and what they refer to.

use std::path::Path;

use kube::Config;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret as _;

use super::origin::{Origin, load_error};
use super::{Error, first_line};

/// Reads the settings, and opens the files for which kube's client would report an error without naming the field.
pub(super) async fn settings(file: &Path, master: Option<&str>) -> Result<(Config, Origin), Error> {
    if ends_within_a_character(file) {
        let reason = "the file is UTF-16 and ends in the middle of a character".into();
        return Err(Error::Parse { file: file.into(), reason });
    }
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => Error::Read { file: file.into(), error },
        KubeconfigError::Parse(error) => {
            Error::Parse { file: file.into(), reason: first_line(&error.to_string()) }
        }
        other => Error::Parse { file: file.into(), reason: first_line(&other.to_string()) },
    })?;
    check_names(file, &kubeconfig)?;
    let current = current(file, &kubeconfig)?;
    let cluster = kubeconfig
        .clusters
        .iter_mut()
        .find(|named| named.name == current.cluster)
        .and_then(|named| named.cluster.as_mut())
        .expect("it was seen to be there");

    let user = kubeconfig.auth_infos.iter_mut().find(|named| named.name == current.user);
    let origin = Origin::File { file: file.into(), cluster: current.cluster, user: current.user };
    let mut user = user.and_then(|named| named.auth_info.as_mut());
    take_empty_out(file, cluster, user.as_deref_mut());
    let user = user.as_deref();
    let https_by_default = cluster.certificate_authority.is_some()
        || cluster.certificate_authority_data.is_some()
        || cluster.insecure_skip_tls_verify == Some(true)
        || user
            .is_some_and(|user| user.client_certificate.is_some() || user.client_certificate_data.is_some());
    let server = if let Some(url) = master {
        // As in client-go: a server name that belongs to the file's server does not apply to another one.
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

    // As in client-go: data in the kubeconfig itself takes precedence over a file.
    let authority = cluster.certificate_authority.clone();
    let authority = authority.filter(|_| cluster.certificate_authority_data.is_none());
    // Without a proxy URL here, kube's client looks at the environment's (HTTPS_PROXY), which may not even be a URL.
    // The API server is never behind that proxy.
    cluster.proxy_url = Some(server.to_string());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| load_error(&origin, &error))?;
    config.proxy_url = None;
    config.root_cert_file = authority.map(Into::into);
    if let Some(told) = config.auth_info.exec.as_mut().and_then(|exec| exec.cluster.as_mut()) {
        told.proxy_url = None;
    }
    Ok((config, origin))
}

/// Removes empty values: for client-go they are not set.
fn take_empty_out(file: &Path, cluster: &mut Cluster, user: Option<&mut AuthInfo>) {
    // Relative paths have already been joined to the folder, even an empty one.
    let nothing = file.parent().map(|folder| folder.join("").into_os_string());
    let path = |field: &mut Option<String>| {
        field.take_if(|path| {
            path.is_empty() || nothing.as_deref().is_some_and(|nothing| nothing == path.as_str())
        });
    };
    let text = |field: &mut Option<String>| {
        field.take_if(|text| text.is_empty());
    };
    path(&mut cluster.certificate_authority);
    text(&mut cluster.certificate_authority_data);
    text(&mut cluster.tls_server_name);
    let Some(user) = user else { return };
    for field in [&mut user.token_file, &mut user.client_certificate, &mut user.client_key] {
        path(field);
    }
    // The password is left alone: a user with a name may have an empty one.
    for field in [
        &mut user.client_certificate_data,
        &mut user.username,
        &mut user.impersonate,
        &mut user.impersonate_uid,
    ] {
        text(field);
    }
    for field in [&mut user.token, &mut user.client_key_data] {
        field.take_if(|secret| secret.expose_secret().is_empty());
    }
}

/// The settings of `--master` alone: a server, and no credentials.
pub(super) fn of_master(url: &str) -> Result<Config, Error> {
    server_url(url, false).map(Config::new).map_err(|problem| master_error(url, problem))
}

/// Whether a file is UTF-16 with an odd number of bytes, at which kube's reader panics. A pipe can be read only once,
/// so it is not checked.
fn ends_within_a_character(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.len() % 2 == 1)
        && std::fs::read(file).is_ok_and(|text| matches!(text[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..]))
}

/// Checks that no list has a name twice: kube's client would take the first entry, whatever is in it, and client-go
/// refuses such a file.
fn check_names(file: &Path, kubeconfig: &Kubeconfig) -> Result<(), Error> {
    let lists: [(&str, Vec<&str>); 3] = [
        ("contexts", kubeconfig.contexts.iter().map(|named| named.name.as_str()).collect()),
        ("clusters", kubeconfig.clusters.iter().map(|named| named.name.as_str()).collect()),
        ("users", kubeconfig.auth_infos.iter().map(|named| named.name.as_str()).collect()),
    ];
    for (field, mut names) in lists {
        names.sort_unstable();
        if let Some([twice, _]) = names.array_windows().find(|[name, next]| name == next) {
            let problem = format!("{twice:?} is there twice, allowed once");
            return Err(Error::Field { file: file.into(), field: field.into(), problem });
        }
    }
    Ok(())
}

/// The names that the current context leads to.
struct Current {
    /// The name of a cluster in the file.
    cluster: String,
    /// The name of a user in the file; empty if there is none, which means no credentials.
    user: String,
}

/// Follows `current-context` to its cluster and user.
fn current(file: &Path, kubeconfig: &Kubeconfig) -> Result<Current, Error> {
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
    let user = context.user.clone().unwrap_or_default();
    if !user.is_empty() && !kubeconfig.auth_infos.iter().any(|named| named.name == user) {
        let there_are = names(kubeconfig.auth_infos.iter().map(|named| named.name.as_str()));
        let problem = format!("no user is named {user:?}; users of this file: {there_are}");
        return Err(error(format!("contexts[{current}].context.user"), problem));
    }
    Ok(Current { cluster: context.cluster.clone(), user })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The URL of a server. Without a scheme it is http, or https if there are TLS settings, as in client-go.
pub(super) fn server_url(text: &str, https_by_default: bool) -> Result<http::Uri, String> {
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
