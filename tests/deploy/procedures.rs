//! The instructions of the manual and the unit: commands, and their order.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_ipvs::options::{Command, Source, from_args};
use serde_yaml::Value;

use crate::documents::{MANUAL, document, procedures};
use crate::{
    PAUSE, built, daemonset, folder, images, kubeadms, kustomization, kustomizations, merge, pod, read,
    strict, yaml,
};

#[test]
fn whatever_the_manual_applies_has_its_image_set_before() {
    let mut applied = BTreeSet::new();
    for procedure in procedures() {
        for (position, _) in procedure.match_indices("kubectl apply -k deploy/") {
            let (before, rest) = procedure.split_at(position);
            let name = rest["kubectl apply -k deploy/".len()..]
                .split_whitespace()
                .next()
                .expect("a folder")
                .trim_end_matches(')');
            let sets = |image: &str| {
                let command = format!("(cd deploy/{name} && kustomize edit set image {image})");
                assert!(before.contains(&command), "{name}: no {command}:\n{procedure}");
            };
            if !kustomization(&folder(name)).images.is_empty() {
                sets("kube-ipvs=REGISTRY/kube-ipvs:TAG");
            }
            // Where it cannot be pulled, the work gets done, but `rollout status` never ends.
            if images(&built(&folder(name), None)).iter().any(|image| image == PAUSE) {
                let (registry, image) = PAUSE.rsplit_once('/').expect("a registry");
                let name = image.split(':').next().expect("a name");
                sets(&format!("{registry}/{name}=REGISTRY/{image}"));
            }
            applied.insert(name.to_owned());
        }
    }
    let all: BTreeSet<_> = kustomizations()
        .iter()
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(applied, all, "each folder is in a procedure");
}

/// The first part that the text does not have after the earlier ones.
fn first_missing<'a>(text: &str, parts: &[&'a str]) -> Option<&'a str> {
    let mut left = text;
    parts.iter().copied().find(|part| match left.split_once(part) {
        Some((_, behind)) => {
            left = behind;
            false
        }
        None => true,
    })
}

/// Whether exactly one procedure has all of these in this order.
fn has_in_order(parts: &[&str]) -> bool {
    procedures().iter().filter(|procedure| first_missing(procedure, parts).is_none()).count() == 1
}

/// Terms are a list without keys, which a patch replaces: EKS' own terms would be lost, and kube-proxy would be
/// scheduled onto Fargate, which has no real nodes.
#[test]
fn a_node_affinity_that_is_there_is_looked_for_before_the_patch_replaces_it() {
    let mut value = kubeadms();
    let theirs = r#"{"spec": {"template": {"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]}]}]}}}}}}}"#;
    merge(&mut value, &serde_json::from_str(theirs).expect("JSON"));
    let patch = folder("canary/kube-proxy-patch.yaml");
    merge(&mut value, &yaml(&patch));
    assert!(!format!("{value:?}").contains("fargate"), "nothing to warn of");
    let look = "get daemonset kube-proxy -o jsonpath='{.spec.template.spec.affinity}'";
    assert!(has_in_order(&[
        look,
        "--patch-file deploy/canary/kube-proxy-patch.yaml",
        "apply -k deploy/canary"
    ]));
    assert!(read(&patch).contains(look));
}

/// kube-proxy's own configuration has kube-proxy's mode, which is a different one before the switch and after the way
/// back: with it the canary would end, and kube-proxy would be kept off its nodes.
#[test]
fn the_canary_has_a_configuration_of_its_own_before_it_has_nodes() {
    let canary = daemonset("canary/daemonset.yaml");
    let volumes = pod(&canary).volumes.as_deref().unwrap_or_default();
    let names: Vec<_> = volumes.iter().filter_map(|v| v.config_map.as_ref()).map(|map| &*map.name).collect();
    assert_eq!(names, [COPY]);
    let create = format!("create configmap {COPY} --from-file=config.conf --from-file=kubeconfig.conf");
    let look = format!("get configmap {COPY} -o jsonpath='{{.data.config\\.conf}}' | grep '^mode:'");
    let apply = "apply -k deploy/canary";
    assert!(has_in_order(&[&look, apply, "label node NODE kube-ipvs/canary=true"]));
    // The copy exists before anything uses it; and when kube-proxy gets another mode, all nodes are the canary's.
    let all = procedures().join("\n");
    assert_eq!(first_missing(&all, &[&create, &look, apply]), None);
    assert_eq!(first_missing(&all, &[&create, "apply -k deploy/dry-run"]), None);
    assert!(has_in_order(&[
        "sed -i 's/nodeName: .*/nodeName: NODE/' deploy/dry-run/pod.yaml",
        "apply -k deploy/dry-run",
        "logs kube-ipvs-dry-run",
    ]));
    assert!(has_in_order(&[
        "label node NODE kube-ipvs/canary=true",
        "rollout status daemonset/kube-ipvs-canary",
        "edit configmap kube-proxy ",
        "set image daemonset/kube-proxy kube-proxy=registry.k8s.io/kube-proxy:VERSION",
        "label node NODE kube-ipvs/canary=clear",
    ]));
    // The copy has the canary's mode. Which way leads back depends on kube-proxy's mode.
    let look = "get configmap kube-proxy -o jsonpath='{.data.config\\.conf}' | grep '^mode:'";
    let ways_back = ["kube-ipvs/canary=true", look, "kube-ipvs/canary=back", "kube-ipvs/canary=clear"];
    assert_eq!(first_missing(&all, &ways_back), None);
    // The copy is deleted with the canary.
    assert_eq!(all.matches("delete -k deploy/canary").count(), 1);
    assert!(has_in_order(&["delete -k deploy/canary", &format!("delete configmap {COPY}")]));
}

/// The copy of kube-proxy's `ConfigMap`.
const COPY: &str = "kube-ipvs";

/// Whatever kube-proxy's mode is, and with the very command of the manual.
#[test]
fn the_copy_of_kube_proxys_configuration_is_accepted() {
    let all = procedures().join("\n");
    let (_, rest) = all.split_once(" | sed '").expect("the command");
    let script = rest.split('\'').next().expect("its end");
    let configuration = read(&document("tests/config/kubeadm.yaml"));
    for mode in ["\"\"", "ipvs", "iptables", "nftables"] {
        let theirs = configuration.replace("\nmode: ipvs\n", &format!("\nmode: {mode}\n"));
        let [file, copy] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
        fs::write(file.path(), &theirs).expect("a file");
        let output = process::Command::new("sed").arg(script).arg(file.path()).output().expect("sed");
        assert_eq!(output.stdout, configuration.as_bytes(), "{mode}");
        fs::write(copy.path(), output.stdout).expect("a file");
        let accepted = |path: &Path| {
            let words = [format!("--config={}", path.display()), "--hostname-override=node-1".to_owned()];
            matches!(from_args(words.iter().map(Into::into), std::iter::empty()), Ok(Command::Run(_)))
        };
        assert_eq!(accepted(file.path()), !mode.ends_with("tables"), "{mode}");
        assert!(accepted(copy.path()), "{mode}");
    }
}

/// Both commands write kube-proxy's `DaemonSet`: on clusters with several control plane nodes, the second one does it,
/// too.
#[test]
fn both_commands_that_upgrade_are_told_to_leave_kube_proxy_out() {
    assert!(has_in_order(&["edit configmap kubeadm-config", "proxy: {disabled: true}"]));
    assert!(has_in_order(&[
        "kubeadm upgrade apply --skip-phases=addon/kube-proxy VERSION",
        "kubeadm upgrade node --skip-phases=addon/kube-proxy ",
    ]));
}

/// `kubeadm upgrade` drops the patch, so kube-proxy runs beside the canary for a while.
#[test]
fn after_an_upgrade_the_canary_is_started_anew() {
    assert!(has_in_order(&[
        "patch daemonset kube-proxy --patch-file deploy/canary/kube-proxy-patch.yaml",
        "rollout status daemonset/kube-proxy",
        "rollout restart daemonset/kube-ipvs-canary",
    ]));
    assert_eq!(daemonset("canary/daemonset.yaml").metadata.name.as_deref(), Some("kube-ipvs-canary"));
}

/// Without their label, its nodes get the image of the `DaemonSet` kube-proxy: it must be ours by then.
#[test]
fn the_canary_ends_when_the_image_is_everywhere() {
    assert!(has_in_order(&[
        "get daemonset kube-proxy -o jsonpath='{.spec.template.spec.containers[*].image}'",
        "label node NODE kube-ipvs/canary-  ",
        "rollout status daemonset/kube-proxy",
        "delete -k deploy/canary",
    ]));
}

/// The cleanup of the roll-back waits on each node for kube-proxy: applied later, our sets would decide while nobody
/// keeps them up to date.
#[test]
fn the_roll_back_comes_before_kube_proxy() {
    let procedure = procedures().into_iter().find(|text| text.contains("apply -k deploy/roll-back"));
    let procedure = procedure.expect("the way back");
    let position = |part: &str| procedure.find(part).unwrap_or_else(|| panic!("{part}:\n{procedure}"));
    let order = [
        "apply -k deploy/roll-back",
        "patch daemonset kube-proxy -p",
        "rollout status daemonset/kube-proxy",
        "rollout status daemonset/kube-ipvs-cleanup",
        "delete -k deploy/roll-back",
    ]
    .map(position);
    assert!(order.is_sorted(), "{order:?}:\n{procedure}");
    // During a rollout of ours, a limit that is set before the image would let that rollout go on, on a quarter of the
    // nodes.
    let patches = patches(&procedure);
    let [patch] = &patches[..] else { panic!("{patches:?}") };
    let patched = patched(patch);
    assert_eq!(images(std::slice::from_ref(&patched)), ["registry.k8s.io/kube-proxy:VERSION"]);
    assert_eq!(limit(&patched), IntOrString::String("25%".to_owned()));
    assert!(!procedure.contains("set image daemonset/kube-proxy"), "{procedure}");
}

/// The patches of kube-proxy in the command lines of a text.
fn patches(text: &str) -> Vec<serde_json::Value> {
    let patches = text.split("patch daemonset kube-proxy -p '").skip(1);
    let patches = patches.map(|rest| rest.split_once('\'').expect("the end of the patch").0);
    patches
        .map(|patch| serde_json::from_str(patch).unwrap_or_else(|error| panic!("{error}: {patch}")))
        .collect()
}

/// kubeadm's object with such a patch.
fn patched(patch: &serde_json::Value) -> Value {
    let mut merged = kubeadms();
    merge(&mut merged, &serde_yaml::to_value(patch).expect("YAML"));
    merged
}

/// How many pods may be unavailable.
fn limit(daemonset: &Value) -> IntOrString {
    let daemonset: DaemonSet = strict(daemonset).unwrap_or_else(|error| panic!("{error}"));
    let strategy = daemonset.spec.update_strategy.expect("a strategy");
    strategy.rolling_update.and_then(|update| update.max_unavailable).expect("a limit")
}

/// By default one pod may be unavailable: that of a node that is not Ready already is, and the rollout stops.
#[test]
fn a_rollout_is_patched_to_go_on_beside_nodes_that_are_not_ready() {
    let limits: Vec<_> = procedures()
        .iter()
        .flat_map(|procedure| patches(procedure))
        .filter_map(|patch| {
            let merged = patched(&patch);
            // Leaves out patches that start a rollout themselves; the other one is the way back.
            let template = |daemonset: &Value| daemonset["spec"]["template"].clone();
            (template(&merged) == template(&kubeadms())).then(|| limit(&merged))
        })
        .collect();
    // For the switch, for undoing it, and for the way back after a switch with objects other than kubeadm's.
    let quarter = || IntOrString::String("25%".to_owned());
    assert_eq!(limits, [quarter(), IntOrString::Int(1), quarter()]);
}

/// Where the limit has a line of its own, what is to be rolled out comes first: see
/// `the_roll_back_comes_before_kube_proxy`.
#[test]
fn the_revision_before_comes_back_before_more_nodes_may_go_at_once() {
    assert!(has_in_order(&["rollout undo daemonset/kube-proxy", "patch daemonset kube-proxy -p"]));
}

/// A patch rolls kube-proxy out, and it must not come back in a mode in which it should not run. Nor may one that
/// restarts during the switch, which takes hours: where no mode is written, it is changed after the last node, and
/// before kube-proxy comes back.
#[test]
fn the_mode_is_changed_right_before_the_image() {
    let is_switch = |text: &String| text.contains("kube-proxy=REGISTRY/kube-ipvs:TAG");
    let procedure = procedures().into_iter().find(is_switch).expect("the switch");
    let lines: Vec<&str> = procedure.lines().collect();
    let edit = lines.iter().position(|line| line.contains("edit configmap kube-proxy")).expect("the mode");
    assert!(lines[edit + 1].contains("set image daemonset/kube-proxy"), "{procedure}");
    assert!(lines[..edit].iter().any(|line| line.contains("probe-patch.yaml")), "{procedure}");
    assert!(lines[edit].contains("where it is \"\" leave that"), "{procedure}");
    assert!(lines[edit - 1].ends_with("| grep '^mode:'"), "{procedure}");
    let behind = ["set image", "rollout status daemonset/kube-proxy", "edit configmap kube-proxy "];
    assert_eq!(first_missing(&procedure, &behind), None, "{procedure}");
    assert!(has_in_order(&["edit configmap kube-proxy ", "apply -k deploy/roll-back", "kube-proxy:VERSION"]));
}

/// kops and GCE start kube-proxy through programs that the image does not have.
#[test]
fn the_container_of_a_static_pod_starts_what_the_image_has() {
    let blocks: Vec<_> =
        procedures().into_iter().filter(|text| text.starts_with("image: REGISTRY/kube-ipvs:TAG\n")).collect();
    let [block] = &blocks[..] else { panic!("{blocks:?}") };
    let container: Container =
        strict(&serde_yaml::from_str(block).expect("YAML")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(container.name, "kube-proxy");
    assert_eq!(container.command, Some(vec!["/usr/local/bin/kube-proxy".to_owned()]));
    assert!(read(&folder("image/files.sh")).contains("$root/usr/local/bin/kube-proxy"));
    assert_eq!(container.security_context.and_then(|context| context.privileged), Some(true));
    let words = container.args.expect("flags");
    let merged = match from_args(words.iter().map(Into::into), std::iter::empty()) {
        Ok(Command::Run(merged)) => merged,
        other => panic!("{other:?}"),
    };
    assert!(matches!(merged.options.source, Source::Api { kubeconfig: Some(_), master: Some(_), .. }));
}

/// The unit's header has the steps of both ways, in an order that leaves no node without rules.
#[test]
fn the_unit_has_its_steps_in_its_head() {
    let unit = read(&folder("systemd/kube-ipvs.service"));
    let (head, rest) = unit.split_once("[Unit]").expect("a unit");
    assert!(head.lines().all(|line| line.is_empty() || line.starts_with('#')), "{head}");
    let steps = [
        "apt install iptables",
        "install -m 755 kube-ipvs /usr/local/bin/",
        "systemctl daemon-reload",
        "systemctl disable --now kube-proxy",
        // Whatever tries to start it would end ours.
        "systemctl mask kube-proxy",
        // Not while kube-proxy runs: it ends when its configuration is written.
        "mode: ipvs",
        "systemctl enable --now kube-ipvs",
        "First sync complete",
        "Cannot remove what kube-proxy left",
        "Not removing something that kube-proxy left",
        "INPUT drops what no rule accepts",
        "way back",
        "systemctl disable --now kube-ipvs",
        "systemctl unmask kube-proxy",
        "systemctl enable --now kube-proxy",
        "kube-ipvs --cleanup-own",
        "another mode",
        "kube-ipvs --cleanup\n",
        "systemctl unmask kube-proxy",
        "systemctl enable --now kube-proxy",
    ];
    assert_eq!(first_missing(head, &steps), None, "{head}");
    // The steps rely on these.
    assert!(
        rest.contains("Conflicts=kube-proxy.service") && rest.contains("ExecStart=/usr/local/bin/kube-ipvs")
    );
}

/// The program logs what the procedures look for.
#[test]
fn what_is_looked_for_in_the_log_is_in_the_program() {
    let mut sources = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sources += &read(&path);
            }
        }
    }
    for document in [document(MANUAL), folder("systemd/kube-ipvs.service")] {
        let text = read(&document);
        let looked_for: Vec<&str> = text
            .split(" -e ")
            .skip(1)
            .filter_map(|rest| {
                rest.strip_prefix(['"', '\''])?.split(['"', '\'']).find(|word| !word.is_empty())
            })
            .collect();
        assert!(looked_for.len() >= 5, "{}: {looked_for:?}", document.display());
        for words in looked_for {
            assert!(sources.contains(words), "{}: nobody says {words:?}", document.display());
        }
    }
}
