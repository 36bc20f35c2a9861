//! The objects in `deploy/`, decoded as strictly as by an API server with field validation: a field that the type does
//! not have is an error.

#[path = "deploy/documents.rs"]
mod documents;
#[path = "deploy/procedures.rs"]
mod procedures;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_ipvs::options::{Command, Source, from_args};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Decodes a value; an unknown field is an error.
fn strict<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    let decoded = serde_ignored::deserialize(value.clone(), |path| unknown.push(path.to_string()));
    let decoded = decoded.map_err(|error| error.to_string())?;
    if unknown.is_empty() { Ok(decoded) } else { Err(format!("unknown: {}", unknown.join(", "))) }
}

/// Decodes an object by its kind.
fn check(value: &Value) -> Result<(), String> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let version = value["apiVersion"].as_str().unwrap_or_default();
    match (version, kind) {
        ("apps/v1", "DaemonSet") => strict::<DaemonSet>(value).map(drop),
        ("v1", "Pod") => strict::<Pod>(value).map(drop),
        ("v1", "ConfigMap") => strict::<ConfigMap>(value).map(drop),
        ("v1", "ServiceAccount") => strict::<ServiceAccount>(value).map(drop),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            strict::<ClusterRoleBinding>(value).map(drop)
        }
        ("kustomize.config.k8s.io/v1beta1", "Kustomization") => strict::<Kustomization>(value).map(drop),
        other => Err(format!("{other:?} is not expected here")),
    }
}

/// The fields of the type that our kustomizations use.
#[derive(Deserialize)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Patch {
    path: String,
}

#[derive(Deserialize)]
struct Image {
    name: String,
    #[serde(rename = "newName")]
    new_name: String,
    #[serde(rename = "newTag")]
    new_tag: String,
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folders that contain a kustomization.
fn kustomizations() -> Vec<PathBuf> {
    let folders = fs::read_dir(folder("")).expect("deploy/").map(|entry| entry.expect("an entry").path());
    let found: Vec<_> = folders.filter(|folder| folder.join("kustomization.yaml").exists()).collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn daemonset(path: &str) -> DaemonSet {
    strict(&yaml(&folder(path))).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn pod(daemonset: &DaemonSet) -> &PodSpec {
    daemonset.spec.template.spec.as_ref().expect("a pod")
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.containers.iter().chain(pod.init_containers.iter().flatten())
}

/// Merges a patch as kustomize does, as far as our patches use this: objects by field, lists by name or mount path, and
/// the directive that deletes.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Mapping(into), Value::Mapping(patch)) => {
            for (key, value) in patch {
                match into.get_mut(key) {
                    Some(existing) => merge(existing, value),
                    None => drop(into.insert(key.clone(), value.clone())),
                }
            }
        }
        // Lists whose items have neither are one value: tolerations, capabilities, words of a command.
        (Value::Sequence(into), Value::Sequence(patch))
            if patch.iter().any(|item| item.get("mountPath").is_some() || item.get("name").is_some()) =>
        {
            for item in patch {
                let key = if item.get("mountPath").is_some() { "mountPath" } else { "name" };
                let position = into.iter().position(|existing| existing.get(key) == item.get(key));
                let deletes = item.get("$patch").and_then(Value::as_str) == Some("delete");
                match position {
                    Some(position) if deletes => drop(into.remove(position)),
                    Some(position) => merge(&mut into[position], item),
                    None => {
                        assert!(!deletes, "{item:?} deletes what is not there");
                        into.push(item.clone());
                    }
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

#[test]
fn every_object_has_only_fields_that_its_type_has() {
    for folder in kustomizations() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if !path.to_string_lossy().ends_with("-patch.yaml") {
                check(&yaml(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    }
}

#[test]
fn an_unknown_field_and_a_wrong_type_are_noticed() {
    let mut value = yaml(&folder("kubeadm/daemonset.yaml"));
    value["spec"]["template"]["spec"]["hostNetwrok"] = Value::Bool(true);
    let error = check(&value).expect_err("a field that is not there");
    assert!(error.contains("hostNetwrok"), "{error}");
    let mut value = yaml(&folder("kubeadm/daemonset.yaml"));
    value["spec"]["template"]["spec"]["hostNetwork"] = Value::String("yes".to_owned());
    assert!(check(&value).is_err());
}

#[test]
fn kustomizations_name_all_files_and_images_beside_them() {
    for folder in kustomizations() {
        let kustomization: Kustomization =
            strict(&yaml(&folder.join("kustomization.yaml"))).unwrap_or_else(|error| panic!("{error}"));
        let patches = kustomization.patches.iter().map(|patch| &patch.path);
        for file in kustomization.resources.iter().chain(patches) {
            assert!(folder.join(file).exists(), "{}: {file}", folder.display());
        }
        for image in &kustomization.images {
            let patches = kustomization.patches.iter().map(|patch| &patch.path);
            let named = kustomization.resources.iter().chain(patches).any(|file| {
                let file = folder.join(file);
                file.is_file() && read(&file).contains(&format!("image: {}:", image.name))
            });
            assert!(named, "{}: no image {}", folder.display(), image.name);
        }
        // A file that is not a resource is a patch, for kustomize or (with a comment that says so) for kubectl.
        for entry in fs::read_dir(&folder).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            assert!(
                name == "kustomization.yaml"
                    || name.ends_with("-patch.yaml")
                    || kustomization.resources.contains(&name),
                "{}: {name} is not used",
                folder.display()
            );
        }
    }
}

/// Contract 10.3.
#[test]
fn the_daemonset_is_kubeadms_with_another_image() {
    let daemonset = daemonset("kubeadm/daemonset.yaml");
    let (spec, pod) = (&daemonset.spec, pod(&daemonset));
    let [container] = &pod.containers[..] else { panic!("{:?}", pod.containers) };
    let words: Vec<&str> = container.command.iter().flatten().map(String::as_str).collect();
    assert_eq!(
        words,
        [
            "/usr/local/bin/kube-proxy",
            "--config=/var/lib/kube-proxy/config.conf",
            "--hostname-override=$(NODE_NAME)"
        ]
    );
    let context = container.security_context.as_ref().expect("a security context");
    assert_eq!(context.privileged, Some(true));
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(pod.service_account_name.as_deref(), Some("kube-proxy"));
    assert_eq!(pod.tolerations.as_ref().map(Vec::len), Some(1));
    assert_eq!(spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()), Some("RollingUpdate"));
    let mounts: BTreeSet<&str> =
        container.volume_mounts.iter().flatten().map(|mount| &*mount.mount_path).collect();
    assert_eq!(mounts, BTreeSet::from(["/lib/modules", "/run/xtables.lock", "/var/lib/kube-proxy"]));
    assert!(container.liveness_probe.is_none() && container.ports.is_none() && container.resources.is_none());
    let labels = spec.selector.match_labels.as_ref().expect("a selector");
    assert_eq!(labels.get("k8s-app").map(String::as_str), Some("kube-proxy"));
}

/// Without this, a rollout continues over nodes on which nothing is ever written.
#[test]
fn a_rollout_stops_where_the_first_sync_does_not_come() {
    let ready = |daemonset: &DaemonSet| {
        let probe = pod(daemonset).containers[0].readiness_probe.clone().expect("a probe");
        let http = probe.http_get.expect("of HTTP");
        // `/livez` does not wait for the first sync.
        assert_eq!((http.path.as_deref(), http.port), (Some("/healthz"), IntOrString::Int(10256)));
        assert!(daemonset.spec.min_ready_seconds >= Some(1));
        (daemonset.spec.min_ready_seconds, probe.period_seconds)
    };
    let named = |objects: Vec<Value>, name: &str| -> DaemonSet {
        let found = objects
            .into_iter()
            .find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == name);
        strict(&found.expect("the object")).unwrap_or_else(|error| panic!("{error}"))
    };
    let wanted = ready(&named(built(&folder("kubeadm"), None), "kube-proxy"));
    assert_eq!(ready(&named(built(&folder("hardened"), None), "kube-proxy")), wanted);
    assert_eq!(ready(&named(built(&folder("canary"), None), "kube-ipvs-canary")), wanted);
    // The patch, on kubeadm's object.
    let mut kubeadms = kubeadms();
    merge(&mut kubeadms, &yaml(&folder("kubeadm/probe-patch.yaml")));
    assert_eq!(ready(&named(vec![kubeadms], "kube-proxy")), wanted);
}

/// The `DaemonSet` that kubeadm creates: contract 10.3.
fn kubeadms() -> Value {
    let mut value = yaml(&folder("kubeadm/daemonset.yaml"));
    let spec = value["spec"].as_mapping_mut().expect("a spec");
    spec.remove("minReadySeconds");
    let container = spec["template"]["spec"]["containers"][0].as_mapping_mut().expect("a container");
    container.remove("readinessProbe");
    container.remove("terminationMessagePolicy");
    value
}

/// `kubectl apply` deletes only what it has applied itself, and it never applied kubeadm's object: ours is merged over
/// that one, and fields that ours does not name stay. The API server must accept the result.
#[test]
fn kubeadms_daemonset_is_replaced_by_an_object_that_the_api_server_takes() {
    for name in ["kubeadm", "hardened"] {
        let objects = built(&folder(name), Some(SET));
        let ours = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("the object");
        let mut merged = kubeadms();
        merge(&mut merged, ours);
        let daemonset: DaemonSet = strict(&merged).unwrap_or_else(|error| panic!("{name}: {error}"));
        let pod = pod(&daemonset);
        let volumes: BTreeSet<&str> = pod.volumes.iter().flatten().map(|volume| &*volume.name).collect();
        for container in containers(pod) {
            let context = container.security_context.as_ref().expect("a security context");
            assert!(
                context.privileged != Some(true) || context.allow_privilege_escalation != Some(false),
                "{name}: cannot set allowPrivilegeEscalation to false and privileged to true: {context:?}"
            );
            for mount in container.volume_mounts.iter().flatten() {
                assert!(volumes.contains(&*mount.name), "{name}: no volume {}", mount.name);
            }
        }
        // The container that lasts has the rights of ours.
        let ours: DaemonSet = strict(ours).unwrap_or_else(|error| panic!("{name}: {error}"));
        let context = |pod: &PodSpec| pod.containers[0].security_context.clone();
        assert_eq!(context(pod), context(self::pod(&ours)), "{name}");
    }
}

#[test]
fn the_hardened_one_has_no_privileged_container_that_lasts() {
    let mut value = yaml(&folder("kubeadm/daemonset.yaml"));
    merge(&mut value, &yaml(&folder("hardened/daemonset-patch.yaml")));
    let daemonset: DaemonSet = strict(&value).unwrap_or_else(|error| panic!("{error}\n{value:?}"));
    let pod = pod(&daemonset);
    let [container] = &pod.containers[..] else { panic!("{:?}", pod.containers) };
    let context = container.security_context.as_ref().expect("a security context");
    // Explicit, not omitted: see `kubeadms_daemonset_is_replaced_by_an_object_that_the_api_server_takes`.
    assert_eq!(context.privileged, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    let capabilities = context.capabilities.as_ref().expect("capabilities");
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(capabilities.add.as_deref(), Some(&["NET_ADMIN".to_owned(), "NET_RAW".to_owned()][..]));
    let [init] = &pod.init_containers.as_deref().unwrap_or_default() else { panic!("{pod:?}") };
    assert!(init.command.iter().flatten().any(|word| word == "--init-only"), "{init:?}");
    // Every mount has its volume, and every volume is mounted.
    let mounted: BTreeSet<&str> = containers(pod)
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .map(|mount| &*mount.name)
        .collect();
    let volumes: BTreeSet<&str> = pod.volumes.iter().flatten().map(|volume| &*volume.name).collect();
    assert_eq!(mounted, volumes);
}

/// Where `SELinux` enforces, the usual type of containers may not do what this capability is for. Privileged ones have
/// another type.
#[test]
fn who_may_change_the_network_may_do_so_where_selinux_enforces() {
    let mut count = 0;
    let objects: Vec<_> = kustomizations().iter().flat_map(|folder| built(folder, Some(SET))).collect();
    for (name, pod) in pods(&objects) {
        for container in containers(&pod) {
            let Some(context) = &container.security_context else { continue };
            let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
            let changes = added.is_some_and(|added| added.iter().any(|name| name == "NET_ADMIN"));
            if changes && context.privileged != Some(true) {
                let kind = context.se_linux_options.as_ref().and_then(|options| options.type_.as_deref());
                assert_eq!(kind, Some("spc_t"), "{name}: {}", container.name);
                count += 1;
            }
        }
    }
    assert_eq!(count, 6);
}

fn kustomization(folder: &Path) -> Kustomization {
    strict(&yaml(&folder.join("kustomization.yaml"))).unwrap_or_else(|error| panic!("{error}"))
}

/// All objects of a kustomization and its bases, as kustomize builds them: resources, patches, images. `image` is the
/// one that `kustomize edit set image kube-ipvs=...` sets in this folder.
fn built(folder: &Path, image: Option<&str>) -> Vec<Value> {
    let kustomization = kustomization(folder);
    let mut objects: Vec<Value> = Vec::new();
    for resource in &kustomization.resources {
        let path = folder.join(resource);
        objects.extend(if path.is_dir() { built(&path, None) } else { vec![yaml(&path)] });
    }
    for patch in &kustomization.patches {
        let patch = yaml(&folder.join(&patch.path));
        let is_target = |object: &&mut Value| {
            object["kind"] == patch["kind"] && object["metadata"]["name"] == patch["metadata"]["name"]
        };
        merge(objects.iter_mut().find(is_target).expect("what the patch is for"), &patch);
    }
    for Image { name, new_name, new_tag } in &kustomization.images {
        let new = image.map_or_else(|| format!("{new_name}:{new_tag}"), str::to_owned);
        for object in &mut objects {
            set_image(object, name, &new);
        }
    }
    objects
}

fn set_image(value: &mut Value, name: &str, new: &str) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let is_image = key == "image"
                    && value.as_str().and_then(|v| v.rsplit_once(':')).is_some_and(|v| v.0 == name);
                if is_image { *value = new.into() } else { set_image(value, name, new) }
            }
        }
        Value::Sequence(items) => {
            for item in items {
                set_image(item, name, new);
            }
        }
        _ => {}
    }
}

/// The pods of these objects, with their objects' names.
fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    let of = |object: &Value| {
        let spec = match object["kind"].as_str() {
            Some("DaemonSet") => &object["spec"]["template"]["spec"],
            Some("Pod") => &object["spec"],
            _ => return None,
        };
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        Some((name, strict(spec).unwrap_or_else(|error| panic!("{error}"))))
    };
    objects.iter().filter_map(of).collect()
}

/// The images of all containers.
fn images(objects: &[Value]) -> Vec<String> {
    let image = |container: &Container| container.image.clone().expect("an image");
    pods(objects).iter().flat_map(|(_, pod)| containers(pod).map(image).collect::<Vec<_>>()).collect()
}

/// An image name without a registry is Docker Hub's, where anybody may own it.
#[test]
fn an_image_that_was_not_set_cannot_be_pulled() {
    for folder in kustomizations() {
        for image in images(&built(&folder, None)) {
            assert!(
                ["registry.invalid/kube-ipvs:unset", PAUSE].contains(&&*image),
                "{}: {image}",
                folder.display()
            );
        }
    }
}

/// The image of the container that waits beside the work; it is Kubernetes' own.
const PAUSE: &str = "registry.k8s.io/pause:3.10";
const SET: &str = "registry.example/kube-ipvs:v1";

#[test]
fn setting_the_image_sets_it_for_all_containers() {
    let mut count = 0;
    for folder in kustomizations() {
        for image in images(&built(&folder, Some(SET))) {
            assert!([SET, PAUSE].contains(&&*image), "{}: {image}", folder.display());
            count += usize::from(image == SET);
        }
    }
    assert!(count >= 5, "{count}");
}

/// kubeadm's clusters have this `ConfigMap` already, with the API server in it: whoever applies another object must not
/// replace it by ours.
#[test]
fn a_configuration_that_is_to_be_edited_comes_with_nothing_else() {
    for folder in kustomizations() {
        let kinds: Vec<_> = built(&folder, None).iter().map(|object| object["kind"].clone()).collect();
        assert!(!kinds.is_empty(), "{}", folder.display());
        if kinds.contains(&Value::from("ConfigMap")) {
            assert_eq!(kinds.len(), 1, "{}: {kinds:?}", folder.display());
        }
    }
}

#[test]
fn the_canary_and_kube_proxy_share_no_node() {
    let canary = daemonset("canary/daemonset.yaml");
    let label = pod(&canary).node_selector.as_ref().and_then(|selector| selector.get("kube-ipvs/canary"));
    assert_eq!(label.map(String::as_str), Some("true"));
    let mut value = yaml(&folder("kubeadm/daemonset.yaml"));
    merge(&mut value, &yaml(&folder("canary/kube-proxy-patch.yaml")));
    let kube_proxy: DaemonSet = strict(&value).unwrap_or_else(|error| panic!("{error}"));
    let affinity = pod(&kube_proxy).affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let selector = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = &selector.expect("a selector").node_selector_terms;
    let expression = terms[0].match_expressions.as_ref().and_then(|all| all.first()).expect("an expression");
    assert_eq!((&*expression.key, &*expression.operator), ("kube-ipvs/canary", "NotIn"));
    assert_eq!(expression.values.as_deref(), Some(&["true".to_owned(), "clear".to_owned()][..]));
    // Apart from that, the canary is the same pod.
    let [ours, theirs] = [pod(&canary), pod(&kube_proxy)].map(|pod| pod.containers.clone());
    assert_eq!(ours, theirs);
}

/// Its output is about the start that the canary makes: on that node, with the same settings, API server and rights.
#[test]
fn the_dry_run_is_that_of_the_canarys_start() {
    let value = yaml(&folder("dry-run/pod.yaml"));
    let dry_run: Pod = strict(&value).unwrap_or_else(|error| panic!("{error}"));
    let mut dry_run = dry_run.spec.expect("a pod");
    assert_eq!(dry_run.restart_policy.take().as_deref(), Some("Never"));
    assert_eq!(dry_run.node_name.take().as_deref(), Some("NODE"), "as the manual edits it");
    let daemonset = daemonset("canary/daemonset.yaml");
    let mut canary = pod(&daemonset).clone();
    // The start has probes, chooses its nodes by label, and has the folder of kernel modules: a dry run loads none.
    (canary.node_selector, canary.priority_class_name) = (None, None);
    canary.volumes.as_mut().expect("volumes").retain(|volume| volume.name != "lib-modules");
    let start = &mut canary.containers[0];
    start.readiness_probe = None;
    start.volume_mounts.as_mut().expect("mounts").retain(|mount| mount.name != "lib-modules");
    start.name = "dry-run".to_owned();
    let command = start.command.as_mut().expect("a command");
    command[0] = "/usr/local/bin/kube-ipvs".to_owned();
    command.push("--dry-run".to_owned());
    assert_eq!(dry_run, canary);

    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::copy(documents::document("tests/config/kubeadm.yaml"), file.path()).expect("a file");
    let config = format!("--config={}", file.path().display());
    let words = dry_run.containers[0].command.iter().flatten().skip(1);
    let words = words.map(|word| if word.starts_with("--config=") { config.clone() } else { word.clone() });
    let command = from_args(words.map(Into::into), std::iter::empty());
    assert!(matches!(command, Ok(Command::DryRun(_))), "{command:?}");
}

/// The label says which of the two runs on a node; where it says `back`, kube-proxy runs, too.
#[test]
fn the_ways_back_of_the_canary_are_the_roll_back_on_other_nodes() {
    let roll_back = daemonset("roll-back/daemonset.yaml");
    let whole = pod(&roll_back);
    // The container that stays has the rights of the first cleanup: a node may switch after that one.
    let ([first], [stays]) = (&whole.init_containers.as_deref().unwrap_or_default(), &whole.containers[..])
    else {
        panic!("{whole:?}")
    };
    let mut again = first.clone();
    again.name = "cleanup-again".to_owned();
    again.command = Some(vec!["/usr/local/bin/kube-ipvs".to_owned(), "--cleanup-own-stay".to_owned()]);
    assert_eq!(stays, &again);
    let words = &stays.command.as_ref().expect("a command")[1..];
    let command = from_args(words.iter().map(Into::into), std::iter::empty());
    assert!(matches!(command, Ok(Command::CleanupOwnStay(_))), "{command:?}");
    for (file, label, flag) in [("back", "back", "--cleanup-own"), ("clear", "clear", "--cleanup")] {
        let daemonset = daemonset(&format!("canary/{file}.yaml"));
        assert_eq!(daemonset.metadata.name, Some(format!("kube-ipvs-canary-{file}")));
        let mut ours = pod(&daemonset).clone();
        let selector = ours.node_selector.as_mut().expect("a selector");
        assert_eq!(selector.remove("kube-ipvs/canary").as_deref(), Some(label));
        let command =
            ours.init_containers.as_mut().and_then(|all| all[0].command.as_mut()).expect("a command");
        assert_eq!(std::mem::replace(&mut command[1], "--cleanup-own".to_owned()), flag);
        let words = &command[1..];
        assert!(from_args(words.iter().map(Into::into), std::iter::empty()).is_ok(), "{words:?}");
        if flag == "--cleanup" {
            // No proxy starts before the label is removed, and the pod with it.
            let [pause] = &ours.containers[..] else { panic!("{ours:?}") };
            assert_eq!((pause.image.as_deref(), &pause.command), (Some(PAUSE), &None));
            ours.containers.clone_from(&whole.containers);
        }
        assert_eq!(&ours, whole, "{file}");
    }
}

/// Then `kubectl describe pod` shows the end of the log, even when the previous container is gone.
#[test]
fn what_ended_one_of_our_containers_is_told_by_its_pod() {
    let mut objects: Vec<Value> =
        kustomizations().iter().flat_map(|folder| built(folder, Some(SET))).collect();
    let mut patched = kubeadms();
    set_image(&mut patched, "kube-ipvs", SET);
    merge(&mut patched, &yaml(&folder("kubeadm/probe-patch.yaml")));
    objects.push(patched);
    let mut count = 0;
    for (name, pod) in pods(&objects) {
        for container in containers(&pod).filter(|container| container.image.as_deref() == Some(SET)) {
            let policy = container.termination_message_policy.as_deref();
            assert_eq!(policy, Some("FallbackToLogsOnError"), "{name}: {}", container.name);
            count += 1;
        }
    }
    assert_eq!(count, 11);
}

/// The command lines in the objects are accepted, as is the file in the configuration map.
#[test]
fn the_configuration_is_accepted() {
    let map: ConfigMap =
        strict(&yaml(&folder("configuration/configmap.yaml"))).unwrap_or_else(|e| panic!("{e}"));
    let data = map.data.expect("data");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &data["config.conf"]).expect("a file");
    let words = [format!("--config={}", file.path().display()), "--hostname-override=node-1".to_owned()];
    let merged = match from_args(words.iter().map(Into::into), std::iter::empty()) {
        Ok(Command::Run(merged)) => merged,
        other => panic!("{other:?}"),
    };
    let kubeconfig = Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf"));
    assert_eq!(merged.options.source, Source::Api { kubeconfig, master: None, protobuf: true });
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&data["kubeconfig.conf"]).expect("a kubeconfig");
    assert_eq!(kubeconfig.current_context.as_deref(), Some("default"));
}
