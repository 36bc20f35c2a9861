//! The dummy device kube-ipvs0.

use std::collections::BTreeMap;

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::{Kernel, Outcome, Selection};
use kube_ipvs::state::{Address, Key};

use crate::build::{address, errno, kernel, must, steps};
use crate::lab::{self, Test, shell};

/// All tests of this file.
pub(crate) const TESTS: &[Test] =
    lab::tests![the_device_is_made_down, the_device_is_adopted, a_device_of_another_kind_is_refused];

fn the_device_is_made_down() {
    let mut kernel = kernel();
    assert!(!kernel.read(&Selection::Settings).expect("the settings").device);
    must(&mut kernel, [Step::AddDevice]);
    let link = shell("ip -details link show kube-ipvs0");
    assert!(
        link.contains("<BROADCAST,NOARP>") && link.contains("state DOWN") && link.contains("dummy"),
        "{link}"
    );
    assert!(kernel.read(&Selection::Settings).expect("the settings").device);
    assert_eq!(errno(&kernel.apply(&steps([Step::AddDevice]))[0]), 17);
}

fn the_device_is_adopted() {
    shell("ip link add kube-ipvs0 type dummy; ip address add 10.96.0.1/32 dev kube-ipvs0");
    let mut kernel = kernel();
    assert!(kernel.read(&Selection::Keys([Key::Device].into())).expect("the device").device);
    let addresses = kernel.read(&Selection::Addresses(Family::V4)).expect("the addresses").addresses;
    assert_eq!(
        addresses,
        BTreeMap::from([(address("10.96.0.1"), Address { deprecated: false, routed: true })])
    );

    // Recreated by somebody else, with another index.
    shell("ip link del kube-ipvs0; ip link add another type dummy; ip link add kube-ipvs0 type dummy");
    must(&mut kernel, [Step::AddAddress(address("10.96.0.2"))]);
    assert!(shell("ip address show kube-ipvs0").contains("10.96.0.2/32"));
}

fn a_device_of_another_kind_is_refused() {
    shell("ip link add kube-ipvs0 type veth peer name other");
    let mut kernel = kernel();
    assert!(!kernel.read(&Selection::Settings).expect("the settings").device);
    let outcomes = kernel.apply(&steps([Step::AddDevice, Step::AddAddress(address("10.96.0.1"))]));
    let Outcome::Refused(refusal) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(refusal.text, "device kube-ipvs0 exists, but is veth, not a dummy: rename or remove it");
    assert_eq!(errno(&outcomes[1]), 19);
    assert!(!shell("ip address show kube-ipvs0").contains("10.96.0.1"));
    assert_eq!(kernel.read(&Selection::Addresses(Family::V4)).expect("none").addresses, BTreeMap::new());
}
