//! IP addresses and CIDRs as Kubernetes has always read them.
//!
//! Kubernetes parses addresses that users write with the "sloppy" rules from before Go 1.17 (`ParseIPSloppy` and
//! `ParseCIDRSloppy` of `k8s.io/utils/net`): an octet may have leading zeros and is decimal all the same, so
//! `010.96.0.1` is `10.96.0.1`. The standard library refuses such addresses, and C's `inet_aton` reads them as octal;
//! either would break someone's old manifest. An IPv4-mapped IPv6 address (`::ffff:10.96.0.1`) is the IPv4 address, as
//! it is for Go.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The address that `text` stands for; `None` if it is not an address. Zones (`fe80::1%eth0`), spaces and anything else
/// around the address are not allowed.
///
/// ```
/// use kube_ipvs::sloppy::parse_ip;
/// assert_eq!(parse_ip("010.096.000.001"), "10.96.0.1".parse().ok());
/// assert_eq!(parse_ip("::ffff:10.96.0.1"), "10.96.0.1".parse().ok());
/// assert_eq!(parse_ip("10.96.0.256"), None);
/// ```
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    parse_as_written(text).map(|address| address.to_canonical())
}

/// The network that `text` stands for, an address and a decimal prefix length; `None` if it is not a network. Address
/// bits beyond the prefix are cleared, as in the network that Go's `ParseCIDR` returns.
///
/// ```
/// use kube_ipvs::sloppy::parse_cidr;
/// assert_eq!(parse_cidr("10.096.0.1/12"), "10.96.0.0/12".parse().ok());
/// assert_eq!(parse_cidr("10.96.0.0"), None);
/// ```
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // `u8::from_str` would take "+8"
    }
    let length: u8 = length.parse().ok()?;
    let network = match parse_as_written(address)? {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new(address, length).ok()?),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) if length >= 96 => IpNet::V4(Ipv4Net::new(mapped, length - 96).ok()?),
            _ => IpNet::V6(Ipv6Net::new(address, length).ok()?),
        },
    };
    Some(network.trunc())
}

fn parse_as_written(text: &str) -> Option<IpAddr> {
    // Nearly every address is in the form that the standard library accepts.
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if text.contains(':') { parse_v6(text).map(IpAddr::V6) } else { parse_v4(text).map(IpAddr::V4) }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next()?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        *octet = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    }
    parts.next().is_none().then(|| octets.into())
}

/// Parses an IPv6 address whose groups, and the octets of an IPv4 address at its end, may have leading zeros.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    let mut strict = String::with_capacity(text.len());
    for (index, group) in text.split(':').enumerate() {
        if index > 0 {
            strict.push(':');
        }
        if group.contains('.') {
            write!(strict, "{}", parse_v4(group)?).expect("writing to a String cannot fail");
        } else if group.len() > 4 {
            let significant = group.trim_start_matches('0');
            strict.push_str(if significant.is_empty() { "0" } else { significant });
        } else {
            strict.push_str(group);
        }
    }
    strict.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("10.96.0.1", Some("10.96.0.1")),
            ("010.96.0.1", Some("10.96.0.1")),
            ("000010.000096.0000.00001", Some("10.96.0.1")),
            ("00.00.00.00", Some("0.0.0.0")),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0::0001", Some("fd00::1")),
            ("fd00::00001", Some("fd00::1")),
            ("::ffff:10.96.0.1", Some("10.96.0.1")),
            ("::ffff:010.96.0.01", Some("10.96.0.1")),
            ("64:ff9b::010.0.0.1", Some("64:ff9b::a00:1")),
            ("", None),
            ("10.96.0", None),
            ("10.96.0.1.2", None),
            ("10.96..1", None),
            ("10.96.0.256", None),
            ("10.96.0.0400", None),
            ("10.96.0.+1", None),
            ("0x0a.96.0.1", None),
            (" 10.96.0.1", None),
            ("10.96.0.1\n", None),
            ("10.96.0.1/32", None),
            ("fe80::1%eth0", None),
            ("fd00::12345", None),
            ("fd00:::1", None),
            ("1.2.3.4::", None),
            ("None", None),
        ] {
            assert_eq!(parse_ip(text), wanted.map(|wanted| wanted.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn networks() {
        for (text, wanted) in [
            ("10.244.0.0/16", Some("10.244.0.0/16")),
            ("10.244.3.7/16", Some("10.244.0.0/16")),
            ("010.0244.0.0/016", Some("10.244.0.0/16")),
            ("fd00:10::/56", Some("fd00:10::/56")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.0/95", Some("::fffe:0:0/95")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/8/8", None),
            ("10.0.0.0/255.0.0.0", None),
            ("fd00::/129", None),
            ("/8", None),
        ] {
            assert_eq!(parse_cidr(text), wanted.map(|wanted| wanted.parse().unwrap()), "{text:?}");
        }
    }
}
