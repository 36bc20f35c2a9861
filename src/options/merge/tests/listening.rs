//! Where the program listens.

use std::net::SocketAddr;

use super::*;

#[test]
fn addresses_to_listen_on() {
    for (text, healthz, metrics) in [
        ("", None, None),
        ("0.0.0.0", Some("0.0.0.0:10256"), Some("0.0.0.0:10249")),
        ("010.0.0.1", Some("10.0.0.1:10256"), Some("10.0.0.1:10249")),
        ("::", Some("[::]:10256"), Some("[::]:10249")),
        ("[::1]", Some("[::1]:10256"), Some("[::1]:10249")),
        ("1.2.3.4:1", Some("1.2.3.4:1"), Some("1.2.3.4:1")),
        ("[fd00::1]:65535", Some("[fd00::1]:65535"), Some("[fd00::1]:65535")),
    ] {
        let address = |text: Option<&str>| text.map(|text| text.parse::<SocketAddr>().unwrap());
        let words = [format!("--healthz-bind-address={text}"), format!("--metrics-bind-address={text}")];
        let options = with_flags(&[&words[0], &words[1]]).unwrap().options;
        assert_eq!(options.healthz_address, address(healthz), "{text}");
        assert_eq!(options.metrics_address, address(metrics), "{text}");
    }
    // The file's bindAddress decides the family of the default addresses.
    let options = with_file(&[], "bindAddress: '::'").unwrap().options;
    assert_eq!(options.healthz_address, "[::]:10256".parse().ok());
    assert_eq!(options.metrics_address, "[::1]:10249".parse().ok());
}

#[test]
fn deprecated_ports_fill_a_gap_or_switch_off() {
    for (words, healthz, metrics) in [
        (&["--healthz-port=1", "--metrics-port=2"][..], Some("0.0.0.0:10256"), Some("127.0.0.1:10249")),
        (
            &[
                "--healthz-port=1",
                "--healthz-bind-address=1.2.3.4",
                "--metrics-bind-address=::1",
                "--metrics-port=2",
            ],
            Some("1.2.3.4:1"),
            Some("[::1]:2"),
        ),
        (&["--healthz-port=0", "--metrics-port=0"], None, None),
        (&["--bind-address=::"], Some("0.0.0.0:10256"), Some("127.0.0.1:10249")),
    ] {
        let options = with_flags(words).unwrap().options;
        let address = |text: Option<&str>| text.map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(options.healthz_address, address(healthz), "{words:?}");
        assert_eq!(options.metrics_address, address(metrics), "{words:?}");
    }
    // With a file, the flag is ignored.
    for port in ["0", "-1", "65536"] {
        let flag = format!("--healthz-port={port}");
        assert!(with_file(&[&flag], "").unwrap().options.healthz_address.is_some(), "{flag}");
    }
}
