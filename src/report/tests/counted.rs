//! What is counted from the start on.

use super::*;
use crate::diff::purge::Flow;
use crate::state::{RealServerKey, RealServers, VirtualServer, VirtualServerKey};

#[test]
fn each_drain_that_ends_is_counted_once() {
    let mut life = Life::new();
    life.observe(webs(3));
    life.work();
    let counted =
        |life: &Life, reason| life.number(&format!("kube_ipvs_drains_ended_total{{reason=\"{reason}\"}}"));
    for number in 1..=2 {
        life.observe([Event::Service(Change::Delete(ServiceKey::new("default", format!("web{number}"))))]);
        life.work();
        assert_eq!(counted(&life, "idle"), "0", "they went with their virtual server");
    }
    let [_, _, Event::Slice(Change::Replace(slices))] = webs(3) else { unreachable!("slices are the last") };
    let slice = slices.into_iter().next_back().expect("three");
    for left in [1, 0] {
        let endpoints = slice.endpoints[..left].to_vec();
        life.observe([Event::Slice(Change::Upsert(EndpointSlice { endpoints, ..slice.clone() }))]);
        life.work();
        assert_eq!(life.number("kube_ipvs_draining_real_servers"), "1");
        // One look finds that nobody is connected, and the next one that the real server is gone.
        for _ in 0..2 {
            life.now += Duration::from_secs(5);
            life.work();
        }
        assert_eq!(life.number("kube_ipvs_draining_real_servers"), "0");
        assert_eq!(counted(&life, "idle"), (2 - left).to_string());
    }
    assert_eq!((counted(&life, "deadline"), counted(&life, "overtaken")), ("0".into(), "0".into()));

    // Endpoints that come back, and some whose clients do not go.
    let server =
        VirtualServerKey { address: IpAddr::from([10, 96, 0, 3]), protocol: Protocol::Tcp, port: 80 };
    let real = RealServerKey { address: IpAddr::from([10, 244, 0, 2]), port: 8080 };
    life.kernel.set_connections(server, real, 1);
    for round in 1..=2 {
        for drained in [Duration::ZERO, ProxyOptions::default().drain_deadline] {
            life.observe([Event::Slice(Change::Upsert(slice.clone()))]);
            life.work();
            let endpoints = slice.endpoints[..1].to_vec();
            life.observe([Event::Slice(Change::Upsert(EndpointSlice { endpoints, ..slice.clone() }))]);
            life.work();
            for _ in 0..2 {
                life.now += drained;
                life.work();
            }
        }
        assert_eq!(
            (counted(&life, "overtaken"), counted(&life, "deadline")),
            (round.to_string(), round.to_string())
        );
    }
    assert_eq!(counted(&life, "idle"), "2");
}

/// The object's elements and addresses wait for it.
#[test]
fn what_waits_for_an_object_that_is_refused_is_not_refused() {
    let mut life = Life::new();
    life.observe(webs(1));
    life.work();
    life.refuse(EINVAL, |step| matches!(step, Step::AddVirtualServer(..)));
    life.observe(webs(2));
    life.work();
    assert!(life.reconciler.failures().len() > 1, "{:?}", life.reconciler.failures());
    assert_eq!(life.number("kube_ipvs_refused_objects"), "1");
}

/// A node that goes takes many with it.
#[test]
fn drains_that_end_together_are_told_in_one_line() {
    const REMOVED: &str = "Removed real server from graceful delete real server list";
    for (count, wanted) in [
        (1, "realServer=\"10.96.0.1:80/TCP/10.244.0.2:8080\" idle=1 deadline=0"),
        (7, " and 2 more\" idle=7 deadline=0"),
    ] {
        let mut life = Life::new();
        life.observe(webs(count));
        life.work();
        let [_, _, Event::Slice(Change::Replace(mut slices))] = webs(count) else {
            unreachable!("slices are the last")
        };
        for slice in &mut slices {
            slice.endpoints.truncate(1);
        }
        let (log, _listening) = telemetry::tests::listen();
        life.observe([Event::Slice(Change::Replace(slices))]);
        life.work();
        assert_eq!(log.lines_with(REMOVED).len(), 0);
        for _ in 0..2 {
            life.now += Duration::from_secs(5);
            life.work();
        }
        let lines = log.lines_with(REMOVED);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.starts_with('I') && line.contains(wanted), "{line}");
        assert_eq!(line.matches("/TCP/10.244.0.2:8080").count(), usize::from(count.min(5)), "{line}");
    }
}

#[test]
fn each_change_is_counted_once() {
    let mut life = Life::new();
    life.observe(webs(3));
    life.work();
    let [_, _, Event::Slice(Change::Replace(slices))] = webs(3) else { unreachable!("slices are the last") };
    for (round, slice) in (1..).zip(slices) {
        life.observe([Event::Slice(Change::Delete(slice.key))]);
        life.work();
        let slices = life.number("kubeproxy_sync_proxy_rules_endpoint_changes_total");
        assert_eq!(slices, (3 + round).to_string());
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_total"), "6", "for each family");
    }
}

#[test]
fn what_others_have_and_what_they_change_is_counted() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    let at =
        |address: [u8; 4]| VirtualServerKey { address: address.into(), protocol: Protocol::Tcp, port: 80 };
    let theirs = VirtualServer {
        scheduler: "wlc".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: RealServers::default(),
    };
    life.kernel.meddle(|state| _ = state.virtual_servers.insert(at([203, 0, 113, 7]), theirs));
    life.observe(webs(3));
    life.work();
    assert_eq!(life.number("kube_ipvs_foreign_virtual_servers"), "1");

    life.kernel.meddle(|state| {
        state.virtual_servers.remove(&at([10, 96, 0, 1]));
        state.addresses.retain(|address, _| *address == IpAddr::from([10, 96, 0, 1]));
    });
    for _ in 0..120 {
        life.now += Duration::from_secs(1);
        life.work();
    }
    for (kind, count) in [("virtual_server", "1"), ("address", "2"), ("element", "0"), ("rules", "0")] {
        assert_eq!(life.number(&format!("kube_ipvs_drift_total{{kind=\"{kind}\"}}")), count, "{kind}");
    }
    assert_eq!(life.kernel.state().addresses.len(), 3);
}

#[test]
fn entries_of_connection_tracking_that_are_deleted_are_counted() {
    let mut life = Life::new();
    let server =
        VirtualServerKey { address: IpAddr::from([10, 96, 0, 1]), protocol: Protocol::Udp, port: 80 };
    for last in [8, 9] {
        let replies_from = RealServerKey { address: IpAddr::from([10, 244, 0, last]), port: 8080 };
        life.kernel.track(Flow { destination: server, replies_from });
    }
    let mut dns = web();
    for event in &mut dns {
        match event {
            Event::Service(Change::Replace(all)) => all[0].ports[0].protocol = Protocol::Udp,
            Event::Slice(Change::Replace(all)) => all[0].ports[0].protocol = Protocol::Udp,
            _ => {}
        }
    }
    life.observe(dns);
    life.work();
    let of =
        |name: &str| life.number(&format!("kubeproxy_conntrack_reconciler_{name}{{ip_family=\"IPv4\"}}"));
    assert_eq!(of("deleted_entries_total"), "2");
    assert_eq!(of("sync_duration_seconds_count"), "1");
}
