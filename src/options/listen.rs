//! Addresses to listen on: `ip` or `ip:port`; an IPv6 address with a port stands in brackets.

use std::net::SocketAddr;

use crate::sloppy::parse_ip;

/// Where a server listens by default: the port, and an address for each family of `bindAddress`.
pub(super) struct DefaultAddress {
    pub(super) port: u16,
    pub(super) v4: &'static str,
    pub(super) v6: &'static str,
}

pub(super) const HEALTHZ: DefaultAddress =
    DefaultAddress { port: 10256, v4: "0.0.0.0:10256", v6: "[::]:10256" };
pub(super) const METRICS: DefaultAddress =
    DefaultAddress { port: 10249, v4: "127.0.0.1:10249", v6: "[::1]:10249" };

/// Appends the port to an address that has none; anything else stays as it is.
pub(super) fn append_port(text: &mut String, port: u16) {
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Some(ip) = parse_ip(unbracketed) {
        *text = SocketAddr::new(ip, port).to_string();
    }
}

/// The address and the port, which is not 0; `None`: the text is something else.
pub(super) fn parse(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // `u16::from_str` would take "+8"
    }
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(parse_ip(host)?, port))
}
