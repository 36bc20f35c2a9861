//! SIGTERM ends the program, whatever it is waiting for.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::folder;
use crate::kubeconfig::kubeconfig;
use crate::lab::shell;
use crate::proxy::Proxy;
use crate::tools::wait_for;

/// Ends the program, and asserts that this takes no longer than anyone would wait.
fn ends_soon(proxy: Proxy) {
    let begun = Instant::now();
    let (status, log) = proxy.terminate();
    assert_eq!(status, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}:\n{log}", begun.elapsed());
}

pub(crate) fn a_name_server_that_does_not_answer_does_not_hold_up_the_end() {
    let folder = folder();
    let silent = UdpSocket::bind("127.0.0.1:53").expect("the port of a name server");
    let settings = folder.path().join("resolv.conf");
    fs::write(&settings, "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").expect("a file");
    let lines = "mount --bind \"$SETTINGS\" /etc/resolv.conf
        exec \"$PROGRAM\" --master http://api.kube-ipvs.test:6443 --hostname-override node1";
    let settings = settings.to_string_lossy();
    let variables = [("PROGRAM", env!("CARGO_BIN_EXE_kube-ipvs")), ("SETTINGS", &*settings)];
    let proxy = Proxy::of_shell(folder.path(), "unresolved", lines, &variables);
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    silent.recv(&mut [0; 512]).unwrap_or_else(|error| panic!("nobody asks: {error}\n{}", proxy.log()));
    ends_soon(proxy);
}

pub(crate) fn a_plugin_that_hangs_does_not_hold_up_the_end_and_goes_with_it() {
    let folder = folder();
    let (runs, file) = (folder.path().join("runs"), folder.path().join("kubeconfig"));
    // At the start the plugin answers, with a token that has expired.
    let plugin = folder.path().join("plugin");
    let runs_text = runs.display();
    fs::write(
        &plugin,
        format!(
            "echo $$ >> {runs_text}\n\
             [ $(wc -l < {runs_text}) = 1 ] || sleep 1000\n\
             echo '{{\"status\": {{\"token\": \"t\", \"expirationTimestamp\": \"2020-01-01T00:00:00Z\"}}}}'\n"
        ),
    )
    .expect("a script");
    let user = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: [{}]}}}}",
        plugin.display()
    );
    fs::write(&file, kubeconfig("{server: 'http://127.0.0.1:1'}", &user)).expect("a kubeconfig");
    let file = file.to_string_lossy();
    let proxy =
        Proxy::start(folder.path(), "plugin", &["--kubeconfig", &*file, "--hostname-override", "node1"]);
    let begun = |runs: &Path| fs::read_to_string(runs).unwrap_or_default();
    wait_for("the plugin is asked again", 20, || begun(&runs).lines().count() == 2);
    // By now each watch waits for it, or soon will.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(begun(&runs).lines().count(), 2, "one at a time");
    let group = begun(&runs).lines().last().expect("two").to_owned();
    let members = || {
        let all = shell("ps -e -o pgid= -o stat=");
        let fields = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields[0] == group && !fields[1].starts_with('Z')).count()
    };
    assert_eq!(members(), 2, "the shell, and what it waits for");
    ends_soon(proxy);
    wait_for("the plugin is gone", 5, || members() == 0);
}
