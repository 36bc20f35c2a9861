//! The command line, from its words to what the program is told.

use std::ffi::OsString;

use kube_ipvs::options::{Command, Options, Source, from_args};

fn command(words: &[&str]) -> Result<Command, String> {
    from_args(words.iter().map(OsString::from), std::iter::empty()).map_err(|error| error.to_string())
}

fn options(words: &[&str]) -> Options {
    match command(words) {
        Ok(Command::Run(merged)) => merged.options,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn printed(words: &[&str]) -> String {
    match command(words) {
        Ok(Command::Print(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn without_words_the_credentials_of_the_pod_and_the_name_of_the_host() {
    let options = options(&[]);
    assert_eq!(options.source, Source::Api { kubeconfig: None, master: None });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(&*options.node_name, host.trim().to_lowercase());
}

#[test]
fn version_and_help_win_over_what_else_is_said() {
    assert_eq!(printed(&["--version"]), format!("kube-ipvs v{}\n", env!("CARGO_PKG_VERSION")));
    assert!(printed(&["--version=raw"]).contains(concat!("GitVersion:\"v", env!("CARGO_PKG_VERSION"), "\"")));
    assert_eq!(printed(&["--config=/does/not/exist", "--version"]), printed(&["--version"]));
    assert_eq!(printed(&["-h"]), printed(&["--help", "--proxy-mode=iptables"]));
    assert!(command(&["--version=false"]).is_ok_and(|command| matches!(command, Command::Run(_))));
}

#[test]
fn the_cleanups_are_commands_and_know_the_options() {
    let excluded = ["--ipvs-exclude-cidrs", "203.0.113.0/24"];
    let words = |flags: &[&'static str]| [flags, &excluded].concat();
    assert!(
        matches!(command(&words(&["--cleanup"])), Ok(Command::Cleanup(merged)) if merged.options.proxy.exclude_cidrs.len() == 1)
    );
    assert!(matches!(command(&words(&["--cleanup-own"])), Ok(Command::CleanupOwn(_))));
    // The one that removes more.
    assert!(matches!(command(&["--cleanup-own", "--cleanup"]), Ok(Command::Cleanup(_))));
    assert!(matches!(command(&["--cleanup=false"]), Ok(Command::Run(_))));
    assert!(command(&["--cleanup", "--ipvs-exclude-cidrs", "nonsense"]).is_err());
}

#[test]
fn what_is_wrong_is_one_line() {
    for (words, line) in [
        (&["--no-such-flag"][..], "unknown flag: --no-such-flag; --help lists all flags"),
        (
            &["--config=/does/not/exist"],
            "failed complete: --config=/does/not/exist: cannot read it: No such file or directory (os error 2)",
        ),
        (&["--config=/"], "failed complete: --config=/: cannot read it: Is a directory (os error 21)"),
        (
            &["--ipvs-tcp-timeout=15"],
            "--ipvs-tcp-timeout: Invalid value: \"15\": a duration needs a unit: write for example 90s, 15m or 1h30m",
        ),
        (
            &["--cluster-cidr=10.244.0.0/33"],
            "failed validate: --cluster-cidr: Invalid value: \"10.244.0.0/33\": must be a network such as \
             10.244.0.0/16, or one of each IP family separated by a comma",
        ),
        (
            &["--proxy_mode", "nftables"],
            "failed validate: --proxy-mode: Invalid value: \"nftables\": must be \"ipvs\" or empty; for mode nftables \
             use kube-proxy",
        ),
    ] {
        assert_eq!(command(words).unwrap_err(), line, "{words:?}");
    }
}
