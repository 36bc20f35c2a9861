//! Scenarios: `tests/scenarios/NAME/cluster.yaml`, and the expected results.
//!
//! * `cluster.yaml`: manifests. `options.yaml`, if present: settings of the proxy. `actual.yaml`, if present: what the
//!   kernel holds before.
//! * `plan.txt`: what is written, in order. `state.yaml`: what the kernel holds afterwards.
//!
//! `REGENERATE=1` rewrites the last two; review the difference.

#[path = "common/state_text.rs"]
mod state_text;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::Family;
use kube_ipvs::desired::settings::Supported;
use kube_ipvs::kernel::memory::MemoryKernel;
use kube_ipvs::options::ProxyOptions;
use kube_ipvs::reconcile::core::{Next, Reconciler, Work};
use kube_ipvs::state::State;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OptionsText {
    scheduler: Option<String>,
    cluster_cidrs: Vec<String>,
    exclude_cidrs: Vec<String>,
    masquerade_all: bool,
}

fn options(folder: &Path) -> ProxyOptions {
    let text = fs::read_to_string(folder.join("options.yaml")).unwrap_or_else(|_| "{}".to_owned());
    let text: OptionsText = serde_yaml::from_str(&text).expect("options");
    let networks =
        |list: Vec<String>| list.iter().map(|network| network.parse().expect("a network")).collect();
    ProxyOptions {
        scheduler: text.scheduler.as_deref().unwrap_or("rr").into(),
        exclude_cidrs: networks(text.exclude_cidrs),
        cluster_cidrs: networks(text.cluster_cidrs),
        masquerade_all: text.masquerade_all,
        ..ProxyOptions::default()
    }
}

/// Works until nothing is left to do; returns what was written, and the resulting state.
fn play(folder: &Path) -> (String, State) {
    let actual = fs::read_to_string(folder.join("actual.yaml"))
        .map_or_else(|_| State::default(), |text| state_text::parse(&text));
    let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: [].into() };
    let mut reconciler =
        Reconciler::new(options(folder), "node1".into(), supported, Duration::ZERO, Duration::from_secs(1));
    let mut source =
        kube_ipvs::api::manifests::ManifestSource::new(vec![folder.join("cluster.yaml")], "node1");
    source.load().expect("manifests").into_iter().for_each(|event| reconciler.observe(event));

    let mut kernel = MemoryKernel::holding(actual);
    let mut plans = String::new();
    let now = Instant::now();
    while let Next::Work(work) = reconciler.next(now) {
        if let Work::Apply(plan) = &work {
            for planned in &plan.steps {
                writeln!(plans, "{} {}", planned.phase.0, planned.step).expect("text");
            }
            plans.push('\n');
        }
        let answer = work.carry_out(&mut kernel);
        reconciler.complete(answer, now);
    }
    (plans, kernel.state())
}

fn compare(file: &Path, text: &str) -> Result<(), Failed> {
    if std::env::var_os("REGENERATE").is_some() {
        return Ok(fs::write(file, text)?);
    }
    let expected = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    if expected == text {
        return Ok(());
    }
    Err(format!("{} says\n{expected}\nbut it is\n{text}", file.display()).into())
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut folders: Vec<_> =
        fs::read_dir(&root).expect("scenarios").map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    let trials = folders
        .into_iter()
        .map(|folder| {
            let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
            Trial::test(name, move || {
                let (plans, state) = play(&folder);
                compare(&folder.join("plan.txt"), &plans)?;
                compare(&folder.join("state.yaml"), &state_text::render(&state))
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
