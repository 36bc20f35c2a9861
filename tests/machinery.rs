//! The whole program on a real kernel, fed by the real API machinery: what happens to Services and EndpointSlices shows
//! in the kernel, and neither the end of the API server nor the program's own takes anything away.
//!
//! Needs `kube-apiserver` and `etcd` in the folder that `KUBEBUILDER_ASSETS` names. They run in the lab's first network
//! namespace, once for all tests ([`control_plane`]); each test is a node of its own.

#![expect(unreachable_pub, reason = "modules of a test program have no face")]
#![expect(clippy::unwrap_used, reason = "this is all test code; clippy knows only #[test] functions as such")]

#[path = "machinery/away.rs"]
mod away;
#[path = "machinery/control_plane.rs"]
mod control_plane;
#[path = "machinery/killed.rs"]
mod killed;
#[path = "machinery/kubeadm.rs"]
mod kubeadm;
#[path = "common/kubeconfig.rs"]
mod kubeconfig;
#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/lab.rs"]
mod lab;
#[path = "machinery/node.rs"]
mod node;
#[path = "machinery/objects.rs"]
mod objects;
#[path = "common/pods.rs"]
mod pods;
#[path = "monitoring/promtool.rs"]
mod promtool;
#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "each test program uses its own part of this")]
#[path = "common/real_apiserver.rs"]
mod real_apiserver;
#[path = "machinery/refused.rs"]
mod refused;
#[path = "machinery/systemd.rs"]
mod systemd;
#[path = "machinery/table.rs"]
mod table;
#[path = "machinery/told.rs"]
mod told;
#[path = "common/tools.rs"]
mod tools;

use away::{a_killed_api_server_takes_nothing_away, without_an_api_server_it_waits};
use killed::killed_at_any_moment_it_takes_nothing_away;
use kubeadm::the_daemon_set_of_kubeadm_runs_with_its_own_rights;
use node::{
    a_node_that_changes_ends_the_program, a_start_without_the_node_goes_on,
    pods_are_those_in_the_networks_of_the_node, the_start_waits_for_the_node,
};
use objects::{both_families_come_and_go, services_come_change_and_go, slices_decide_who_serves};
use refused::{a_wrong_kubeconfig_is_explained, who_is_denied_is_told_what};
use systemd::the_unit_runs_under_systemd;
use told::{
    a_dry_run_asks_the_api_server_and_tells_it_nothing, a_service_whose_address_is_contested_is_told_so,
    an_end_for_want_of_an_address_is_told, what_happens_is_told,
};

fn main() -> std::process::ExitCode {
    let missing = real_apiserver::assets().err();
    let result = lab::run_unless(
        missing.as_deref(),
        lab::tests![
            services_come_change_and_go,
            slices_decide_who_serves,
            both_families_come_and_go,
            a_killed_api_server_takes_nothing_away,
            without_an_api_server_it_waits,
            killed_at_any_moment_it_takes_nothing_away,
            what_happens_is_told,
            a_service_whose_address_is_contested_is_told_so,
            an_end_for_want_of_an_address_is_told,
            a_dry_run_asks_the_api_server_and_tells_it_nothing,
            the_start_waits_for_the_node,
            a_start_without_the_node_goes_on,
            a_node_that_changes_ends_the_program,
            pods_are_those_in_the_networks_of_the_node,
            the_daemon_set_of_kubeadm_runs_with_its_own_rights,
            the_unit_runs_under_systemd,
            who_is_denied_is_told_what,
            a_wrong_kubeconfig_is_explained,
        ],
    );
    control_plane::end();
    result
}
