//! The lab's scripts, and what they run.

#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/lab.rs"]
mod lab;

use lab::{shell, try_shell};

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        administrators_programs_are_found_on_the_hosts_kernel,
        what_a_killed_build_left_goes_with_the_next_one,
        daemons_that_come_with_packages_are_neither_started_nor_enabled,
        the_walk_through_is_what_users_see,
    ])
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab");

fn administrators_programs_are_found_on_the_hosts_kernel() {
    // The lab's kernel serves as such a host.
    let found = shell(&format!(
        "PATH=/usr/bin:/bin LAB_HOST=yes {FOLDER}/run.sh sh -c 'for name in ipvsadm nft sysctl; do command -v $name; done; echo $LAB'"
    ));
    let found: Vec<_> = found.lines().collect();
    assert!(matches!(found[..], [_, _, _, "host"]), "{found:?}");
}

/// `make demo`: the script itself checks each step.
fn the_walk_through_is_what_users_see() {
    // Redirected, since the processes that it leaves running would hold a pipe open.
    let program = env!("CARGO_BIN_EXE_kube-ipvs");
    let play = format!("{FOLDER}/demo/play.sh {program} >$TMPDIR/played 2>&1 </dev/null");
    let (success, _) = try_shell(&play);
    let output = shell("cat $TMPDIR/played");
    let failed: Vec<_> = output.lines().filter(|line| line.contains("✗")).collect();
    assert!(success && failed.is_empty() && output.contains("✓"), "{failed:#?}\n{output}");
}

fn what_a_killed_build_left_goes_with_the_next_one() {
    // A build that ends before it begins: its packages cannot be installed.
    let left = shell(&format!(
        r#"dir=$(mktemp -d); cd "$dir"
        cp {FOLDER}/kernel.sh {FOLDER}/uml.config .
        printf '#!/bin/sh\nexit 1\n' >packages.sh; chmod +x packages.sh
        cache=$dir/kube-ipvs-lab
        mkdir -p "$cache/.build-linux-killed" "$cache/.build-others" "$cache/linux-source-0-0"
        touch "$cache/.build-linux-killed.log" "$cache/.build-linux-killed/Makefile"
        build() {{ XDG_CACHE_HOME=$dir LAB_KERNEL=linux-source-0.0 timeout 2 ./kernel.sh && echo "it was built"; }}
        # Not while somebody else builds.
        flock "$cache/lock" sleep 3 & sleep 0.5
        build
        [ -d "$cache/.build-linux-killed" ] || echo "it was in use"
        wait
        build
        ls -A "$cache"; rm -rf "$dir""#
    ));
    let lines: Vec<_> = left.lines().filter(|line| !line.starts_with("lab: ")).collect();
    assert_eq!(lines, [".build-others", "linux-source-0-0", "lock"], "{left}");
}

/// Runs `packages.sh PACKAGES` after these lines, with programs and folders of its own, as on a system with systemd and
/// without any of the packages; the first line says what is installed.
const INSTALL: &str = r#"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/sbin
mkdir -p /run/systemd/system /run/programs
cd /run/programs
# What Debian's packages do when they are configured.
cat >apt-get <<'END'
#!/bin/sh
[ -x /usr/sbin/policy-rc.d ] || exit 0
for action in start '(start)' restart; do
	if /usr/sbin/policy-rc.d etcd.service "$action"; then echo "$action is allowed"; else echo "$action: $?"; fi
done >>/run/told
END
cat >dpkg-query <<'END'
#!/bin/sh
exit 1
END
cat >dpkg <<'END'
#!/bin/sh
printf '%s\n' /. /etc/init.d/etcd /lib/systemd/system/etcd.service
END
cat >systemctl <<'END'
#!/bin/sh
echo systemctl "$@" >>/run/told
END
chmod +x *
touch /run/told
eval "$before"
PATH=/run/programs:$PATH "$folder/packages.sh" "$packages" 2>/dev/null
[ ! -e /usr/sbin/policy-rc.d ] || cat /usr/sbin/policy-rc.d
cat /run/told
"#;

fn daemons_that_come_with_packages_are_neither_started_nor_enabled() {
    let install = |before: &str, packages: &str| {
        shell(&format!(
            "export before='{before}' packages='{packages}' folder='{FOLDER}'
             exec unshare --mount sh -e <<'SCRIPT'\n{INSTALL}SCRIPT"
        ))
    };
    let expected =
        "start: 101\n(start): 101\nrestart is allowed\nsystemctl --quiet disable --now etcd.service\n";
    assert_eq!(install("", "no-such-command=etcd-server"), expected);
    let left = "{ echo \"#!/bin/sh\"; grep -o \"# kube-ipvs, .*installed\" \"$folder/packages.sh\"; } >/usr/sbin/policy-rc.d";
    assert_eq!(install(left, "etcd-server"), expected, "one that a run left that was killed");
    let owners = "{ echo \"#!/bin/sh\"; echo \"exit 104\"; } >/usr/sbin/policy-rc.d";
    let expected = "#!/bin/sh\nexit 104\nsystemctl --quiet disable --now etcd.service\n";
    assert_eq!(install(owners, "etcd-server"), expected, "the owner's");
    assert_eq!(install("", "no-such-command=procps"), "", "what has no daemon that is not wanted");
}
