//! When free memory is given back to the system.

use super::*;

/// How often the foundations are looked for, and less than a round of the audit takes here.
const LOOKS: Duration = Duration::from_secs(10);

impl Life {
    /// Whether memory was given back since the last write.
    fn gave_back(&self) -> bool {
        self.reporter.written_at_give_back == self.reporter.written
    }
}

#[test]
fn what_much_leaves_free_does_not_wait_for_the_audit() {
    let mut life = Life::at_pace(Duration::ZERO, LOOKS / 10);
    life.observe(web());
    life.work();
    assert!(life.gave_back(), "after the first sync");

    life.observe(webs(2));
    life.work();
    assert!(!life.gave_back());
    life.now += LOOKS;
    life.work();
    assert!(!life.gave_back(), "a few writes leave little");

    life.observe(webs(250));
    life.work();
    assert!(!life.gave_back());
    life.now += LOOKS;
    life.work();
    assert!(life.gave_back());
    assert_eq!(life.number("kube_ipvs_audit_round_timestamp_seconds"), "0", "no round has ended");

    life.observe(webs(251));
    life.work();
    life.pass_a_minute();
    assert!(life.gave_back(), "after a round of the audit");
}
