//! Objects that exist although the picture lacks them, and objects that are gone although the picture has them.

use kube_ipvs::state::{Address, Element, RealServer, RealServerKey, VirtualServer, Weight};

use super::*;

type Meddling = Box<dyn Fn(&mut State)>;

/// The first Service's virtual server.
fn first() -> VirtualServerKey {
    VirtualServerKey { address: ip("10.96.0.0"), protocol: Protocol::Tcp, port: 80 }
}

/// The virtual server that the second Service asks for, as somebody else might have made it.
fn rival(state: &State) -> (VirtualServerKey, VirtualServer) {
    let key = VirtualServerKey { address: ip("10.96.0.1"), ..first() };
    (key, VirtualServer { scheduler: "wlc".into(), ..state.virtual_servers[&first()].clone() })
}

/// A refusal that shows that the picture was wrong is resolved at once by a look at the kernel, and not reported.
#[test]
fn what_is_otherwise_than_believed_is_put_right_at_once_and_not_told() {
    let second = ip("10.96.0.1");
    let fewer = || vec![Event::Slice(Change::Upsert(slice(0, &["10.244.0.1"])))];
    let more = || vec![Event::Slice(Change::Upsert(slice(0, &["10.244.0.1", "10.244.0.2", "10.244.0.3"])))];
    let gone = || vec![Event::Service(Change::Delete(service(0).key))];
    let comes = || appears(1).to_vec();
    let cases: [(&str, Meddling, Vec<Event>); 10] = [
        (
            "a virtual server is there",
            Box::new(|state| state.virtual_servers.extend([rival(state)])),
            comes(),
        ),
        (
            "an address is there",
            Box::new(move |state| _ = state.addresses.insert(second, Address::wanted(second))),
            comes(),
        ),
        (
            "an element is there",
            Box::new(move |state| _ = state.elements.insert(Element::ClusterAddress(second))),
            comes(),
        ),
        ("a real server lacks its virtual server", Box::new(|state| state.virtual_servers.clear()), more()),
        (
            "a real server is there",
            Box::new(|state| {
                let known = &mut state.virtual_servers.get_mut(&first()).expect("it is there").real_servers;
                let key = RealServerKey { address: ip("10.244.0.3"), port: 8080 };
                known.insert(key, RealServer::with(Weight::Exactly(7)));
            }),
            more(),
        ),
        (
            "a real server is gone",
            Box::new(|state| {
                let known = &mut state.virtual_servers.get_mut(&first()).expect("it is there").real_servers;
                known.remove(&RealServerKey { address: ip("10.244.0.2"), port: 8080 });
            }),
            fewer(),
        ),
        ("its virtual server is gone", Box::new(|state| state.virtual_servers.clear()), fewer()),
        ("a virtual server that goes is gone", Box::new(|state| state.virtual_servers.clear()), gone()),
        ("an address that goes is gone", Box::new(|state| state.addresses.clear()), gone()),
        ("an element that goes is gone", Box::new(|state| state.elements.clear()), gone()),
    ];
    for (what, meddle, events) in cases {
        let mut straight = settled(1, NEVER);
        straight.feed(events.clone());
        straight.pass(Duration::from_secs(10));

        let mut life = settled(1, NEVER);
        life.reconciler.take_notes();
        life.kernel.meddle(&*meddle);
        life.feed(events);
        life.pass(Duration::from_millis(100));
        let notes = life.reconciler.take_notes();
        assert!(!notes.iter().any(|note| matches!(note, Note::Refused { .. })), "{what}: {notes:?}");
        assert!(life.reconciler.failures().is_empty(), "{what}: {:?}", life.reconciler.failures());
        // Waits until what drains has gone.
        life.pass(Duration::from_secs(10));
        assert_eq!(life.kernel.state(), straight.kernel.state(), "{what}");
    }
}
