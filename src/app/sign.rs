//! Keeps up the sign by which a cleanup knows that the program runs.

use std::future;
use std::io::ErrorKind;
use std::time::Duration;

use crate::leftovers::running::Sign;

/// How often to try to set the sign while another kube-ipvs holds it.
const PERIOD: Duration = Duration::from_secs(10);

/// Sets the sign, now or when another kube-ipvs has ended, and keeps it until the runtime ends. The program works
/// without it.
pub(super) fn keep() {
    let mut sign = Sign::set();
    tokio::spawn(async move {
        let mut told = false;
        let _sign = loop {
            match sign {
                Ok(sign) => break sign,
                Err(error) if !told && error.kind() == ErrorKind::AddrInUse => {
                    tracing::warn!("Another kube-ipvs runs on this node: each undoes what the other does");
                }
                Err(error) if !told => {
                    tracing::warn!(
                        err = %error,
                        "Cannot create the socket by which a cleanup sees that kube-ipvs runs on this node"
                    );
                }
                Err(_) => {}
            }
            told = true;
            tokio::time::sleep(PERIOD).await;
            sign = Sign::set();
        };
        future::pending::<()>().await;
    });
}
