use super::*;
use crate::cluster::types::Family;
use crate::serve::{Failures, FamilyStatus, Unreadable};
use crate::telemetry::tests::{Written, listen};

const PERIOD: Duration = Duration::from_secs(30);

/// A status that changes over time, and the log about it.
struct Life {
    publish: watch::Sender<Status>,
    log: Written,
    _listening: tracing::subscriber::DefaultGuard,
}

impl Life {
    /// A healthy node to which everything was written.
    async fn new() -> Self {
        let (log, listening) = listen();
        let (publish, status) = watch::channel(Status::default());
        tokio::spawn(tell(status, PERIOD, CancellationToken::new()));
        let life = Self { publish, log, _listening: listening };
        assert_eq!(life.after(3).await, [""; 0], "that nothing is written at the start is nothing to say");
        life.publish.send_modify(|status| {
            status.synced_once = true;
            status
                .families
                .insert(Family::V4, FamilyStatus { last_synced: Some(now()), ..FamilyStatus::default() });
        });
        let said = life.after(2).await;
        assert_eq!(said, [r#"I "Health checks are answered with 200" path="/healthz" unhealthySeconds=4"#]);
        life
    }

    /// What is logged in the next `seconds`, without the heads of the lines except for their level.
    async fn after(&self, seconds: u64) -> Vec<String> {
        let before = self.lines().len();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.lines().split_off(before)
    }

    fn lines(&self) -> Vec<String> {
        let shown = |line: String| line.split_once("] ").map(|(head, text)| format!("{} {text}", &head[..1]));
        self.log.lines_with("Health checks").into_iter().filter_map(shown).collect()
    }

    fn queue(&self) {
        self.publish.send_modify(|status| status.families.entry(Family::V4).or_default().queued(now()));
    }

    fn sync(&self) {
        self.publish.send_modify(|status| status.families.entry(Family::V4).or_default().synced(now()));
    }
}

/// Time alone makes the node unhealthy: nobody changes the status at that moment.
#[tokio::test(start_paused = true)]
async fn a_change_that_waits_for_too_long_is_said_when_it_does() {
    let life = Life::new().await;
    life.queue();
    assert_eq!(life.after(59).await, [""; 0]);
    life.publish.send_modify(|status| status.failures = Failures::first(["x: no".to_owned()].into_iter(), 1));
    let reasons = "IPv4: a change has been waiting for 60 s to be written to the kernel; x: no";
    let expected =
        format!(r#"W "Health checks are answered with 503" paths="/healthz, /livez" reasons="{reasons}""#);
    assert_eq!(life.after(3).await, [expected]);
    // It goes on waiting, for longer and longer.
    life.queue();
    assert_eq!(life.after(100).await, [""; 0]);
    life.sync();
    assert_eq!(
        life.after(2).await,
        ["/healthz", "/livez"].map(|path| format!(
            r#"I "Health checks are answered with 200" path="{path}" unhealthySeconds=103"#
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn another_cause_is_said_too_and_the_same_once() {
    let life = Life::new().await;
    let said = |reason: &str| {
        [format!(r#"W "Health checks are answered with 503" paths="/healthz" reasons="{reason}""#)]
    };
    life.publish.send_modify(|status| status.ineligible = Some("the node is being deleted"));
    assert_eq!(life.after(2).await, said("the node is being deleted"));
    life.publish.send_modify(|status| {
        status.sources.insert("services".to_owned(), "cannot list".to_owned());
    });
    assert_eq!(life.after(2).await, [""; 0], "it makes nothing unhealthy");
    life.publish.send_modify(|status| {
        status.ineligible = None;
        status.sources.clear();
        status.drops_replies.push("iptables-nft".to_owned());
    });
    let reason = "replies of Services are dropped: FORWARD of iptables-nft accepts none";
    assert_eq!(life.after(2).await, said(reason));
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_is_unreadable_for_too_long_is_said_when_it_is() {
    let life = Life::new().await;
    let unreadable = Unreadable { since: now(), text: "cannot read it".to_owned() };
    life.publish.send_modify(|status| _ = status.unreadable.insert("it", unreadable));
    assert_eq!(life.after(58).await, [""; 0]);
    let said = life.after(4).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(r#"paths="/healthz, /livez" reasons="cannot read it, for 60 s""#), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_wakes_it_while_nothing_changes() {
    let (publish, status) = watch::channel(Status { synced_once: true, ..Status::default() });
    let waiting = FamilyStatus { unsynced_since: Some(now()), ..FamilyStatus::default() };
    publish.send_modify(|status| _ = status.families.insert(Family::V4, waiting));
    let end = now().instant + PERIOD * 2;
    let next = || next_by_itself(&status.borrow(), now(), PERIOD);
    assert_eq!(next(), Some(end));
    tokio::time::sleep(PERIOD * 2).await;
    assert_eq!(next(), None, "it is unhealthy until it is written");
    publish.send_modify(|status| status.families.clear());
    assert_eq!(next(), None);
}
