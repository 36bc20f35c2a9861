//! How the kernel encodes families and addresses, in the messages of all its subsystems.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster::types::Family;

/// The kernel's number of a family: `AF_INET` or `AF_INET6`. `NFPROTO_IPV4` and `NFPROTO_IPV6` are the same numbers.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The family of this number.
pub(super) fn family_of(number: u8) -> Option<Family> {
    Family::ALL.into_iter().find(|known| family_number(*known) == number)
}

/// The length of an address in bytes.
pub(super) fn address_length(family: Family) -> u8 {
    family.host_prefix() / 8
}

/// The 4 or 16 bytes of an address.
pub(super) fn octets(address: IpAddr) -> impl AsRef<[u8]> {
    match address {
        IpAddr::V4(address) => Octets::V4(address.octets()),
        IpAddr::V6(address) => Octets::V6(address.octets()),
    }
}

enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}

/// The address that these bytes begin with.
pub(super) fn read_octets(bytes: &[u8], family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        Family::V6 => bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_addresses_are_read_as_they_were_written() {
        for (family, address, length) in [(Family::V4, "192.0.2.1", 4), (Family::V6, "2001:db8::1", 16)] {
            assert_eq!(family_of(family_number(family)), Some(family));
            assert_eq!(usize::from(address_length(family)), length);
            let address: IpAddr = address.parse().expect("an address");
            let mut bytes = octets(address).as_ref().to_vec();
            assert_eq!(bytes.len(), length);
            assert_eq!(read_octets(&bytes, family), Some(address));
            assert_eq!(read_octets(&bytes[1..], family), None, "cut off");
            bytes.push(7);
            assert_eq!(read_octets(&bytes, family), Some(address), "more behind it");
        }
        assert_eq!(family_of(7), None, "a bridge");
    }
}
