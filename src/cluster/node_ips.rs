//! The addresses by which a node is known (contract 3.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::Family;

/// The addresses of this node, one per family, and which family comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIps {
    /// The family of the first address.
    pub primary: Family,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl NodeIps {
    /// Takes the addresses of the Node object, in order, and `--bind-address`, which takes precedence in its family
    /// unless it is the unspecified address. A family without an address gets its loopback address. `None` if there is
    /// neither an address nor a `--bind-address`.
    pub fn new(addresses: &[IpAddr], bind_address: Option<IpAddr>) -> Option<Self> {
        let bind_address = bind_address.filter(|address| !address.is_unspecified());
        let primary = Family::of(bind_address.or(addresses.first().copied())?);
        let mut ips = Self { primary, v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };
        // The last address put wins: the first one of each family and, over all others, `--bind-address`.
        for address in addresses.iter().rev().chain(&bind_address) {
            match address {
                IpAddr::V4(address) => ips.v4 = *address,
                IpAddr::V6(address) => ips.v6 = *address,
            }
        }
        Some(ips)
    }

    /// The address in a family; the loopback address if the node has none.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The address of the primary family.
    pub fn primary(&self) -> IpAddr {
        self.of(self.primary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_per_family_and_the_first_is_primary() {
        for (addresses, bind_address, wanted) in [
            (&["192.0.2.1"][..], None, Some((Family::V4, "192.0.2.1", "::1"))),
            (&["fd00::1"], None, Some((Family::V6, "127.0.0.1", "fd00::1"))),
            (
                &["fd00::1", "192.0.2.1", "fd00::2", "192.0.2.2"],
                None,
                Some((Family::V6, "192.0.2.1", "fd00::1")),
            ),
            (&["192.0.2.1", "fd00::1"], Some("0.0.0.0"), Some((Family::V4, "192.0.2.1", "fd00::1"))),
            (&["192.0.2.1", "fd00::1"], Some("::"), Some((Family::V4, "192.0.2.1", "fd00::1"))),
            (&["192.0.2.1", "fd00::1"], Some("fd00::9"), Some((Family::V6, "192.0.2.1", "fd00::9"))),
            (&["fd00::1", "192.0.2.1"], Some("192.0.2.9"), Some((Family::V4, "192.0.2.9", "fd00::1"))),
            (&[], Some("192.0.2.9"), Some((Family::V4, "192.0.2.9", "::1"))),
            (&[], Some("0.0.0.0"), None),
            (&[], None, None),
        ] {
            let parsed: Vec<IpAddr> =
                addresses.iter().map(|address| address.parse().expect("an address")).collect();
            let bind = bind_address.map(|address: &str| address.parse().expect("an address"));
            let found = NodeIps::new(&parsed, bind)
                .map(|ips| (ips.primary, ips.of(Family::V4).to_string(), ips.of(Family::V6).to_string()));
            let wanted = wanted.map(|(family, v4, v6)| (family, v4.to_owned(), v6.to_owned()));
            assert_eq!(found, wanted, "{addresses:?} {bind_address:?}");
        }
    }
}
