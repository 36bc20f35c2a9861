//! The whole program against a real kernel, beside the minimum that this kernel needs.
//!
//! Runs on the host and starts itself again in the lab, with one boot per measurement, so that none is affected by the
//! one before. What is measured, and how it is kept honest:
//!
//! * **floor** ([`floor`]): messages for the same state, encoded beforehand, 256 per system call; and reading it back.
//! * **cold start** ([`manifests`], [`live`]): from the start of the process until it reports that everything is
//!   written. At that moment it is stopped, and the kernel must hold the complete state. For comparison, the same boot
//!   measures the time to turn the input into events, and nothing else.
//! * **changes** ([`live`]): from the moment at which the event is written to the program's socket until the kernel has
//!   what the event asks for. The kernel is polled by small netlink requests ([`look`]), which are part of the figure.
//! * **memory, processor time** ([`live`], [`churn`]): what `/proc` shows of the process.
//!
//! Each figure is the smallest of several rounds: whatever else the machine does only adds to it. Of counts of writes,
//! which should be zero, the largest is taken.
//!
//! `cargo bench --bench lab` measures everything, `-- --quick` a part of it in two minutes, `-- --machinery` only what
//! needs the API machinery (`-- --machinery 1000x10` at that size). Without `--bench` (as
//! `cargo test --benches` starts it) it measures nothing.

mod churn;
mod feed;
mod figures;
mod floor;
mod input;
#[path = "../../tests/common/kubeconfig.rs"]
mod kubeconfig;
mod live;
mod look;
mod machinery;
mod manifests;
mod newest;
mod picture;
mod program;
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "it belongs to the tests")]
#[path = "../../tests/common/protobuf.rs"]
mod protobuf;
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "it belongs to the tests")]
#[path = "../../tests/common/real_apiserver.rs"]
mod real_apiserver;
mod report;
mod suite;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use figures::Figures;
use suite::Part;

fn main() -> ExitCode {
    // The floor uses the same allocator settings as the program.
    kube_ipvs::allocator::set_up();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        _ if words.contains(&"--bench") => suite::run(match () {
            () if words.contains(&"--quick") => Part::Quick,
            () if words.contains(&"--machinery") => {
                let size = words.iter().find_map(|word| word.parse().ok());
                Part::Machinery(size.unwrap_or(suite::MACHINERY))
            }
            () => Part::Everything,
        }),
        ["generate", size, folder] => size.parse().and_then(|size| input::write(size, Path::new(folder))),
        [] => {
            println!("lab: measures with `cargo bench --bench lab` only");
            Ok(())
        }
        _ => in_lab(&words).and_then(|figures| {
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one measurement, in the lab.
fn in_lab(words: &[&str]) -> anyhow::Result<Figures> {
    let seconds = |text: &str| text.parse().map(Duration::from_secs).context("seconds");
    match *words {
        ["floor", size] => floor::measure(size.parse()?),
        ["manifests", size] => manifests::measure(size.parse()?),
        ["live", "briefly", size] => live::measure_briefly(size.parse()?),
        ["live", size] => live::measure(size.parse()?, None),
        ["live", size, rolling, idle] => {
            let long = live::Long { rolling: seconds(rolling)?, idle: seconds(idle)? };
            live::measure(size.parse()?, Some(long))
        }
        ["churn", size, services] => churn::measure(size.parse()?, services.parse()?),
        ["machinery", size, data] => machinery::measure(size.parse()?, Path::new(data), None),
        ["machinery", size, data, peer] => machinery::measure(size.parse()?, Path::new(data), Some(peer)),
        _ => anyhow::bail!("{words:?} is no measurement"),
    }
}
