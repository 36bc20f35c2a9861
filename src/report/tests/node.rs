//! What this node's Node object says to load balancers.

use super::*;

/// Manifest files need no Node object. The API server has one for each node that exists, and kube-proxy sends load
/// balancers away from others.
#[test]
fn a_node_that_the_api_server_does_not_have_is_not_eligible() {
    let mut life = Life::new();
    life.observe(web());
    life.work();
    assert_eq!(life.health(Duration::ZERO).0, 200, "manifests");
    life.reporter.needs_node = true;
    life.work();
    let (code, body) = life.health(Duration::ZERO);
    let why = r#""nodeEligible":false,"healthy":true"#;
    assert!(code == 503 && body.contains(why) && body.contains("the node has no Node object"), "{body}");
    assert_eq!(life.life(Duration::ZERO), 200, "a restart brings no Node");
    let node = Node { name: "here".into(), addresses: vec![], zone: None, pod_cidrs: vec![], eligible: true };
    life.observe([Event::Node(Change::Upsert(node))]);
    life.work();
    assert_eq!(life.health(Duration::ZERO).0, 200, "it need not have addresses");
}

#[test]
fn before_the_lists_came_nothing_is_said_about_the_node() {
    let mut life = Life::new();
    life.reporter.needs_node = true;
    life.work();
    let (code, body) = life.health(Duration::ZERO);
    assert!(code == 503 && !body.contains("Node object"), "{body}");
}

#[test]
fn a_node_that_is_about_to_go_is_not_eligible_until_it_stays_after_all() {
    let mut life = Life::new();
    life.observe(web());
    let node = |eligible| {
        let node = Node { name: "here".into(), addresses: vec![], zone: None, pod_cidrs: vec![], eligible };
        [Event::Node(Change::Upsert(node))]
    };
    for (eligible, code) in [(true, 200), (false, 503), (true, 200)] {
        life.status.mark_unchanged();
        life.observe(node(eligible));
        life.work();
        assert!(life.status.has_changed().expect("it is published"), "whoever waits for news is told");
        let (found, body) = life.health(Duration::ZERO);
        assert_eq!((found, body.contains("is being deleted")), (code, !eligible), "{body}");
        assert_eq!(life.life(Duration::ZERO), 200, "a restart keeps no node");
    }
}
