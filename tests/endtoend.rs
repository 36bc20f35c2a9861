//! The whole program on a real kernel: manifests become kernel state, a restart changes nothing, drift is repaired, and
//! nothing of anybody else is touched. The kernel is read with administrators' tools.

#[path = "endtoend/crowded.rs"]
mod crowded;
#[path = "common/kubeconfig.rs"]
mod kubeconfig;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/pods.rs"]
mod pods;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "endtoend/serving.rs"]
mod serving;
#[path = "endtoend/setup.rs"]
mod setup;
#[path = "endtoend/stopping.rs"]
mod stopping;
#[path = "common/tools.rs"]
mod tools;
#[path = "endtoend/troubleshooting.rs"]
mod troubleshooting;
#[path = "endtoend/unnumbered.rs"]
mod unnumbered;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crowded::manifests_are_read_where_no_thread_can_be_started;
use lab::{shell, try_shell};
use pods::{in_pod, pod};
use proxy::{Proxy, get};
use serving::{
    a_kernel_that_keeps_refusing_makes_the_node_unhealthy, a_node_that_is_being_removed_is_unhealthy,
    a_service_and_an_address_explain_themselves, an_address_in_use_is_tried_again_or_ends_the_program,
    every_write_is_named_in_the_log_for_who_wants_that, health_check_ports_follow_their_services,
    pages_show_what_the_program_was_told,
    where_replies_are_dropped_the_node_is_unhealthy_until_they_are_accepted,
};
use setup::{
    a_configuration_file_that_changes_ends_it, initialization_is_a_run_of_its_own, the_host_is_set_up,
};
use stopping::{
    a_name_server_that_does_not_answer_does_not_hold_up_the_end,
    a_plugin_that_hangs_does_not_hold_up_the_end_and_goes_with_it,
};
use tools::{ipvsadm, kernel, wait_for};
use troubleshooting::the_commands_of_the_readme_find_out_what_they_say;
use unnumbered::no_pod_sees_a_service_address;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        manifests_become_kernel_state,
        changes_apply_live,
        a_restart_writes_nothing,
        a_connection_survives_kill_and_restart,
        drift_is_repaired,
        what_is_foreign_stays,
        leftovers_of_a_crash_are_removed,
        sigterm_leaves_the_data_plane,
        a_name_server_that_does_not_answer_does_not_hold_up_the_end,
        a_plugin_that_hangs_does_not_hold_up_the_end_and_goes_with_it,
        a_removed_endpoint_drains,
        every_scheduler_of_the_kernel_works,
        bad_input_changes_nothing,
        a_folder_that_is_unmounted_withdraws_nothing,
        manifests_are_read_where_no_thread_can_be_started,
        health_and_metrics_answer,
        health_check_ports_follow_their_services,
        a_node_that_is_being_removed_is_unhealthy,
        pages_show_what_the_program_was_told,
        a_service_and_an_address_explain_themselves,
        every_write_is_named_in_the_log_for_who_wants_that,
        the_commands_of_the_readme_find_out_what_they_say,
        an_address_in_use_is_tried_again_or_ends_the_program,
        the_host_is_set_up,
        initialization_is_a_run_of_its_own,
        a_configuration_file_that_changes_ends_it,
        a_kernel_that_keeps_refusing_makes_the_node_unhealthy,
        where_replies_are_dropped_the_node_is_unhealthy_until_they_are_accepted,
        no_pod_sees_a_service_address,
    ])
}

/// A Service and its slice, as a manifest.
fn web(cluster_ip: &str, endpoints: &[&str]) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|address| format!("{{addresses: [\"{address}\"]}}")).collect();
    let family = if cluster_ip.contains(':') { "IPv6" } else { "IPv4" };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec: {{clusterIP: \"{cluster_ip}\", ipFamilies: [{family}], ports: [{{port: 80, protocol: TCP}}, {{name: u, port: 53, protocol: UDP}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{name: \"\", port: 8080, protocol: TCP}}, {{name: u, port: 5353, protocol: UDP}}]
endpoints: [{}]
",
        endpoints.join(", ")
    )
}

const SERVERS: &str = "TCP 10.96.0.1:80 rr
  -> 10.244.0.2:8080 Masq 1 0 0
  -> 10.244.0.3:8080 Masq 1 0 0
UDP 10.96.0.1:53 rr
  -> 10.244.0.2:5353 Masq 1 0 0
  -> 10.244.0.3:5353 Masq 1 0 0
";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn put(folder: &Path, name: &str, text: &str) {
    let temporary = folder.join(format!(".{name}"));
    fs::write(&temporary, text).expect("a manifest");
    fs::rename(temporary, folder.join(name)).expect("a manifest");
}

fn start(folder: &Path, name: &str) -> Proxy {
    let manifests = folder.join("manifests").to_string_lossy().into_owned();
    let pods = "10.244.0.0/16,fd00:10:244::/56";
    Proxy::on_node(folder, name, "node1", pods, &["--manifests", &manifests])
}

/// A folder with `manifests/web.yaml`, and a proxy that has written its state.
fn running() -> (tempfile::TempDir, Proxy) {
    let folder = folder();
    fs::create_dir(folder.path().join("manifests")).expect("a folder");
    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.2", "10.244.0.3"]));
    let mut proxy = start(folder.path(), "first");
    proxy.wait_synced();
    (folder, proxy)
}

fn manifests_become_kernel_state() {
    let (_folder, proxy) = running();
    assert_eq!(ipvsadm(), SERVERS);
    let device = shell("ip addr show kube-ipvs0");
    assert!(device.contains("<BROADCAST,NOARP>") && device.contains("state DOWN"), "{device}");
    assert!(device.contains("inet 10.96.0.1/32 brd 10.96.0.1 scope global kube-ipvs0"), "{device}");
    let route = shell("ip route show table local dev kube-ipvs0");
    assert!(route.contains("local 10.96.0.1 proto kernel scope host src 10.96.0.1"), "{route}");
    let rules = shell("nft list ruleset");
    assert!(rules.contains("table ip kube-ipvs") && rules.contains("table ip6 kube-ipvs"), "{rules}");
    assert!(rules.contains("elements = { 10.96.0.1 }"), "{rules}");
    for (sysctl, value) in [
        ("vs/conntrack", "1"),
        ("vs/expire_nodest_conn", "1"),
        ("vs/expire_quiescent_template", "1"),
        ("ip_forward", "1"),
    ] {
        assert_eq!(
            fs::read_to_string(format!("/proc/sys/net/ipv4/{sysctl}")).expect("a sysctl").trim(),
            value
        );
    }
    assert!(proxy.log().contains("\"Using ipvs Proxier\""), "{}", proxy.log());
}

fn changes_apply_live() {
    let (folder, _proxy) = running();
    let manifests = folder.path().join("manifests");
    put(&manifests, "web.yaml", &web("10.96.0.2", &["10.244.0.3"]));
    wait_for("the cluster IP changes", 5, || {
        let list = ipvsadm();
        list.contains("TCP 10.96.0.2:80 rr\n  -> 10.244.0.3:8080 Masq 1") && !list.contains("10.96.0.1")
    });
    wait_for("the address follows", 5, || {
        let device = shell("ip addr show kube-ipvs0");
        device.contains("10.96.0.2/32") && !device.contains("10.96.0.1/32")
    });
    put(&manifests, "six.yaml", &web("fd00:10:96::1", &["fd00:10:244::2"]).replace("web", "six"));
    wait_for("IPv6 too", 5, || {
        ipvsadm().contains("TCP [fd00:10:96::1]:80 rr\n  -> [fd00:10:244::2]:8080 Masq 1")
    });
    let address = shell("ip -6 addr show kube-ipvs0");
    assert!(address.contains("inet6 fd00:10:96::1/128 scope global nodad deprecated"), "{address}");
    assert!(address.contains("preferred_lft 0sec"), "{address}");
    assert!(!address.contains("tentative"), "{address}");
    put(&manifests, "six.yaml", "kind: nonsense: broken");
    fs::remove_file(manifests.join("web.yaml")).expect("the manifest");
    wait_for("a deleted file withdraws, a broken one does not", 5, || {
        let list = ipvsadm();
        !list.contains("10.96.0.2") && list.contains("[fd00:10:96::1]:80")
    });
    wait_for("nothing of the Service is left", 5, || {
        !shell("nft list ruleset").contains("10.96.0.2")
            && !shell("ip route show table local").contains("10.96.0.2")
    });
}

fn a_restart_writes_nothing() {
    let (folder, proxy) = running();
    assert!(proxy.writes() > 5, "the first run counts what it wrote");
    proxy.kill();
    for name in ["second", "third"] {
        let mut proxy = start(folder.path(), name);
        proxy.wait_synced();
        assert_eq!(proxy.writes(), 0, "{}", proxy.log());
        assert_eq!(ipvsadm(), SERVERS);
        proxy.kill();
    }
    let monitor = folder.path().join("monitor");
    let monitored = || fs::read_to_string(&monitor).expect("its output");
    let mut watching = std::process::Command::new("ip")
        .args(["monitor", "link", "address", "route"])
        .stdout(fs::File::create(&monitor).expect("a file"))
        .spawn()
        .expect("ip monitor");
    // `ip monitor` receives events, and keeps receiving them.
    let hears = |address: &str| {
        shell(&format!("ip address add {address} dev lo; ip address del {address} dev lo"));
        monitored().contains(address)
    };
    wait_for("ip monitor hears of an address", 10, || hears("192.0.2.77/32"));
    let before = monitored().len();
    let mut proxy = start(folder.path(), "watched");
    proxy.wait_synced();
    assert_eq!(proxy.writes(), 0, "{}", proxy.log());
    let written = monitored()[before..].to_owned();
    wait_for("ip monitor still hears", 10, || hears("192.0.2.78/32"));
    watching.kill().expect("ip monitor runs");
    watching.wait().expect("ip monitor ends");
    assert_eq!(written, "");
}

fn a_connection_survives_kill_and_restart() {
    let folder = folder();
    pod("client", "10.244.0.9", "10.244.0.254");
    pod("server", "10.244.0.2", "10.244.0.254");
    fs::create_dir(folder.path().join("manifests")).expect("a folder");
    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let mut proxy = start(folder.path(), "first");
    proxy.wait_synced();

    let listener = in_pod("server", || std::net::TcpListener::bind("10.244.0.2:8080").expect("a port"));
    let mut stream = in_pod("client", || {
        std::net::TcpStream::connect_timeout(
            &"10.96.0.1:80".parse().expect("an address"),
            Duration::from_secs(5),
        )
        .expect("a connection through the service address")
    });
    let (mut served, peer) = listener.accept().expect("the connection");
    assert_eq!(peer.ip().to_string(), "10.244.0.9", "a pod keeps its address");
    for stream in [&stream, &served] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    }
    let mut talk = |word: &str| {
        let mut heard = [0; 5];
        stream.write_all(word.as_bytes()).expect("to the server");
        served.read_exact(&mut heard).expect("from the client");
        served.write_all(&heard).expect("to the client");
        stream.read_exact(&mut heard).expect("from the server");
        assert_eq!(heard, word.as_bytes());
    };
    talk("first");
    proxy.kill();
    talk("alone");
    let mut proxy = start(folder.path(), "second");
    proxy.wait_synced();
    talk("again");
    assert_eq!(proxy.writes(), 0);
}

/// How long a repair may take: a look rests for a multiple of the previous look's cost, which rises beside other work;
/// a round of the audit then takes minutes.
const REPAIRED_SECONDS: u64 = 300;

fn drift_is_repaired() {
    let (_folder, proxy) = running();
    let tables = || shell("nft list table ip kube-ipvs; nft list table ip6 kube-ipvs");
    let before = tables();
    for (damage, repaired) in [
        ("ipvsadm -D -t 10.96.0.1:80", "ipvsadm -ln | grep -A1 'TCP  10.96.0.1:80' | grep 10.244.0.2"),
        ("ipvsadm -d -u 10.96.0.1:53 -r 10.244.0.3:5353", "ipvsadm -ln -u 10.96.0.1:53 | grep 10.244.0.3"),
        (
            "ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 0",
            "ipvsadm -ln | grep '10.244.0.2:8080 *Masq *1 '",
        ),
        (
            "ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 1 -x 1",
            "ipvsadm -ln --thresholds | grep '10.244.0.2:8080 *0 *0 '",
        ),
        ("ipvsadm -E -t 10.96.0.1:80 -s wlc", "ipvsadm -ln | grep 'TCP  10.96.0.1:80 rr'"),
        ("ip addr del 10.96.0.1/32 dev kube-ipvs0", "ip addr show kube-ipvs0 | grep 10.96.0.1/32"),
        (
            "ip route del local 10.96.0.1 dev kube-ipvs0 table local",
            "ip route show table local | grep 'local 10.96.0.1 '",
        ),
        ("ip link del kube-ipvs0", "ip route show table local | grep 'local 10.96.0.1 '"),
        (
            "nft delete element ip kube-ipvs cluster-addresses '{ 10.96.0.1 }'",
            "nft list ruleset | grep 10.96.0.1",
        ),
        ("nft flush table ip kube-ipvs", "nft list table ip kube-ipvs | grep reject"),
        ("nft flush ruleset", "nft list ruleset | grep 10.96.0.1"),
        ("ipvsadm -C", "ipvsadm -ln | grep 10.244.0.3:5353"),
        ("echo 0 >/proc/sys/net/ipv4/vs/conntrack", "grep 1 /proc/sys/net/ipv4/vs/conntrack"),
    ] {
        shell(damage);
        wait_for(&format!("after {damage}: {repaired}\n{}", proxy.log()), REPAIRED_SECONDS, || {
            try_shell(repaired).0
        });
    }
    wait_for("everything is as before", REPAIRED_SECONDS, || ipvsadm() == SERVERS && tables() == before);
    assert!(proxy.log().contains("Drift"), "{}", proxy.log());
    // An address that someone put on our device, and a virtual server on it, are removed.
    shell("ip addr add 10.96.7.7/32 dev kube-ipvs0; ipvsadm -A -t 10.96.7.7:80");
    wait_for("what does not belong there goes", REPAIRED_SECONDS, || {
        ipvsadm() == SERVERS && !shell("ip addr show kube-ipvs0").contains("10.96.7.7")
    });
}

fn what_is_foreign_stays() {
    shell(
        "ip link add kube-ipvs0 type dummy
         ip addr add 10.96.0.1/32 dev kube-ipvs0
         ip addr add 10.96.9.9/32 dev kube-ipvs0
         ipvsadm -A -t 10.96.0.1:80 -s rr
         ipvsadm -a -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 0
         ipvsadm -A -t 10.96.9.9:80 -s rr
         ipvsadm -A -t 192.0.2.1:80 -s wlc
         ipvsadm -a -t 192.0.2.1:80 -r 192.0.2.2:80 -g -w 3
         ipvsadm -A -f 7 -s rr
         nft add table ip other
         nft 'add chain ip other input { type filter hook input priority 0; }'",
    );
    let other = shell("nft list table ip other");
    let (_folder, proxy) = running();
    let list = ipvsadm();
    assert!(list.contains("TCP 192.0.2.1:80 wlc\n  -> 192.0.2.2:80 Route 3 0 0\n"), "{list}");
    assert!(list.contains("FWM 7 rr\n"), "{list}");
    assert!(!list.contains("10.96.9.9"), "{list}");
    assert!(
        list.contains("TCP 10.96.0.1:80 rr\n  -> 10.244.0.2:8080 Masq 1 0 0\n"),
        "adopted, weight back: {list}"
    );
    assert_eq!(shell("nft list table ip other"), other);
    assert!(proxy.log().contains("192.0.2.1:80"), "it says what it leaves alone: {}", proxy.log());
}

fn leftovers_of_a_crash_are_removed() {
    let (folder, proxy) = running();
    proxy.kill();
    // The Service is deleted while nothing runs, and its address is gone, but not its virtual servers: a crash in
    // between.
    shell("ip addr del 10.96.0.1/32 dev kube-ipvs0");
    fs::remove_file(folder.path().join("manifests/web.yaml")).expect("the manifest");
    let mut proxy = start(folder.path(), "second");
    proxy.wait_synced();
    assert_eq!(ipvsadm(), "", "{}", proxy.log());
    assert!(!shell("nft list ruleset").contains("10.96.0.1"));
}

fn sigterm_leaves_the_data_plane() {
    let (_folder, proxy) = running();
    let (status, log) = proxy.terminate();
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(ipvsadm(), SERVERS);
    assert!(shell("ip addr show kube-ipvs0").contains("10.96.0.1/32"));
    assert!(shell("nft list ruleset").contains("table ip kube-ipvs"));
}

fn a_removed_endpoint_drains() {
    let folder = folder();
    pod("client2", "10.244.0.9", "10.244.0.254");
    pod("server2", "10.244.0.2", "10.244.0.254");
    fs::create_dir(folder.path().join("manifests")).expect("a folder");
    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let mut proxy = start(folder.path(), "first");
    proxy.wait_synced();
    let listener = in_pod("server2", || std::net::TcpListener::bind("10.244.0.2:8080").expect("a port"));
    let mut stream =
        in_pod("client2", || std::net::TcpStream::connect("10.96.0.1:80").expect("a connection"));
    let (mut served, _) = listener.accept().expect("the connection");

    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.3"]));
    wait_for("the TCP server drains, the UDP one is gone", 5, || {
        let list = ipvsadm();
        list.contains("-> 10.244.0.2:8080 Masq 0 1 0")
            && list.contains("-> 10.244.0.3:8080 Masq 1")
            && !list.contains("10.244.0.2:5353")
    });
    let mut heard = [0; 3];
    stream.write_all(b"yes").expect("to the server");
    served.read_exact(&mut heard).expect("the connection goes on");

    // The endpoint comes back while it drains: it is used again in place, and the connection goes on.
    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.2", "10.244.0.3"]));
    wait_for("it is back", 5, || ipvsadm().contains("-> 10.244.0.2:8080 Masq 1 1 0"));
    stream.write_all(b"too").expect("to the server");
    served.read_exact(&mut heard).expect("the connection goes on");

    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.3"]));
    wait_for("it drains again", 5, || ipvsadm().contains("-> 10.244.0.2:8080 Masq 0 1 0"));
    // A reset leaves no TIME_WAIT, so the server is soon idle.
    shell("sysctl -qw net.ipv4.vs.timeout_close=1 2>/dev/null || true");
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a linger time");
    drop(stream);
    wait_for("it goes when it is idle", 60, || !ipvsadm().contains("10.244.0.2:8080"));
}

fn every_scheduler_of_the_kernel_works() {
    let folder = folder();
    fs::create_dir(folder.path().join("manifests")).expect("a folder");
    put(&folder.path().join("manifests"), "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let manifests = folder.path().join("manifests").to_string_lossy().into_owned();
    for scheduler in ["rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"] {
        let arguments =
            ["--manifests", &manifests, "--hostname-override", "node1", "--ipvs-scheduler", scheduler];
        let mut proxy = Proxy::start(folder.path(), scheduler, &arguments);
        proxy.wait_synced();
        let list = ipvsadm();
        assert!(list.contains(&format!("TCP 10.96.0.1:80 {scheduler}")), "{list}");
        assert!(!list.contains("198.51.100.0"), "the probe is gone: {list}");
    }
    let arguments =
        ["--manifests", &manifests, "--hostname-override", "node1", "--ipvs-scheduler", "nonsense"];
    let mut proxy = Proxy::start(folder.path(), "nonsense", &arguments);
    assert_eq!(proxy.wait(), Some(1));
    let log = proxy.log();
    assert!(
        log.contains("nonsense") && log.contains("wlc") && log.contains("mh"),
        "it lists the usable ones: {log}"
    );
}

fn bad_input_changes_nothing() {
    let folder = folder();
    fs::write(folder.path().join("bad.yaml"), "kind: Service\napiVersion: v1\nspec: [").expect("a file");
    let bad = folder.path().join("bad.yaml").to_string_lossy().into_owned();
    let before = kernel();
    for (number, (arguments, expected)) in [
        (vec!["--no-such-flag"], "no-such-flag"),
        (vec!["--ipvs-tcp-timeout", "1d"], "ipvs-tcp-timeout"),
        (vec!["--cluster-cidr", "10.0.0.0/99"], "10.0.0.0/99"),
        (vec!["--proxy-mode", "iptables"], "iptables"),
        (vec!["--kubeconfig", "/nonexistent"], "/nonexistent"),
        (vec!["--manifests", "/nonexistent"], "/nonexistent"),
        (vec!["--manifests", &bad], "bad.yaml"),
        (vec!["--config", "/nonexistent"], "/nonexistent"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut proxy = Proxy::start(folder.path(), &format!("bad{number}"), &arguments);
        assert_eq!(proxy.wait(), Some(1), "{arguments:?}: {}", proxy.log());
        assert!(proxy.log().contains(expected), "{arguments:?}: {}", proxy.log());
        assert_eq!(kernel(), before, "{arguments:?}");
    }
}

fn a_folder_that_is_unmounted_withdraws_nothing() {
    let folder = folder();
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).expect("a folder");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder");
    put(&source, "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let lines = "mount -t tmpfs manifests $MANIFESTS && cp $SOURCE/web.yaml $MANIFESTS &&
        exec $PROGRAM --manifests $MANIFESTS --hostname-override node1";
    let (at, from) = (manifests.to_string_lossy(), source.to_string_lossy());
    let program = env!("CARGO_BIN_EXE_kube-ipvs");
    let variables = [("MANIFESTS", &*at), ("SOURCE", &*from), ("PROGRAM", program)];
    let mut proxy = Proxy::of_shell(folder.path(), "unmounted", lines, &variables);
    proxy.wait_synced();
    let before = kernel();
    assert!(before.contains("10.244.0.2"), "{before}");

    let there = format!("nsenter -t {} -m", proxy.id());
    shell(&format!("{there} umount {at}"));
    wait_for("it is told", 5, || proxy.log().contains("is empty and on another device than before"));
    std::thread::sleep(Duration::from_millis(2500)); // deletions are withdrawn a second later
    assert_eq!(kernel(), before, "{}", proxy.log());

    put(&source, "web.yaml", &web("10.96.0.1", &["10.244.0.3"]));
    shell(&format!("{there} mount -t tmpfs manifests {at} && {there} cp {from}/web.yaml {at}"));
    wait_for("it is read again", 10, || ipvsadm().contains("10.244.0.3:8080 Masq 1"));
    shell(&format!("{there} rm {at}/web.yaml"));
    wait_for("what is deleted is withdrawn", 10, || !ipvsadm().contains("10.96.0.1"));
}

fn health_and_metrics_answer() {
    let (_folder, proxy) = running();
    assert_eq!(get("127.0.0.1:10249", "/proxyMode"), "ipvs");
    assert_eq!(get("127.0.0.1:10249", "/healthz"), "ok");
    for path in ["/healthz", "/livez"] {
        let health = get("127.0.0.1:10256", path);
        assert!(health.contains("\"healthy\":true"), "{health}");
    }
    let metrics = get("127.0.0.1:10249", "/metrics");
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kube_ipvs_writes_total{",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    drop(proxy);
}
