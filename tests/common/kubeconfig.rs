//! The text of a kubeconfig.

/// A kubeconfig with a single cluster, user and context; `cluster` and `user` are YAML flow mappings.
pub(crate) fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts: [{{name: here, context: {{cluster: lab, user: proxy}}}}]\n\
         clusters: [{{name: lab, cluster: {cluster}}}]\n\
         users: [{{name: proxy, user: {user}}}]\n"
    )
}
