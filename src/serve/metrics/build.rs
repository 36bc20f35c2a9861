//! What this program is, which features it has, and how many metrics, as every Kubernetes component reports it.

use prometheus::IntGaugeVec;

use super::make::Maker;

/// Reports our version under two names. Every component has the first one, and alerts on it take it for a version of
/// Kubernetes. Where it is left out of what is scraped, the second one remains.
pub(super) fn describe(make: &Maker) {
    let labels = [
        "major",
        "minor",
        "git_version",
        "git_commit",
        "git_tree_state",
        "build_date",
        "go_version",
        "compiler",
        "platform",
    ];
    let components = make.gauges(
        "kubernetes_build_info",
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, \
         build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        &labels,
    );
    let own = make.gauges(
        "kube_ipvs_build_info",
        "Always 1; the labels say which build this is, and are those of kubernetes_build_info",
        &labels,
    );
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    for build in [components, own] {
        build
            .with_label_values(&[major, minor, version, crate::COMMIT, "", "", "", "rustc", &platform])
            .set(1);
    }
}

/// The gauges that say which features are on; those that are generally available have an empty stage.
pub(super) fn features(make: &Maker) -> IntGaugeVec {
    make.gauges(
        "kubernetes_feature_enabled",
        "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
        &["name", "stage"],
    )
}

/// Counts how many metrics are registered; none is ever hidden or disabled here.
pub(super) fn count(make: &Maker) {
    let registered = make.counters(
        "registered_metrics_total",
        "[BETA] The count of registered metrics broken by stability level and deprecation version.",
        &["deprecated_version", "stability_level"],
    );
    make.counter("hidden_metrics_total", "[BETA] The count of hidden metrics.");
    make.counter("disabled_metrics_total", "[BETA] The count of disabled metrics.");
    for (level, count) in make.levels() {
        registered.with_label_values(&["", &*level]).inc_by(count);
    }
}
