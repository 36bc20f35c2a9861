//! Ports that the kernel assigns to the node's own connections, and that may be node ports.
//!
//! IPVS does not check whose reply a packet is: a SYN+ACK or a UDP datagram to an address of the node and a port that
//! is a Service's node port goes to an endpoint, although the node's own socket waits for it. No rule can tell IPVS
//! otherwise, but the kernel can exclude these ports from those that it assigns.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

/// The range of ports that the kernel assigns to sockets that have not chosen one: `32768 60999`.
const GIVEN: &str = "proc/sys/net/ipv4/ip_local_port_range";
/// The ports that it leaves out of this range: `8080,30000-32767`.
const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";
/// The ports that API servers give to Services, unless `--service-node-port-range` says otherwise.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The first and the last node port that the kernel may assign to the node's own connections, if there are any. Assumes
/// the API's default range, since nothing here says which one a cluster has. `None` also where the kernel's ranges
/// cannot be read.
pub(super) fn given(root: &Path) -> Option<RangeInclusive<u16>> {
    let read = |entry: &str| fs::read_to_string(root.join(entry)).ok();
    let text = read(GIVEN)?;
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let reserved: Vec<RangeInclusive<u16>> = match read(RESERVED)?.trim() {
        "" => Vec::new(),
        list => super::ranges(list)?,
    };
    let mut given = NODE_PORTS
        .filter(|port| (first..=last).contains(port) && !reserved.iter().any(|range| range.contains(port)));
    let lowest = given.next()?;
    Some(lowest..=given.next_back().unwrap_or(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::system::tests::host;

    #[test]
    fn node_ports_that_the_node_itself_may_get_are_found() {
        for (given_ports, reserved, found) in [
            ("32768\t60999\n", "\n", None),
            ("1024\t65535\n", "\n", Some(30_000..=32_767)),
            ("1024\t65535\n", "30000-32767\n", None),
            ("1024\t65535\n", "53,29000-31999,32760-33000\n", Some(32_000..=32_759)),
            ("32767\t60999\n", "8080\n", Some(32_767..=32_767)),
            ("15000\t30000\n", "\n", Some(30_000..=30_000)),
            ("", "\n", None),
        ] {
            let root = host(&[(GIVEN, given_ports), (RESERVED, reserved)]);
            assert_eq!(given(root.path()), found, "{given_ports:?} {reserved:?}");
        }
        assert_eq!(given(host(&[]).path()), None);
    }
}
