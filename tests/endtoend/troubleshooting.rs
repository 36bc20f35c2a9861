//! The README's instructions for a Service that does not work.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::lab::{shell, try_shell};
use crate::proxy::{Proxy, get};
use crate::put;
use crate::tools::wait_for;

/// The Service of the README's commands: its endpoint is not on this node, where a load balancer needs one.
const WEB: &str = "apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.1
  loadBalancerSourceRanges: [198.51.100.0/24]
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: NAMESPACE, labels: {kubernetes.io/service-name: NAME}}
addressType: IPv4
ports: [{name: \"\", port: 8080, protocol: TCP}]
endpoints: [{addresses: [\"10.244.1.2\"], nodeName: node2}]
";

/// The command lines of the README's section, without comments.
fn commands() -> Vec<String> {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let (_, section) = readme.split_once("\n## When a Service does not work\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(|line| line.split("  # ").next().unwrap_or(line).trim_end().to_owned()).collect()
}

pub(crate) fn the_commands_of_the_readme_find_out_what_they_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    put(&manifests, "web.yaml", WEB);
    shell("ip link add eth0 type dummy && ip addr add 192.0.2.1/24 dev eth0 && ip link set eth0 up");
    shell("ip route add default via 192.0.2.2");
    let path = manifests.to_string_lossy();
    let mut arguments = vec!["--manifests", &path, "--hostname-override", "node1"];
    arguments.extend(["--cluster-cidr", "10.244.0.0/16", "--ipvs-sync-period", "3s", "-v", "2"]);
    let mut proxy = Proxy::start(folder.path(), "proxy", &arguments);
    proxy.wait_synced();

    let commands = commands();
    let begin = commands.iter().position(|line| line == "nft -f - <<'END'").expect("a table");
    let end = commands.iter().position(|line| line == "END").expect("its end");
    shell(&commands[begin..=end].join("\n"));
    assert_eq!(commands[end + 1], "nft monitor trace");
    let trace = folder.path().join("trace");
    let mut monitor = Command::new("nft")
        .args(["monitor", "trace"])
        .stdout(Stdio::from(File::create(&trace).expect("a file")))
        .spawn()
        .expect("nft");
    wait_for("the way of a packet is shown, through our rules too", 20, || {
        try_shell("timeout 0.2 bash -c 'exec 3<>/dev/tcp/10.96.0.1/80'");
        std::fs::read_to_string(&trace).expect("a trace").contains("ip kube-ipvs postrouting rule ")
    });
    monitor.kill().expect("it runs");
    monitor.wait().expect("it ends");
    assert_eq!(commands[end + 2], "nft delete table ip look");
    shell(&commands[end + 2]);

    let mut count = 0;
    for command in commands[..begin].iter().filter(|command| !command.is_empty()) {
        if let Some(url) = command.strip_prefix("curl ") {
            let (address, path) = url.split_at(url.find('/').expect("a path"));
            serde_json::from_str::<serde_json::Value>(&get(address, path)).expect(command);
        } else {
            assert_ne!(shell(command), "", "{command}");
        }
        count += 1;
    }
    assert_eq!(count, 10, "{commands:#?}");
    let told = get("127.0.0.1:10249", "/services/NAMESPACE/NAME");
    assert!(told.contains("where the policy is Local, new connections are dropped"), "{told}");

    // Looking does no damage; what the README warns of does.
    assert!(!proxy.log().contains("Drift found"), "{}", proxy.log());
    shell("nft insert rule ip kube-ipvs input counter");
    wait_for(&format!("the table is made anew\n{}", proxy.log()), 30, || {
        proxy.log().contains("\"Drift found, repairing\" kind=\"rules\"")
    });
}
