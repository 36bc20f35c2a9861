//! Whether this is the node's network at all. In a pod without `hostNetwork: true` the program successfully programs
//! the pod's own network, and no traffic ever uses it.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// How long to wait for the addresses: some are leased, and IPv6 first checks for duplicates.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a while, logs a warning if none of the node's addresses is on a device here. This may have a good reason:
/// where a cloud translates the addresses, no device has them.
pub(super) async fn look_for(addresses: Vec<IpAddr>) {
    tokio::time::sleep(PATIENCE).await;
    if !addresses.iter().copied().any(may_be_here) {
        tracing::warn!(
            ?addresses,
            "No network device here has any of the Node object's addresses. Is this the node's network? (A pod needs \
             hostNetwork: true)"
        );
    }
}

/// Whether the address may be local: a socket can only bind to a local one. (Listing all addresses takes longer, where
/// there are many Services.)
fn may_be_here(address: IpAddr) -> bool {
    !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_of_which_no_address_is_here_is_asked_about() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let told = || log.lines_with("Is this the node's network?");
        let look = async |addresses: &[&str]| {
            look_for(addresses.iter().map(|address| address.parse().unwrap()).collect()).await;
        };
        look(&["127.0.0.1"]).await;
        look(&["192.0.2.77", "127.0.0.1"]).await;
        assert_eq!(told(), [""; 0]);
        let looks = tokio::spawn(look_for(vec!["192.0.2.77".parse().unwrap()]));
        tokio::time::sleep(PATIENCE / 2).await;
        assert_eq!(told(), [""; 0], "it may come");
        looks.await.unwrap();
        let told = told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with('W') && told[0].contains("addresses=[192.0.2.77]"), "{told:?}");
    }
}
