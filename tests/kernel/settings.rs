//! IPVS' timeouts, and sysctls.

use std::collections::BTreeMap;

use kube_ipvs::diff::Step;
use kube_ipvs::kernel::linux::LinuxKernel;
use kube_ipvs::kernel::{Kernel, Selection, version};
use kube_ipvs::state::{Key, State, Sysctl, Timeouts};

use crate::build::{errno, kernel, must, steps};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![timeouts_are_set_and_kept, sysctls_are_written_and_read];

fn timeouts_are_set_and_kept() {
    let mut kernel = kernel();
    let read = |kernel: &mut LinuxKernel| {
        let state = kernel.read(&Selection::Keys([Key::Timeouts].into())).expect("the timeouts");
        assert_eq!(state, State { timeouts: state.timeouts, ..State::default() });
        state.timeouts
    };
    assert_eq!(read(&mut kernel), Timeouts { tcp_seconds: 900, tcp_fin_seconds: 120, udp_seconds: 300 });
    let timeouts =
        |tcp_seconds, tcp_fin_seconds, udp_seconds| Timeouts { tcp_seconds, tcp_fin_seconds, udp_seconds };
    must(&mut kernel, [Step::SetTimeouts(timeouts(60, 0, 0))]);
    assert_eq!(shell("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 60 120 300\n");
    must(&mut kernel, [Step::SetTimeouts(timeouts(0, 30, 10))]);
    assert_eq!(shell("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 60 30 10\n");
    assert_eq!(read(&mut kernel), timeouts(60, 30, 10));
}

fn sysctls_are_written_and_read() {
    let mut kernel = kernel();
    let before = kernel.read(&Selection::Settings).expect("the settings").sysctls;
    // The estimator can be stopped since Linux 5.15.
    let is_expected = |sysctl: &Sysctl| *sysctl != Sysctl::VsRunEstimation || version::running() >= (5, 15);
    let expected: Vec<Sysctl> = Sysctl::ALL.into_iter().filter(is_expected).collect();
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), expected, "the lab's kernel has all others");
    for sysctl in expected {
        must(&mut kernel, [Step::SetSysctl(sysctl, "1".into())]);
        assert_eq!(shell(&format!("cat /proc/sys/{sysctl}")), "1\n");
    }
    must(&mut kernel, [Step::SetSysctl(Sysctl::VsConntrack, "0".into())]);
    let state = kernel.read(&Selection::Keys([Key::Sysctl(Sysctl::VsConntrack)].into())).expect("the sysctl");
    assert_eq!(state.sysctls, BTreeMap::from([(Sysctl::VsConntrack, "0".to_owned())]));
    let outcome = &kernel.apply(&steps([Step::SetSysctl(Sysctl::VsConntrack, "many".into())]))[0];
    assert_eq!(errno(outcome), 22, "EINVAL");
}
