//! Settings that others change.

use super::*;

#[test]
fn a_timeout_that_is_left_to_the_kernel_is_anyones() {
    let mut life = settled(1, Duration::from_secs(1));
    let wanted = life.kernel.state().timeouts;
    assert_eq!(wanted.tcp_fin_seconds, 0, "we do not set it");
    let told = |life: &mut Life, change: fn(&mut Timeouts)| {
        life.reconciler.take_notes();
        life.kernel.meddle(|state| change(&mut state.timeouts));
        life.pass(Duration::from_mins(1));
        let notes = life.reconciler.take_notes();
        notes.iter().filter(|note| matches!(note, Note::Drift(Key::Timeouts))).count()
    };
    assert_eq!(told(&mut life, |timeouts| timeouts.tcp_fin_seconds = 77), 0);
    assert_eq!(told(&mut life, |timeouts| timeouts.udp_seconds = 5), 1);
    assert_eq!(life.kernel.state().timeouts, Timeouts { tcp_fin_seconds: 77, ..wanted });
}
