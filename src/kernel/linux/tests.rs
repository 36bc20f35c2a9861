use super::*;
use crate::cluster::types;
use crate::diff::Phase;
use crate::state::{Element, RealServer, Weight};

/// Within a run, the sockets are used one after the other, whatever the phases say.
#[test]
fn only_phases_for_ipvs_that_do_not_need_each_other_go_together() {
    let address = IpAddr::from([10, 96, 0, 1]);
    let key = |port| VirtualServerKey { address, protocol: types::Protocol::Tcp, port };
    let real = RealServerKey { address: IpAddr::from([10, 244, 0, 1]), port: 8080 };
    let value = |weight| RealServer::with(Weight::Exactly(weight));
    let planned = |phase, step, needs: &[usize]| PlannedStep {
        step,
        phase: Phase(phase),
        needs: needs.iter().copied().collect(),
    };
    let add = |needs: &[usize]| planned(4, Step::AddRealServer(key(80), real, value(1)), needs);
    let drain = || planned(5, Step::EditRealServer(key(81), real, value(0)), &[]);
    let unmake = |phase| planned(phase, Step::DeleteVirtualServer(key(82)), &[]);
    let way = Element::InCluster(key(81), address, 80);
    for (what, steps, end) in [
        ("an endpoint for another", vec![add(&[]), drain()], 2),
        ("and what goes", vec![add(&[]), drain(), unmake(8)], 3),
        ("what needs another", vec![unmake(3), add(&[0])], 1),
        ("a way inside", vec![add(&[]), planned(6, Step::AddElement(way), &[])], 1),
        ("an address", vec![add(&[]), planned(6, Step::AddAddress(address), &[])], 1),
        ("elements that go", vec![unmake(8), planned(9, Step::DeleteElement(way), &[])], 1),
        ("elements that come", vec![planned(2, Step::AddElement(way), &[]), add(&[])], 1),
    ] {
        assert_eq!(end_of_run(&Plan { steps }, 0), end, "{what}");
    }
}
