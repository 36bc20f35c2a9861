//! What the source reports, and what it does not, when the server or the way to it fails. The clock is paused: no test
//! here waits, and durations are exact.

mod listener;
mod lists;
mod nonsense;
mod refusals;
mod silence;
mod versions;

use kube_ipvs::api::watch::Settings;

use crate::common::fake_apiserver::{FakeApiServer, Kind, Received};
use crate::common::objects::{node, service, slice};
use crate::session::{NODE, Session, Test};

/// All tests of this folder.
pub fn tests() -> impl Iterator<Item = &'static (&'static str, Test)> {
    [lists::TESTS, refusals::TESTS, silence::TESTS, versions::TESTS, nonsense::TESTS, listener::TESTS]
        .into_iter()
        .flatten()
}

/// A server with two Services, a slice and the node.
fn server() -> FakeApiServer {
    let server = FakeApiServer::new();
    server.put(service("a", "10.96.0.1"));
    server.put(service("b", "10.96.0.2"));
    server.put(slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]));
    server.put(node(NODE, "192.0.2.1"));
    server
}

const BOTH: &str = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80]";
const SLICE: &str = "replace [default/a-1 of default/a (10.1.0.1 10.1.0.2)]";

fn start(server: &FakeApiServer) -> Session {
    Session::start(server.client(), Settings::default())
}

/// A session with established watches: three, since nobody asks for the other nodes.
async fn established(server: &FakeApiServer) -> Session {
    let mut session = start(server);
    assert_eq!(session.first().await, [BOTH, SLICE, "replace [worker (192.0.2.1)]"]);
    session
}

/// The requests for Services, in short: `Stream` or `Watch@104`.
fn asked(server: &FakeApiServer) -> Vec<String> {
    let short = |received: Received| match received.parameter("resourceVersion") {
        "" | "-" => format!("{:?}", received.wants),
        version => format!("{:?}@{version}", received.wants),
    };
    server.received(Kind::Services).into_iter().map(short).collect()
}
