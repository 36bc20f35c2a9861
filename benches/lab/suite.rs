//! What is measured at which size, with one boot of the lab for each.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::figures::{Figures, least};
use crate::input::Size;
use crate::report::{Measured, Rows};
use crate::{machinery, picture, real_apiserver};

/// For how many seconds changes roll, and for how many nothing happens.
const LONG: [&str; 2] = ["60", "60"];

/// The size of the cluster on the API machinery, unless another is given.
pub(crate) const MACHINERY: Size = size(10_000, 10);

const fn size(services: u32, endpoints: u32) -> Size {
    Size { services, endpoints }
}

/// One measurement, as [`crate::in_lab`] takes it.
struct Boot {
    what: &'static str,
    size: Size,
    arguments: &'static [&'static str],
    rounds: usize,
}

fn boot(what: &'static str, size: Size, rounds: usize) -> Boot {
    Boot { what, size, arguments: &[], rounds }
}

fn everything() -> Vec<Boot> {
    let (large, largest) = (size(10_000, 10), size(50_000, 5));
    let mut boots = Vec::new();
    for (size, rounds) in
        [(size(1_000, 10), 3), (size(5_000, 10), 2), (large, 3), (size(20_000, 10), 1), (largest, 1)]
    {
        boots.push(boot("floor", size, rounds));
        boots.push(boot("manifests", size, rounds));
    }
    boots.push(boot("live", size(1_000, 10), 2));
    boots.push(boot("live", large, 1));
    boots.push(Boot { arguments: &LONG, ..boot("live", large, 1) });
    boots.push(boot("live", largest, 1));
    boots.push(Boot { arguments: &["100000"], ..boot("churn", size(1_000, 10), 1) });
    boots
}

fn quick() -> Vec<Boot> {
    let (small, large) = (size(1_000, 10), size(10_000, 10));
    vec![
        boot("floor", small, 1),
        boot("manifests", small, 1),
        boot("live", small, 1),
        boot("floor", large, 1),
        boot("manifests", large, 1),
        boot("live", large, 1),
    ]
}

/// What is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything, in a quarter of an hour.
    Everything,
    /// The most telling measurements, in two minutes.
    Quick,
    /// Only those on the API machinery: the program, and the proxy that `PEER` names.
    Machinery(Size),
}

/// Measures, prints the table, and writes it to a file.
pub(crate) fn run(part: Part) -> anyhow::Result<()> {
    let mut measured = Measured::default();
    let boots = match part {
        Part::Everything => everything(),
        Part::Quick => quick(),
        Part::Machinery(size) => vec![boot("floor", size, 1)],
    };
    let (mut failed, mut missing) = (false, Vec::new());
    for Boot { what, size, arguments, rounds } in boots {
        let mut figures = Vec::new();
        for round in 1..=rounds {
            eprintln!("{what} {size}: round {round} of {rounds}");
            match in_lab(what, size, arguments) {
                Ok(measured) => figures.push(measured),
                // The other results are still worth having.
                Err(error) => {
                    failed = true;
                    missing.push(format!("{what} {size}: {error:#}"));
                }
            }
        }
        figures.extend(measured.take(what, size));
        measured.put(what, size, least(figures));
    }
    let machinery = match part {
        Part::Everything => Some(MACHINERY),
        Part::Machinery(size) => Some(size),
        Part::Quick => None,
    };
    if let Some(size) = machinery
        && let Err(error) = with_machinery(size, &mut measured, &mut missing)
    {
        failed = true;
        missing.push(format!("machinery {size}: {error:#}"));
    }
    let rows = Rows::of(&measured, missing);
    println!("{rows}");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    for (name, text) in [("bench.json", rows.json()), ("bench.svg", picture::draw(&measured))] {
        let file = target.join(name);
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        println!("{}", file.display());
    }
    if failed {
        bail!("not everything could be measured");
    }
    if !rows.ok() {
        bail!("not every target is met");
    }
    Ok(())
}

/// Measures on the API machinery: the program, and the other proxy that `PEER` may name.
fn with_machinery(size: Size, measured: &mut Measured, missing: &mut Vec<String>) -> anyhow::Result<()> {
    let peer = std::env::var("PEER").ok();
    if let Err(reason) = real_apiserver::assets() {
        missing.push(format!("the API machinery, and with it other proxies: {reason}"));
        return Ok(());
    }
    eprintln!("machinery {size}: filling etcd");
    let data = machinery::fill(size)?;
    let folder = data.path().join("etcd").to_string_lossy().into_owned();
    eprintln!("machinery {size}: round 1 of 1");
    measured.put("machinery", size, in_lab("machinery", size, &[&folder])?);
    if let Some(line) = peer {
        eprintln!("{line}");
        measured.put("peer", size, in_lab("machinery", size, &[&folder, &line])?);
    }
    Ok(())
}

/// Runs this program in the lab; it answers with one line of JSON, the figures.
fn in_lab(what: &str, size: Size, arguments: &[&str]) -> anyhow::Result<Figures> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run.sh");
    let output = Command::new(script)
        .arg(std::env::current_exe()?)
        .args([what, &size.argument()])
        .args(arguments)
        .env("LAB_MEMORY", std::env::var("LAB_MEMORY").unwrap_or_else(|_| "3072".to_owned()))
        .stderr(Stdio::inherit())
        .output()
        .context(script)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{what} {size}: {}\n{text}", output.status);
    }
    serde_json::from_str(&text).with_context(|| format!("{what} {size}: {text}"))
}
