mod counted;
mod memory;
mod node;
mod timestamps;

use std::net::IpAddr;
use std::time::Instant;

use tokio::sync::mpsc;

use super::*;
use crate::api::events::Happening;
use crate::api::{Change, Event};
use crate::cluster::examples;
use crate::cluster::types::{
    AddressScope, EndpointSlice, Node, NodeAddress, Protocol, Service, ServiceKey, ServicePort, SliceKey,
    SlicePort,
};
use crate::desired::settings::Supported;
use crate::diff::Step;
use crate::kernel::memory::{Fault, MemoryKernel};
use crate::options::ProxyOptions;
use crate::reconcile::core::Next;
use crate::serve::healthz;
use crate::state::part::Part;
use crate::telemetry;

const PERIOD: Duration = Duration::from_secs(30);
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOBUFS: i32 = 105;

/// A loop with a kernel in memory, and its reporter.
struct Life {
    reconciler: Reconciler,
    kernel: MemoryKernel,
    reporter: Reporter,
    status: watch::Receiver<Status>,
    metrics: Arc<Metrics>,
    /// The Events.
    happenings: mpsc::Receiver<Happening>,
    now: Instant,
}

impl Life {
    fn new() -> Self {
        Self::at_pace(Duration::ZERO, Duration::from_hours(1))
    }

    /// A life that serves these families.
    fn of(families: &BTreeSet<Family>) -> Self {
        Self::of_at_pace(families, Duration::ZERO, Duration::from_hours(1))
    }

    /// A life that writes and audits this often.
    fn at_pace(min_sync_period: Duration, audit_period: Duration) -> Self {
        Self::of_at_pace(&Family::ALL.into(), min_sync_period, audit_period)
    }

    fn of_at_pace(families: &BTreeSet<Family>, min_sync_period: Duration, audit_period: Duration) -> Self {
        let supported = Supported { families: families.clone(), kernel: (6, 12), missing: BTreeSet::new() };
        let options = ProxyOptions::default();
        let reconciler =
            Reconciler::new(options.clone(), "here".into(), supported, min_sync_period, audit_period);
        let metrics = Arc::new(numbers::metrics());
        let (publish, status) = watch::channel(Status::default());
        // Nobody opens ports here.
        let (news, _) = mpsc::unbounded_channel();
        let services = Services::new("here".into(), &options, families.clone(), Arc::clone(&metrics), news);
        let (events, happenings) = Events::to_channel();
        let name = "here".into();
        let reporter = Reporter::new(Arc::clone(&metrics), publish, families, false, services, events, name);
        let kernel = MemoryKernel::default();
        Self { reconciler, kernel, reporter, status, metrics, happenings, now: Instant::now() }
    }

    /// Works until there is nothing to do, and reports.
    fn work(&mut self) {
        while let Next::Work(work) = self.reconciler.next(self.now) {
            let answer = work.carry_out(&mut self.kernel);
            self.reconciler.complete(answer, self.now);
        }
        let notes = self.reconciler.take_notes();
        self.reporter.tell(&self.reconciler, notes, self.now);
    }

    /// From now on the kernel refuses these steps.
    fn refuse(&self, errno: i32, what: impl Fn(&Step) -> bool + Send + 'static) {
        self.trouble(Fault::Refuse(errno), what);
    }

    /// From now on these steps have this fault.
    fn trouble(&self, fault: Fault, what: impl Fn(&Step) -> bool + Send + 'static) {
        self.kernel.set_faults(Some(Box::new(move |step| what(step).then_some(fault))));
    }

    /// The status code of `/livez` after this time.
    fn life(&self, later: Duration) -> u16 {
        let now = Moment::now();
        let then = Moment { instant: now.instant + later, wall: now.wall + later };
        healthz::livez(&self.status.borrow(), then, PERIOD).code
    }

    /// The status code of `/healthz` after this time, and its body.
    fn health(&self, later: Duration) -> (u16, String) {
        let now = Moment::now();
        let then = Moment { instant: now.instant + later, wall: now.wall + later };
        let answer = healthz::healthz(&self.status.borrow(), then, PERIOD);
        (answer.code, answer.body)
    }

    fn number(&self, series: &str) -> String {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is missing")).to_owned()
    }

    /// Several rounds of an audit that looks in each second.
    fn pass_a_minute(&mut self) {
        for _ in 0..60 {
            self.now += Duration::from_secs(1);
            self.work();
        }
    }

    fn observe(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.reconciler.observe(event);
        }
    }
}

fn web() -> [Event; 3] {
    webs(1)
}

/// So many Services, at 10.96.0.1 and on, with two endpoints each.
fn webs(count: u8) -> [Event; 3] {
    let key = |number: u8| ServiceKey::new("default", format!("web{number}"));
    let service = |number: u8| Service {
        cluster_ips: vec![IpAddr::from([10, 96, 0, number])],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..examples::service(key(number))
    };
    let endpoint = |number: u8| examples::endpoint(IpAddr::from([10, 244, 0, number]));
    let slice = |number: u8| EndpointSlice {
        key: SliceKey::new("default", format!("web{number}-1")),
        service: key(number),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![endpoint(1), endpoint(2)],
        triggered_nanoseconds: None,
    };
    [
        Event::Node(Change::Replace(vec![])),
        Event::Service(Change::Replace((1..=count).map(service).collect())),
        Event::Slice(Change::Replace((1..=count).map(slice).collect())),
    ]
}

#[test]
fn a_change_that_the_kernel_keeps_refusing_makes_the_node_unhealthy() {
    let mut life = Life::new();
    life.refuse(ENOMEM, |step| matches!(step, Step::AddVirtualServer(..)));
    assert_eq!(life.health(Duration::ZERO).0, 503, "nothing is written yet");
    life.observe(web());
    life.work();

    let (code, body) = life.health(Duration::ZERO);
    assert_eq!(code, 503, "still nothing: {body}");
    assert!(body.contains("add_virtual_server"), "it says what fails: {body}");
    let (code, body) = life.health(PERIOD * 2);
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("\"IPv6\":{\"lastUpdated\":\"2"), "the other family was written: {body}");
    assert!(body.contains("IPv4: a change has been waiting for 60 s"), "{body}");
    assert_ne!(life.number("kube_ipvs_refused_objects"), "0");
    assert_ne!(life.number("kube_ipvs_writes_total{kind=\"add_virtual_server\",verdict=\"refused\"}"), "0");
    assert_eq!(life.number("kube_ipvs_objects{kind=\"real_server\"}"), "0");

    life.kernel.set_faults(None);
    life.now += Duration::from_mins(2);
    life.work();
    let (code, body) = life.health(PERIOD * 2);
    assert_eq!(code, 200, "{body}");
    assert!(!body.contains("reasons"), "{body}");
    assert_eq!(life.number("kube_ipvs_refused_objects"), "0");
    assert_eq!(life.number("kube_ipvs_objects{kind=\"virtual_server\"}"), "1");
    assert_eq!(life.number("kube_ipvs_objects{kind=\"real_server\"}"), "2");
    assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_pending"), "0");
}

/// As kube-proxy counts, with a proxier for each family: all of them hear of each Service, but only one of each slice.
#[test]
fn each_family_counts_the_changes_of_services() {
    for (families, services) in [(BTreeSet::from(Family::ALL), "2"), ([Family::V4].into(), "1")] {
        let mut life = Life::of(&families);
        life.observe(web());
        life.reporter.tell(&life.reconciler, Vec::new(), life.now);
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_total"), services);
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_pending"), "1");
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_endpoint_changes_total"), "1");
        life.work();
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_total"), services);
        assert_eq!(life.number("kubeproxy_sync_proxy_rules_service_changes_pending"), "0");
    }
}

#[test]
fn facts_that_do_not_come_are_no_reason_for_a_restart() {
    let mut life = Life::new();
    let an_hour = Duration::from_hours(1);
    let [node, services, slices] = web();
    life.observe([node, services]);
    life.work();
    assert_eq!(life.health(an_hour).0, 503, "nothing is written yet");
    assert_eq!(life.life(an_hour), 200, "there is nothing that could be written");
    // What waits for the kernel is another matter, however the last fact came.
    life.kernel.fail_reads(1);
    life.observe([slices]);
    life.work();
    assert_eq!(life.life(an_hour), 503);
    life.now += PERIOD;
    life.work();
    assert_eq!((life.health(an_hour).0, life.life(an_hour)), (200, 200));

    let mut life = Life::new();
    life.kernel.fail_reads(1);
    let [node, services, slices] = web();
    life.observe([services, slices, node]);
    life.work();
    assert_eq!(life.life(an_hour), 503, "the Node was the last that was waited for");
}

/// As where another scheduler makes the kernel take its time for each virtual server.
#[test]
fn a_first_sync_that_takes_long_is_no_reason_for_a_restart() {
    let mut life = Life::new();
    let start = life.now;
    life.observe(webs(200));
    while let Next::Work(work) = life.reconciler.next(life.now) {
        let answer = work.carry_out(&mut life.kernel);
        life.now += Duration::from_secs(20);
        life.reconciler.complete(answer, life.now);
        let notes = life.reconciler.take_notes();
        life.reporter.tell(&life.reconciler, notes, life.now);
        let then = Moment { instant: life.now, wall: SystemTime::now() };
        let status = life.status.borrow();
        assert_eq!(healthz::livez(&status, then, PERIOD).code, 200, "after {:?}", life.now - start);
        let code = if status.was_written() { 200 } else { 503 };
        assert_eq!(healthz::healthz(&status, then, PERIOD).code, code, "after {:?}", life.now - start);
    }
    assert!(life.now - start > PERIOD * 2 * 2, "only {:?}", life.now - start);
    assert!(life.status.borrow().was_written());
}

#[test]
fn changes_from_before_the_start_say_nothing_about_how_long_they_take() {
    let mut life = Life::new();
    life.observe(web());
    life.work();
    let series = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    let [_, _, Event::Slice(Change::Replace(slices))] = web() else { unreachable!("slices are the last") };
    // Its labels changed, and it still says when its endpoints last did.
    let now = SystemTime::now();
    for (triggered, count) in [(now - Duration::from_hours(24), "0"), (now, "1")] {
        let since = triggered.duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let slice = EndpointSlice { triggered_nanoseconds: i64::try_from(since).ok(), ..slices[0].clone() };
        life.observe([Event::Slice(Change::Upsert(slice))]);
        life.work();
        assert_eq!(life.number(series), count);
    }
}

#[test]
fn a_sync_takes_no_longer_because_it_had_to_wait() {
    const MIN_SYNC_PERIOD: Duration = Duration::from_secs(10);
    let mut life = Life::at_pace(MIN_SYNC_PERIOD, Duration::from_hours(1));
    life.observe(web());
    life.work();
    let of =
        |series: &str| format!("kubeproxy_sync_proxy_rules_duration_seconds_{series}{{ip_family=\"IPv4\"}}");
    let first: u32 = life.number(&of("count")).parse().unwrap();
    assert!(first > 0, "the first sync is one too");
    assert_eq!(
        life.number("kube_ipvs_queue_duration_seconds_count"),
        "0",
        "at the start there are no changes"
    );

    life.observe(webs(2));
    life.work();
    assert_eq!(life.number(&of("count")), first.to_string(), "it is held back");
    life.now += MIN_SYNC_PERIOD;
    life.work();
    assert_eq!(life.number(&of("count")), (first + 1).to_string());
    assert!(life.number(&of("sum")).parse::<f64>().unwrap() < 1.0);
    assert_eq!(life.number("kube_ipvs_queue_duration_seconds_count"), "1");
    assert_eq!(life.number("kube_ipvs_queue_duration_seconds_sum"), "10", "that is where the waiting is");
}

#[test]
fn what_comes_while_the_kernel_works_waits_from_the_end_of_that_on() {
    let mut life = Life::new();
    life.observe(web());
    life.work();
    life.observe(webs(2));
    let Next::Work(work) = life.reconciler.next(life.now) else { panic!("there is something to write") };
    life.observe(webs(3));
    life.now += Duration::from_millis(500);
    let answer = work.carry_out(&mut life.kernel);
    life.reconciler.complete(answer, life.now);
    let notes = life.reconciler.take_notes();
    life.reporter.tell(&life.reconciler, notes, life.now);
    for (family, status) in &life.status.borrow().families {
        assert_eq!(status.last_synced.unwrap().instant, life.now, "{family}");
        assert_eq!(status.unsynced_since.unwrap().instant, life.now, "{family}");
    }
    life.now += Duration::from_millis(500);
    life.work();
    for (family, status) in &life.status.borrow().families {
        assert_eq!(status.last_synced.unwrap().instant, life.now, "{family}");
        assert_eq!(status.unsynced_since, None, "{family}");
    }
}

#[test]
fn the_last_change_is_told_of_while_the_first_waits() {
    let series = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}";
    let queued = |life: &Life| life.number(series).parse::<f64>().unwrap();
    let unsynced_since = |life: &Life| life.status.borrow().families[&Family::V4].unsynced_since.unwrap();
    let mut life = Life::new();
    life.refuse(EINVAL, |step| matches!(step, Step::InstallRules(..)));
    life.observe(web());
    life.work();
    let (first, since) = (queued(&life), unsynced_since(&life));
    assert!((seconds(since.wall) - first).abs() < 1e-6);

    life.now += Duration::from_millis(500);
    life.observe(webs(2));
    life.work();
    assert!((queued(&life) - first - 0.5).abs() < 1e-6, "{} after {first}", queued(&life));
    // Even if somebody set the clock meanwhile.
    life.now += Duration::from_secs(100);
    life.observe(webs(3));
    let before = seconds(SystemTime::now());
    life.work();
    assert!((before..=seconds(SystemTime::now())).contains(&queued(&life)));
    assert_eq!(unsynced_since(&life), since);
    // A retry does not count as queued.
    let last = queued(&life);
    life.now += Duration::from_mins(2);
    life.work();
    assert_eq!(queued(&life).to_bits(), last.to_bits());
}

#[test]
fn a_sync_that_fails_is_one_too() {
    let mut life = Life::new();
    life.refuse(ENOMEM, |step| matches!(step, Step::AddVirtualServer(..)));
    life.observe(web());
    life.work();
    let series = "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    let count = |life: &Life| life.number(series).parse::<u32>().unwrap();
    let first = count(&life);
    life.now += Duration::from_mins(2);
    life.work();
    assert!(count(&life) > first, "each try is one: {first}");
    // A change of the other family does not count for this one.
    let (before, mut other) = (count(&life), webs(2));
    let Event::Service(Change::Replace(services)) = &mut other[1] else {
        unreachable!("Services are the second")
    };
    services[1].cluster_ips = vec!["fd00:10:96::2".parse().unwrap()];
    let Event::Slice(Change::Replace(slices)) = &mut other[2] else { unreachable!("slices are the last") };
    slices[1].family = Family::V6;
    slices[1].endpoints.truncate(1);
    slices[1].endpoints[0].address = "fd00::1".parse().unwrap();
    let series_of_v6 = series.replace("IPv4", "IPv6");
    let before_v6: u32 = life.number(&series_of_v6).parse().unwrap();
    life.observe(other);
    life.work();
    assert_eq!(count(&life), before);
    assert_eq!(life.number(&series_of_v6), (before_v6 + 1).to_string());
}

/// Ten Services, where the kernel refuses these steps for two minutes.
fn refused(errno: i32, what: impl Fn(&Step) -> bool + Send + 'static) -> Life {
    troubled(Fault::Refuse(errno), what)
}

/// Ten Services, where these steps have this fault for two minutes.
fn troubled(fault: Fault, what: impl Fn(&Step) -> bool + Send + 'static) -> Life {
    let mut life = Life::new();
    life.trouble(fault, what);
    life.observe(webs(10));
    life.work();
    for _ in 0..4 {
        life.now += PERIOD;
        life.work();
    }
    life
}

fn makes(addresses: std::ops::RangeInclusive<u8>) -> impl Fn(&Step) -> bool {
    move |step| {
        let Step::AddVirtualServer(server, _) = step else { return false };
        addresses.clone().any(|number| server.address == IpAddr::from([10, 96, 0, number]))
    }
}

#[test]
fn what_no_kernel_would_take_is_named_and_makes_no_node_unhealthy() {
    let mut life = refused(EINVAL, makes(1..=4));
    let (code, body) = life.health(PERIOD * 2);
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"virtual server TCP 10.96.0.1:80: add_virtual_server: "), "{body}");
    assert_eq!(life.number("kube_ipvs_objects{kind=\"virtual_server\"}"), "6");
    assert_ne!(life.number("kube_ipvs_refused_objects"), "0");

    // A change that is written later is judged by itself.
    life.observe(webs(11));
    life.work();
    assert_eq!(life.health(PERIOD * 2).0, 200);
    life.kernel.set_faults(None);
    life.now += PERIOD * 4;
    life.work();
    let (code, body) = life.health(PERIOD * 2);
    assert!(code == 200 && !body.contains("reasons"), "{body}");
}

#[test]
fn what_is_refused_to_all_makes_the_node_unhealthy() {
    let then = |life: Life| life.health(PERIOD * 2);
    for (what, (found, body), code) in [
        ("fewer than stand", then(refused(EINVAL, makes(1..=4))), 200),
        ("as many as stand", then(refused(EINVAL, makes(1..=5))), 503),
        ("all", then(refused(EINVAL, makes(1..=10))), 503),
        ("one, for want of memory", then(refused(ENOMEM, makes(1..=1))), 503),
        ("one, for want of buffers", then(refused(ENOBUFS, makes(1..=1))), 503),
        ("one, for want of rights", then(refused(EPERM, makes(1..=1))), 503),
        ("one, by a policy of the system", then(refused(EACCES, makes(1..=1))), 503),
        ("addresses", then(refused(EINVAL, |step| matches!(step, Step::AddAddress(_)))), 503),
        ("the rules", then(refused(EINVAL, |step| matches!(step, Step::InstallRules(..)))), 503),
        ("the device", then(refused(EINVAL, |step| matches!(step, Step::AddDevice))), 503),
    ] {
        assert_eq!(found, code, "{what}: {body}");
        assert!(body.contains("reasons"), "{what}: {body}");
    }
}

/// The reason may be a lack of memory, for all that is known; nine other Services are as wanted.
#[test]
fn answers_that_are_lost_each_time_make_the_node_unhealthy() {
    let mut life = troubled(Fault::LoseRequest, makes(1..=1));
    let (code, body) = life.health(PERIOD * 2);
    assert!(code == 503 && body.contains("the kernel's answer was lost"), "{body}");
    life.kernel.set_faults(None);
    life.now += PERIOD * 4;
    life.work();
    assert_eq!(life.health(PERIOD * 2).0, 200);
}

#[test]
fn a_kernel_that_cannot_be_read_is_named() {
    let mut life = Life::new();
    life.kernel.fail_reads(1);
    life.observe(web());
    life.work();
    let (code, body) = life.health(PERIOD * 2);
    assert_eq!(code, 503);
    assert!(
        body.contains("the first complete sync since the start has not finished")
            && body.contains("\"cannot read"),
        "{body}"
    );
    assert_eq!(life.number("kube_ipvs_read_failures_total"), "1");
    life.now += Duration::from_secs(2);
    life.work();
    let (code, body) = life.health(PERIOD * 2);
    assert!(code == 200 && !body.contains("reasons"), "{body}");
}

/// The alert says that /healthz has the reason. Nothing depends on the timeouts: only the audit reads them.
#[test]
fn what_the_audit_cannot_read_is_named_until_it_can() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.observe(web());
    life.work();
    life.kernel.set_unreadable([Part::Timeouts]);
    life.pass_a_minute();
    let (code, body) = life.health(Duration::ZERO);
    assert!(code == 200 && body.contains("\"cannot read a part from the kernel: "), "{body}");
    // Writing a change says nothing about the failure.
    life.observe(webs(2));
    life.work();
    let (code, body) = life.health(Duration::ZERO);
    assert!(code == 200 && body.contains("\"cannot read a part from the kernel: "), "{body}");
    life.kernel.set_unreadable([]);
    life.pass_a_minute();
    let (code, body) = life.health(Duration::ZERO);
    assert!(code == 200 && !body.contains("reasons"), "{body}");
}

/// A family of which something is refused is never as wanted.
#[test]
fn that_the_kernel_was_not_read_is_over_where_something_is_refused_all_the_time() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.refuse(EPERM, |step| matches!(step, Step::SetSysctl(Sysctl::VsConntrack, _)));
    life.observe(web());
    life.work();
    life.kernel.fail_reads(1);
    life.now += Duration::from_secs(1);
    life.work();
    assert!(life.health(Duration::ZERO).1.contains("\"cannot read"));
    life.pass_a_minute();
    let (code, body) = life.health(Duration::ZERO);
    assert!(code == 503 && !body.contains("\"cannot read"), "{body}");
}

/// One mistake concerns many addresses, and is reported at each start.
#[test]
fn what_is_contested_is_told_together_and_counted() {
    let told = |count: u8| {
        let mut life = Life::new();
        let [node, mut services, slices] = webs(count);
        let Event::Service(Change::Replace(services)) = &mut services else {
            unreachable!("Services are the second")
        };
        // The second half claims what the first half has.
        for number in count / 2..count {
            services[usize::from(number)].cluster_ips =
                vec![IpAddr::from([10, 96, 0, number - count / 2 + 1])];
        }
        let services = Event::Service(Change::Replace(services.clone()));
        let (log, _listening) = telemetry::tests::listen();
        life.observe([node, services, slices]);
        life.work();
        let conflicts = log.lines_with("the older one");
        assert_eq!(life.number("kube_ipvs_address_conflicts{kind=\"conflict\"}"), (count / 2).to_string());
        assert_eq!(life.number("kube_ipvs_address_conflicts{kind=\"shared\"}"), "0");
        let addresses = (1..=count / 2).map(|number| NodeAddress {
            address: IpAddr::from([10, 96, 0, number]),
            interface: "dns".into(),
            scope: AddressScope::Global,
        });
        life.observe([Event::NodeAddresses(addresses.collect())]);
        life.work();
        let number = life.number("kube_ipvs_address_conflicts{kind=\"shared\"}");
        assert_eq!(number, (count / 2 * 2).to_string(), "each Service is concerned");
        let shared = log.lines_with("Another device");
        life.observe([Event::Service(Change::Replace(Vec::new()))]);
        life.work();
        assert_eq!(life.number("kube_ipvs_address_conflicts{kind=\"conflict\"}"), "0");
        assert_eq!(life.number("kube_ipvs_address_conflicts{kind=\"shared\"}"), "0");
        (conflicts, shared)
    };
    let (conflicts, shared) = told(20);
    assert_eq!((conflicts.len(), shared.len()), (1, 1), "{conflicts:?} {shared:?}");
    assert!(conflicts[0].contains("count=10") && conflicts[0].contains(" and 5 more"), "{conflicts:?}");
    assert!(shared[0].contains("count=20") && shared[0].contains("10.96.0.1"), "{shared:?}");
    assert!(shared[0].starts_with('W') && shared[0].contains("Another device has cluster IPs"), "{shared:?}");
    let (conflicts, shared) = told(2);
    assert_eq!((conflicts.len(), shared.len()), (1, 2), "{conflicts:?} {shared:?}");
    assert!(
        shared[1].starts_with('W') && shared[1].contains("Another device has a cluster IP: "),
        "{shared:?}"
    );
    assert!(
        conflicts[0]
            .contains("service=\"default/web2\" virtual_server=\"TCP 10.96.0.1:80\" winner=\"default/web1\""),
        "{conflicts:?}"
    );
}

#[test]
fn of_an_address_that_another_service_has_there_is_an_event() {
    let mut life = Life::new();
    let [node, services, slices] = webs(2);
    let (Event::Service(Change::Replace(mut services)), Event::Slice(Change::Replace(mut slices))) =
        (services, slices)
    else {
        unreachable!("Services are the second, slices the third")
    };
    services[1].cluster_ips = services[0].cluster_ips.clone();
    slices[0].endpoints[0].node = Some("here".into());
    life.observe([node, Event::Service(Change::Replace(services)), Event::Slice(Change::Replace(slices))]);
    life.work();
    let event = life.happenings.try_recv().expect("this node has the first endpoint");
    assert_eq!(event.reason, "AddressConflict");
    assert!(event.note.ends_with("TCP 10.96.0.1:80 (default/web1)"), "{event:?}");
    life.now += Duration::from_mins(2);
    life.work();
    assert!(life.happenings.try_recv().is_err(), "once");
}

/// As after `ip_vs` was removed for good.
#[test]
fn a_kernel_that_does_not_say_what_is_there_makes_the_node_unhealthy() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.observe(web());
    life.work();
    let pass = |life: &mut Life, time: Duration| {
        let end = life.now + time;
        while life.now < end {
            life.now += Duration::from_secs(10);
            life.work();
        }
    };
    let body = |life: &Life| {
        let then = Moment { instant: life.now, wall: SystemTime::now() };
        let answer = healthz::healthz(&life.status.borrow(), then, PERIOD);
        (answer.code, answer.body)
    };
    let (log, _listening) = telemetry::tests::listen();
    life.kernel.set_unreadable(Family::ALL.map(Part::VirtualServers));
    pass(&mut life, Duration::from_mins(1));
    let (code, text) = body(&life);
    assert!(code == 200 && text.contains("\"cannot read a part from the kernel: "), "{text}");
    pass(&mut life, Duration::from_secs(20));
    let (code, text) = body(&life);
    assert!(code == 503 && text.contains("\"cannot read a part from the kernel: "), "{text}");
    assert!(text.contains(", for 7"), "{text}");
    assert_eq!(log.lines_with("Cannot read the kernel's state").len(), 1, "said once");
    life.kernel.set_unreadable([]);
    pass(&mut life, Duration::from_secs(10));
    let (code, text) = body(&life);
    assert!(code == 200 && !text.contains("reasons"), "{text}");
}

/// A kernel that accepts nothing refuses everything at once: one line for each object would be thousands.
#[test]
fn what_is_refused_together_is_told_together() {
    let told = |what: fn(&Step) -> bool, count: u8| {
        let mut life = Life::new();
        life.refuse(EPERM, what);
        life.observe(webs(count));
        let (log, _listening) = telemetry::tests::listen();
        life.work();
        let mut errors = log.lines_with("");
        errors.retain(|line| line.starts_with('E'));
        life.kernel.set_faults(None);
        life.now += PERIOD * 4;
        life.work();
        (errors, log.lines_with("accepts"))
    };
    let addresses: fn(&Step) -> bool = |step| matches!(step, Step::AddAddress(_));
    let (errors, recoveries) = told(addresses, 20);
    assert_eq!((errors.len(), recoveries.len()), (1, 1), "{errors:?} {recoveries:?}");
    assert!(errors[0].contains("count=20") && errors[0].contains("default/web1"), "{errors:?}");
    assert!(recoveries[0].contains("count=20"), "{recoveries:?}");

    let (errors, recoveries) = told(addresses, 2);
    assert_eq!((errors.len(), recoveries.len()), (2, 2), "{errors:?} {recoveries:?}");
    assert!(errors[1].contains("service=\"default/web2\" object=\"address 10.96.0.2\""), "{errors:?}");

    // One line for a virtual server, with the first of its real servers.
    let (errors, _) = told(|step| matches!(step, Step::AddRealServer(..)), 1);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("Failed to sync endpoint for service") && errors[0].contains("endpoint="));
}

#[test]
fn connection_tracking_that_cannot_be_purged_is_said_once_in_an_hour() {
    let mut life = Life::new();
    let (log, _listening) = telemetry::tests::listen();
    let mut fails = |text: &str, later: Duration| {
        let purged = Purged { failure: Some(text.to_owned()), ..Purged::default() };
        life.reporter.tell(&life.reconciler, vec![Note::Purged(Family::V4, purged)], life.now + later);
        log.lines_with("Cannot purge").len()
    };
    let second = Duration::from_secs(1);
    assert_eq!(fails("operation not supported", second), 1);
    assert_eq!(fails("operation not supported", 10 * second), 1);
    assert_eq!(fails("no memory", 20 * second), 2, "another failure is news");
    assert_eq!(fails("operation not supported", Duration::from_hours(1) + second), 3);
}

#[test]
fn when_the_audit_had_read_everything_back_is_told() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.observe(web());
    life.work();
    assert_eq!(life.number("kube_ipvs_audit_round_timestamp_seconds"), "0", "what is read first is no audit");
    // What is reported within a minute, which has several rounds.
    let told = |life: &mut Life| {
        life.metrics.own.audit_round_timestamp_seconds.set(0);
        life.pass_a_minute();
        life.number("kube_ipvs_audit_round_timestamp_seconds").parse::<u64>().expect("a number")
    };
    assert!(told(&mut life) > 1_700_000_000);
    life.kernel.set_unreadable([Part::Table(Family::V4)]);
    told(&mut life);
    assert_eq!(told(&mut life), 0, "a part is never read");
    life.kernel.set_unreadable([]);
    assert!(told(&mut life) > 1_700_000_000, "all is read again");
}
