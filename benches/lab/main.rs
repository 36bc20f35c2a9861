//! The whole program against a real kernel, beside what that kernel needs at least.
//!
//! Runs on the host and starts itself again in the lab, a boot for every measurement, so that none inherits anything
//! from the one before. What is measured, and how it is kept honest:
//!
//! * **floor**: messages for the same state, encoded beforehand, 256 per system call: see [`floor`].
//! * **cold start**: from the start of the process until it says that all is written. In that instant it is stopped,
//!   and the kernel must hold the complete state: see [`ours`].
//! * **reading**: how much of that is reading the manifests: files → events, nothing else, in the same boot.
//! * **one change**: from the moment in which a manifest with one more endpoint is there until the kernel has its
//!   real server, asked for by one small netlink request again and again.
//!
//! Without `--bench` (as `cargo test --benches` starts it) it measures nothing.

mod floor;
mod input;
mod ours;
mod report;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use input::Size;
use report::{Measured, Rows};

/// Measured so often, and the median taken: the machine may be doing other things.
const ROUNDS: usize = 3;
/// Services × endpoints.
const SIZES: [Size; 2] = [Size { services: 1_000, endpoints: 10 }, Size { services: 10_000, endpoints: 10 }];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["floor", size] => size.parse().and_then(floor::measure).map(|figures| println!("{figures}")),
        ["ours", size] => size.parse().and_then(ours::measure).map(|figures| println!("{figures}")),
        ["generate", size, folder] => size.parse().and_then(|size| input::write(size, Path::new(folder))),
        _ if words.contains(&"--bench") => compare(),
        _ => {
            println!("lab: measures with `cargo bench --bench lab` only");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything, shows the table, and writes it down.
fn compare() -> anyhow::Result<()> {
    let mut measured = Vec::new();
    for size in SIZES {
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            eprintln!("{size}: round {round} of {ROUNDS}");
            rounds.push((in_lab("floor", size)?, in_lab("ours", size)?));
        }
        measured.push(Measured::median(size, &rounds));
    }
    let rows = Rows::of(&measured);
    println!("{rows}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    std::fs::create_dir_all(file.parent().expect("it is in a folder"))?;
    std::fs::write(&file, rows.json()).with_context(|| file.display().to_string())?;
    println!("{}", file.display());
    if !rows.ok() {
        bail!("not every target is met");
    }
    Ok(())
}

/// Runs this program in the lab; it answers with figures, one line of JSON.
fn in_lab<T: serde::de::DeserializeOwned>(what: &str, size: Size) -> anyhow::Result<T> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run.sh");
    let output = Command::new(script)
        .arg(std::env::current_exe()?)
        .args([what, &size.argument()])
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
