use super::*;
use crate::options::duration::GoDuration;

fn parsed(words: &[&str]) -> Result<Flags, String> {
    parse(words.iter().map(OsString::from))
}

fn settings(words: &[&str]) -> Settings {
    parsed(words).unwrap_or_else(|problem| panic!("{words:?}: {problem}")).settings
}

#[test]
fn values_reach_their_settings() {
    let text = |text: &str| Some(text.to_owned());
    let time = |seconds| Some(GoDuration::from_seconds(seconds));
    for (words, wanted) in [
        (&["--kubeconfig", "/a"][..], Settings { kubeconfig: Some("/a".into()), ..Settings::default() }),
        (&["--kubeconfig="], Settings::default()),
        (&["--hostname-override=n"], Settings { hostname_override: text("n"), ..Settings::default() }),
        (&["--hostname_override", "a_b"], Settings { hostname_override: text("a_b"), ..Settings::default() }),
        (&["--hostname_override=a_b"], Settings { hostname_override: text("a_b"), ..Settings::default() }),
        (
            &["--hostname-override", "--a_b"],
            Settings { hostname_override: text("--a_b"), ..Settings::default() },
        ),
        (
            &["--proxy-mode", "--masquerade-all"],
            Settings { mode: text("--masquerade-all"), ..Settings::default() },
        ),
        (&["--proxy-mode=a", "--proxy-mode=b"], Settings { mode: text("b"), ..Settings::default() }),
        (&["--proxy-mode="], Settings { mode: text(""), ..Settings::default() }),
        (&["--ipvs-scheduler", "lc"], Settings { scheduler: text("lc"), ..Settings::default() }),
        (&["--ipvs-tcp-timeout=15m0s"], Settings { tcp_timeout: time(900), ..Settings::default() }),
        (&["--ipvs-tcpfin-timeout", "30s"], Settings { tcp_fin_timeout: time(30), ..Settings::default() }),
        (&["--ipvs-udp-timeout", "0"], Settings { udp_timeout: time(0), ..Settings::default() }),
        (&["--ipvs-sync-period", "1m"], Settings { sync_period: time(60), ..Settings::default() }),
        (
            &["--ipvs-min-sync-period", "-1s"],
            Settings { min_sync_period: "-1s".parse().ok(), ..Settings::default() },
        ),
        (
            &["--ipvs-exclude-cidrs=a,b", "--ipvs-exclude-cidrs", "c"],
            Settings { exclude_cidrs: Some(vec!["a".into(), "b".into(), "c".into()]), ..Settings::default() },
        ),
        (&["--ipvs-exclude-cidrs="], Settings { exclude_cidrs: Some(vec![]), ..Settings::default() }),
        (&["--cluster-cidr=a,b"], Settings { cluster_cidr: text("a,b"), ..Settings::default() }),
        (&["--masquerade-all"], Settings { masquerade_all: Some(true), ..Settings::default() }),
        (&["--masquerade_all=F"], Settings { masquerade_all: Some(false), ..Settings::default() }),
        (
            &["--masquerade-all", "--masquerade-all=0"],
            Settings { masquerade_all: Some(false), ..Settings::default() },
        ),
        (&["--iptables-masquerade-bit=7"], Settings { masquerade_bit: Some(7), ..Settings::default() }),
        (&["--iptables-masquerade-bit=0x1F"], Settings { masquerade_bit: Some(31), ..Settings::default() }),
        (&["--iptables-masquerade-bit=016"], Settings { masquerade_bit: Some(14), ..Settings::default() }),
        (&["--iptables-masquerade-bit", "-1"], Settings { masquerade_bit: Some(-1), ..Settings::default() }),
        (&["--healthz-bind-address", ""], Settings { healthz_bind_address: text(""), ..Settings::default() }),
        (
            &["--metrics-bind-address=::"],
            Settings { metrics_bind_address: text("::"), ..Settings::default() },
        ),
        (&["-v", "4"], Settings { verbosity: Some(4), ..Settings::default() }),
        (&["-v=4"], Settings { verbosity: Some(4), ..Settings::default() }),
        (&["-v4"], Settings { verbosity: Some(4), ..Settings::default() }),
        (&["--v=4"], Settings { verbosity: Some(4), ..Settings::default() }),
        (&["--v", "4", "--v", "2"], Settings { verbosity: Some(2), ..Settings::default() }),
        (&["", "--"], Settings::default()),
        (&["--", ""], Settings::default()),
    ] {
        assert_eq!(settings(words), wanted, "{words:?}");
    }
}

#[test]
fn what_is_not_in_the_file() {
    let flags =
        parsed(&["--config", "c_d", "--master=http://x", "--manifests=a,b", "--manifests", "c"]).unwrap();
    assert_eq!(flags.config, Some("c_d".into()));
    assert_eq!(flags.master.as_deref(), Some("http://x"));
    assert_eq!(flags.manifests, [PathBuf::from("a,b"), PathBuf::from("c")]);
    for (words, version, help) in [
        (&["--version"][..], Some(VersionForm::Plain), false),
        (&["--version=raw"], Some(VersionForm::Raw), false),
        (&["--version=true"], Some(VersionForm::Plain), false),
        (&["--version=false"], None, false),
        (&["--help"], None, true),
        (&["-h"], None, true),
    ] {
        let flags = parsed(words).unwrap();
        assert_eq!((flags.version, flags.help), (version, help), "{words:?}");
    }
}

#[test]
fn a_path_needs_no_utf8() {
    let path = OsString::from_vec(b"/x\xff_y".to_vec());
    let flags = parse([OsString::from("--config"), path.clone()].into_iter()).unwrap();
    assert_eq!(flags.config, Some(path.into()));
}

#[test]
fn what_is_wrong_is_one_clear_line() {
    const BAD_TIME: &str = "a duration needs a unit: write for example 90s, 15m or 1h30m";
    for (words, line) in [
        (
            &["--ipvs-schedular=rr"][..],
            "unknown flag: --ipvs-schedular (did you mean --ipvs-scheduler?); --help lists all flags",
        ),
        (&["--cleanup-ipvs"], "unknown flag: --cleanup-ipvs; --help lists all flags"),
        (&["--logtostderr=true"], "unknown flag: --logtostderr; --help lists all flags"),
        (&["-x"], "unknown flag: -x; --help lists all flags"),
        (&["-config=x"], "unknown flag: -c; --help lists all flags"),
        (&["run"], "unexpected argument \"run\": only flags are taken; the value of a switch follows a '='"),
        (
            &["--", "--version"],
            "unexpected argument \"--version\": only flags are taken; the value of a switch follows a '='",
        ),
        (
            &["--masquerade-all", "false"],
            "unexpected argument \"false\": only flags are taken; the value of a switch follows a '='",
        ),
        (&["--masquerade-all=maybe"], "--masquerade-all: Invalid value: \"maybe\": must be true or false"),
        (&["--masquerade-all="], "--masquerade-all: Invalid value: \"\": must be true or false"),
        (&["--version=1.2"], "--version: Invalid value: \"1.2\": must be true, false or raw"),
        (&["--kubeconfig"], "flag needs a value: --kubeconfig <file>"),
        (&["-v"], "flag needs a value: --v <level>"),
        (&["-v", "high"], "--v: Invalid value: \"high\": must be a whole number"),
        (&["--v="], "--v: Invalid value: \"\": must be a whole number"),
        (
            &["--iptables-masquerade-bit=x"],
            "--iptables-masquerade-bit: Invalid value: \"x\": must be a whole number",
        ),
        (
            &["--iptables-masquerade-bit="],
            "--iptables-masquerade-bit: Invalid value: \"\": must be a whole number",
        ),
        (
            &["--iptables-masquerade-bit=0x+1"],
            "--iptables-masquerade-bit: Invalid value: \"0x+1\": must be a whole number",
        ),
        (&["--manifests="], "--manifests: Invalid value: \"\": must be the path of a file or a folder"),
    ] {
        assert_eq!(parsed(words).unwrap_err(), line, "{words:?}");
    }
    assert_eq!(
        parsed(&["--ipvs-udp-timeout=30"]).unwrap_err(),
        format!("--ipvs-udp-timeout: Invalid value: \"30\": {BAD_TIME}")
    );
    // A wrong value is an error even where a later one would win.
    assert!(parsed(&["--ipvs-udp-timeout=30", "--ipvs-udp-timeout=30s"]).is_err());
}

#[test]
fn a_file_replaces_what_is_bound_to_it() {
    let words =
        ["--config=x", "--kubeconfig=k", "--master=m", "--hostname-override=h", "-v=1", "--proxy-mode=ipvs"];
    let flags = parsed(&words).unwrap();
    assert_eq!(flags.replaced_by_file().collect::<Vec<_>>(), ["kubeconfig", "proxy-mode"]);
}

#[test]
fn the_help_names_every_flag() {
    insta::assert_snapshot!(help());
}

proptest::proptest! {
    #[test]
    fn no_words_make_it_panic(words: Vec<String>) {
        let _ = parse(words.into_iter().map(OsString::from));
    }
}
