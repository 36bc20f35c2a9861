//! The command line, from its words to the resulting options.

#[path = "common/kubeconfig.rs"]
mod kubeconfig;

use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt as _;

use kube_ipvs::options::{Command, Options, Source, from_args};
use kube_ipvs::state::Sysctl;
use kubeconfig::kubeconfig;

fn command(words: &[&str]) -> Result<Command, String> {
    from_args(words.iter().map(OsString::from), std::iter::empty())
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
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
    assert_eq!(options.source, Source::Api { kubeconfig: None, master: None, protobuf: true });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(&*options.node_name, host.trim().to_lowercase());
}

#[test]
fn version_and_help_win_over_what_else_is_said() {
    assert_eq!(printed(&["--version"]), format!("kube-ipvs v{}\n", env!("CARGO_PKG_VERSION")));
    assert!(printed(&["--version=raw"]).contains(concat!("GitVersion:\"v", env!("CARGO_PKG_VERSION"), "\"")));
    let commit = format!("GitCommit:\"{COMMIT}\"");
    assert!(printed(&["--version=raw"]).contains(&commit), "{commit}");
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
    assert!(matches!(command(&words(&["--cleanup-own-stay"])), Ok(Command::CleanupOwnStay(_))));
    assert!(matches!(command(&["--cleanup-own-stay", "--cleanup-own"]), Ok(Command::CleanupOwnStay(_))));
    // The flag that removes more wins.
    assert!(matches!(command(&["--cleanup-own", "--cleanup"]), Ok(Command::Cleanup(_))));
    assert!(matches!(command(&["--cleanup=false"]), Ok(Command::Run(_))));
    assert!(command(&["--cleanup", "--ipvs-exclude-cidrs", "nonsense"]).is_err());
}

#[test]
fn a_dry_run_is_one_of_a_start_alone() {
    assert!(matches!(command(&["--dry-run"]), Ok(Command::DryRun(_))));
    assert!(matches!(command(&["--dry-run=false", "--cleanup"]), Ok(Command::Cleanup(_))));
    for flag in
        ["--cleanup", "--cleanup-own", "--cleanup-own-stay", "--init-only", "--write-config-to=/dev/null"]
    {
        let problem = command(&["--dry-run", flag]).unwrap_err();
        let name = flag.split('=').next().expect("a name");
        assert_eq!(
            problem,
            format!(
                "failed validate: --dry-run and {name} cannot be used together: a dry run says what a start would change"
            )
        );
    }
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

/// Runs the program itself; returns its exit code, standard output and standard error.
fn run(words: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
        .args(words)
        .env_clear()
        .output()
        .expect("kube-ipvs can be started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A named pipe, `file` in `folder`.
fn pipe(folder: &tempfile::TempDir, file: &str) -> std::path::PathBuf {
    let pipe = folder.path().join(file);
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    pipe
}

/// The pipe's writing end, once the program reads it; the program then waits for data, which never comes.
fn when_it_reads(pipe: &std::path::Path) -> Option<std::fs::File> {
    let mut writable = std::fs::OpenOptions::new();
    let writable = writable.write(true).custom_flags(libc::O_NONBLOCK);
    (0..1000).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        writable.open(pipe).ok()
    })
}

#[test]
fn it_goes_on_at_signals_that_mean_nothing() {
    use rustix::process::{Pid, Signal, kill_process};
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = pipe(&folder, "kubeconfig");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("kube-ipvs can be started");
    let writer = when_it_reads(&kubeconfig);
    for signal in [Signal::USR1, Signal::USR2] {
        kill_process(Pid::from_child(&child), signal).expect("it runs");
    }
    drop(writer.expect("it reads its kubeconfig"));
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "the kubeconfig was empty, which is what ends it: {status}");
}

/// In a container nothing else would end it: the kernel withholds signals from the first process unless it handles
/// them.
#[test]
fn it_can_be_stopped_while_a_credential_plugin_takes_its_time() {
    use rustix::process::{Pid, Signal, kill_process};
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = pipe(&folder, "credentials");
    let file = folder.path().join("kubeconfig");
    let user = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: cat, args: [{credentials:?}],
          interactiveMode: Never}}}}"
    );
    std::fs::write(&file, kubeconfig("{server: 'http://127.0.0.1:1'}", &user)).expect("a file");
    for (flags, expected) in [(&[][..], Some(0)), (&["--dry-run"], Some(1)), (&["--init-only"], Some(1))] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
            .arg("--kubeconfig")
            .arg(&file)
            .args(flags)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("kube-ipvs can be started");
        let writer = when_it_reads(&credentials);
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
        let status = child.wait().expect("it ends");
        assert!(writer.is_some(), "the plugin runs");
        assert_eq!(status.code(), expected, "{flags:?}: {status}");
    }
}

#[test]
fn the_program_may_open_as_many_files_as_the_system_lets_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = pipe(&folder, "config");
    let mut child = std::process::Command::new("sh")
        .args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kube-ipvs"), "--config"])
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("kube-ipvs can be started");
    let writer = when_it_reads(&config);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
    child.kill().expect("it waits");
    child.wait().expect("it ends");
    assert!(writer.is_some(), "it reads its configuration");
    let limits = limits.expect("it waits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the line");
    let [soft, hard] = [3, 4].map(|column| line.split_whitespace().nth(column).expect("a number"));
    assert!(soft == hard && hard != "64", "{line}");
}

#[test]
fn what_is_asked_for_goes_to_standard_output() {
    let (code, output, error) = run(&["--help"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(output, printed(&["--help"]));
    let (code, output, error) = run(&["--version"]);
    assert_eq!((code, output, error.as_str()), (Some(0), printed(&["--version"]), ""));
}

#[test]
fn a_wrong_flag_is_an_error_with_usage() {
    let (code, output, error) = run(&["--ipvs-schedular=rr"]);
    assert_eq!((code, output.as_str()), (Some(1), ""));
    assert_eq!(
        error,
        "Error: unknown flag: --ipvs-schedular (did you mean --ipvs-scheduler?); --help lists all flags\n\n\
         Usage: kube-ipvs [flags]\n"
    );
}

#[test]
fn other_errors_are_one_line_of_the_log() {
    for (words, wanted) in [
        (&["--proxy-mode=x"][..], "failed validate: --proxy-mode: Invalid value: "),
        (&["--config=/does/not/exist"], "failed complete: --config=/does/not/exist: cannot read it: "),
        (&["--write-config-to=/does/not/exist"], "--write-config-to=/does/not/exist: No such file"),
    ] {
        let (code, output, error) = run(words);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{words:?}");
        let line = error.lines().last().expect("a line");
        let wanted = format!("] \"command failed\" err=\"{wanted}");
        assert!(line.starts_with('E') && line.contains(&wanted), "{words:?}: {error}");
    }
}

#[test]
fn what_is_wrong_is_told_as_the_log_is_to_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config");
    let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    std::fs::write(&file, format!("{header}logging: {{format: json}}\noomScoreAdj: 5000\n")).expect("a file");
    let config = format!("--config={}", file.display());
    for words in [&["--logging-format=json", "--oom-score-adj=5000"][..], &[&config]] {
        let (code, _, error) = run(words);
        assert_eq!(code, Some(1), "{words:?}");
        let line: serde_json::Value = serde_json::from_str(&error).unwrap_or_else(|_| panic!("{error}"));
        assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &"command failed".into()), "{error}");
        let told = line["err"].as_str().unwrap_or_default();
        assert!(told.starts_with("failed validate: ") && told.contains("5000"), "{error}");
    }
    // The flag counts beside the file. A command line or a file that cannot be read says nothing about the log.
    for words in
        [&[&config, "--logging-format=text"][..], &["--logging-format=json", "--config=/does/not/exist"]]
    {
        let (code, _, error) = run(words);
        assert!(code == Some(1) && error.starts_with('E'), "{words:?}: {error}");
    }
}

#[test]
fn the_settings_can_be_written_and_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let write = |file: &std::path::Path| format!("--write-config-to={}", file.display());
    let flags = ["--ipvs-tcp-timeout=900s", "--cluster_cidr=10.244.0.0/16", "-v=1"];
    let (code, _, log) = run(&[&[&*write(&first)], &flags[..]].concat());
    assert_eq!(code, Some(0), "{log}");
    for line in [
        "] FLAG: --ipvs-tcp-timeout=\"15m0s\"\n",
        "] FLAG: --oom-score-adj=\"-999\"\n",
        "\"Wrote configuration\"",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let text = std::fs::read_to_string(&first).expect("the file");
    for line in [
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n",
        "mode: ipvs\n",
        "detectLocalMode: ClusterCIDR\n",
        "  tcpTimeout: 15m0s\n",
        "ipvs:\n  excludeCIDRs: null\n  minSyncPeriod: 0s\n",
        "clusterCIDR: 10.244.0.0/16\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // With a file, the result is that file, completed; flags that it replaces do not count.
    let config = format!("--config={}", first.display());
    assert_eq!(Options { config_file: None, ..options(&[&config]) }, options(&flags));
    let (code, _, log) = run(&[&config, &write(&second), "--ipvs-tcp-timeout=1s"]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(std::fs::read_to_string(&second).expect("the file"), text);
    // At -v=0 flags are not logged. An empty mode becomes this program's.
    let (code, _, log) = run(&[&write(&second), "--proxy-mode="]);
    assert!(code == Some(0) && !log.contains("FLAG"), "{log}");
    assert!(std::fs::read_to_string(&second).expect("the file").contains("\nmode: ipvs\n"));
}

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README")
}

/// The paragraph of the README that contains these words.
fn paragraph(words: &str) -> String {
    let text = readme();
    let found: Vec<_> = text.split("\n\n").filter(|paragraph| paragraph.contains(words)).collect();
    let [paragraph] = &found[..] else { panic!("{words}: {found:?}") };
    (*paragraph).to_owned()
}

#[test]
fn the_readme_names_every_kernel_parameter_that_is_set() {
    let paragraph = paragraph("What it sets on the host");
    for sysctl in Sysctl::ALL {
        let name = sysctl.path().rsplit('/').next().expect("a name");
        assert!(paragraph.contains(&format!("`{name}`")), "{name}");
    }
    assert!(paragraph.contains("timeouts: for TCP 24 hours"), "{paragraph}");
}

#[test]
fn the_readme_names_every_set_of_the_table() {
    let paragraph = paragraph("The sets are");
    let source = include_str!("../src/kernel/nft/sets.rs");
    let named = source.split("set(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let names: Vec<_> = named.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        assert!(paragraph.contains(&format!("`{name}`")), "{name}");
    }
}

/// The commit that the program is built from. `.ci/run` sets one, so that a missing one shows.
const COMMIT: &str = match option_env!("GIT_COMMIT") {
    Some(commit) => commit,
    None => "",
};

#[test]
fn the_log_says_what_the_program_was_built_from() {
    // Nothing is touched before the kubeconfig is read.
    let (code, _, log) = run(&["--kubeconfig=/does/not/exist"]);
    assert_eq!(code, Some(1), "{log}");
    let said = |line: &&str| line.contains("\"Version info\"");
    let line = log.lines().find(said).unwrap_or_default();
    assert!(line.contains(concat!(" version=\"v", env!("CARGO_PKG_VERSION"), "\"")), "{log}");
    let commit = if COMMIT.is_empty() { String::new() } else { format!(" commit=\"{COMMIT}\"") };
    assert_eq!(
        line.split_once(concat!("v", env!("CARGO_PKG_VERSION"), "\"")).expect("a line").1,
        commit,
        "{log}"
    );
}

/// `docker build` has no repository: `make image` passes the commit on to the compiler.
#[test]
fn the_image_is_built_with_the_commit() {
    let read = |name: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
    };
    assert!(read("Makefile").contains("docker build --build-arg COMMIT=\"$$(git describe"));
    let dockerfile = read("Dockerfile");
    let (_, rest) = dockerfile.split_once("\nARG COMMIT=\n").expect("the argument");
    assert!(rest.starts_with("RUN GIT_COMMIT=\"$COMMIT\" cargo build"), "{rest}");
}

/// The flags of the README's table, with their defaults.
fn documented() -> Vec<(String, String)> {
    let mut documented = Vec::new();
    for row in readme().lines().filter(|line| line.starts_with("| `-")) {
        let mut columns = row.split('|').map(str::trim).skip(1);
        let mut words = || -> Vec<String> {
            let column = columns.next().expect("a column");
            column.split(", ").map(|word| word.trim_matches('`').to_owned()).collect()
        };
        let (names, defaults) = (words(), words());
        for (position, name) in names.into_iter().enumerate() {
            // One default for all, or one for each.
            let default = defaults.get(position).unwrap_or(&defaults[0]);
            documented.push((name, default.clone()));
        }
    }
    documented
}

#[test]
fn the_readme_says_the_defaults_that_the_help_says() {
    let help = printed(&["--help"]);
    let lines: Vec<&str> = help.lines().map(str::trim).collect();
    let shown = |flag: &str| {
        let is_it = |line: &&str| {
            let names = line.split(['<', '[']).next().unwrap_or_default();
            names.split(", ").any(|name| name.trim() == flag)
        };
        let position = lines.iter().position(is_it).unwrap_or_else(|| panic!("{flag}"));
        let default =
            lines[position + 1].rsplit_once("(default ").and_then(|(_, rest)| rest.strip_suffix(')'));
        let is_switch = lines[position].contains("[=<true|false>]");
        (default.unwrap_or_default().replace("h0m0s", "h"), is_switch)
    };
    let documented = documented();
    assert!(documented.len() > 35, "{documented:?}");
    for (flag, default) in documented {
        // The README describes in words what replaces an empty value.
        let said = match flag.as_str() {
            "--hostname-override" | "--nodeport-addresses" => continue,
            "--ipvs-scheduler" => "",
            _ => default.as_str(),
        };
        let (shown, is_switch) = shown(&flag);
        let said = if is_switch && said == "false" { "" } else { said };
        assert_eq!(said, shown, "{flag}");
    }
}

#[test]
fn it_is_the_same_under_the_name_of_kube_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("kube-proxy");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kube-ipvs"), &name).expect("a link");
    let output = std::process::Command::new(name).arg("--help").output().expect("it can be started");
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), printed(&["--help"]));
}
