//! The phrases that our rules consist of → the kernel's bytecode.
//!
//! Each phrase stands for one in `nft`'s language and compiles to exactly the expressions that `nft` generates for it
//! (`nft --debug=netlink` shows them): `nft` can print only what looks like its own output.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::wire::{Expression, Field, verdict};
use crate::cluster::types::{Family, Protocol};
use crate::kernel::bytes::{address_length, family_number, octets};
use crate::state::Inside;

/// A phrase of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phrase {
    /// `ip saddr NETWORK`, `iifname NAME`, `iifname "PREFIX*"`
    From(Inside),
    /// `ip saddr != NETWORK`, ...
    NotFrom(Inside),
    /// `ip saddr @SET`
    SourceInSet(&'static str),
    /// `ip daddr @SET`
    DestinationInSet(&'static str),
    /// `ip saddr . ip daddr @SET`
    PairInSet(&'static str),
    /// `ip daddr . meta l4proto . th dport @SET`
    EntryPointIn(&'static str),
    /// `ip daddr . ip protocol . th dport . ip saddr != @SET`. For IPv6, `ip6 nexthdr` takes the place of the protocol:
    /// packets with extension headers match no set. (`nft` cannot load its own `meta l4proto` in a set of ranges.)
    EntryPointAndSourceNotIn(&'static str),
    /// `fib daddr type local`: the destination is an address of this node, those on kube-ipvs0 included
    ToThisNode,
    /// `oifname != @SET`
    LeavesByNoneOf(&'static str),
    /// `oif != "lo"`
    LeavesNotByLoopback,
    /// `meta mark & BIT == 0`
    NotMarked(u32),
    /// `meta mark & BIT != 0`
    Marked(u32),
    /// `meta mark set meta mark | BIT`
    Mark(u32),
    /// `meta mark set meta mark ^ BIT`
    Unmark(u32),
    /// `ct state new`
    NewConnection,
    /// `ct state invalid`
    OfNoConnection,
    /// `ct state untracked`
    Untracked,
    /// `ct state established,related`
    KnownConnection,
    /// `ct status dnat`
    Rewritten,
    /// `ct status ! dnat`
    NotRewritten,
    /// `icmp type echo-request`; for IPv6, which depends on ICMP for much more, all of `meta l4proto ipv6-icmp`
    Ping,
    /// `tcp flags ! syn`
    TcpWithoutSyn,
    /// `tcp flags ! fin,syn`
    TcpWithoutSynAndFin,
    /// `tcp flags rst`
    TcpReset,
    /// `dnat ip to ip daddr . meta l4proto . th dport map @MAP`
    RewriteBy(&'static str),
    /// `dnat to ip daddr`
    RewriteToItself,
    /// `snat to ADDRESS`, `snat to ADDRESS fully-random`
    SourceBecomes {
        /// Of the table's family.
        address: Ipv4Addr,
        /// Whether the source port is chosen at random.
        random: bool,
    },
    /// `masquerade`, `masquerade fully-random`
    Masquerade {
        /// Whether the source port is chosen at random.
        random: bool,
    },
    /// `notrack`
    Untrack,
    /// `accept`
    Accept,
    /// `return`
    Return,
    /// `drop`
    Drop,
    /// `reject` (ICMP port unreachable)
    Reject,
    /// `reject with tcp reset`
    RejectWithReset,
}

/// `NFT_REG_1`, 16 bytes: the value to be examined.
const REGISTER: u32 = 1;
/// `NFT_REG32_01`, the 4 bytes behind the first 4 of [`REGISTER`].
const REGISTER_AFTER_4: u32 = 9;
/// `NFT_REG_2`, the 16 bytes behind those of [`REGISTER`].
const REGISTER_AFTER_16: u32 = 2;
/// `NFT_REG32_00`, the first 4 bytes of [`REGISTER`]; the others follow.
const REGISTER_OF_4: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// What a payload's offset is relative to: `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offset and value of the type of an ICMP echo request.
const ICMP_TYPE: (u32, u8) = (0, 8);
/// Offset of the flags in a TCP header, and some of the flags.
const TCP_FLAGS: u32 = 13;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
/// Offset and length of the destination port in the header of any transport protocol.
const DESTINATION_PORT: (u32, u32) = (2, 2);
/// `IPPROTO_ICMP`, `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// `NFT_META_MARK`, `NFT_META_OIF`, `NFT_META_IIFNAME`, `NFT_META_OIFNAME`, `NFT_META_L4PROTO`.
const META_MARK: u32 = 3;
const META_OUTPUT: u32 = 5;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_L4_PROTOCOL: u32 = 16;
/// `LOOPBACK_IFINDEX`, the number of `lo` in each network namespace.
const LOOPBACK: u32 = 1;
/// `NFT_CT_STATE`, `NF_CT_STATE_INVALID_BIT`, `NF_CT_STATE_BIT` of established and related, and of new, and
/// `NF_CT_STATE_UNTRACKED_BIT`.
const CT_STATE: u32 = 0;
const INVALID: u32 = 1;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const NEW: u32 = 8;
const UNTRACKED: u32 = 64;
/// `NFT_CT_STATUS`, and `IPS_DST_NAT`.
const CT_STATUS: u32 = 2;
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, and `RTN_LOCAL`, which is in the host's byte order.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
const TYPE_LOCAL: u32 = 2;
/// `NFT_NAT_SNAT`, `NFT_NAT_DNAT`.
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
/// `NFT_LOOKUP_F_INV`.
const NOT_IN_SET: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED`, `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const WITH_ADDRESS: u32 = 1 << 0;
const WITH_PORT: u32 = 1 << 1;
const FULLY_RANDOM: u32 = 1 << 4;
/// `NFT_REJECT_ICMP_UNREACH`, `NFT_REJECT_TCP_RST`.
const REJECT_WITH_ICMP: u32 = 0;
const REJECT_WITH_RESET: u32 = 1;

/// Where the addresses are in the IP header, how long they are, and what else depends on the family.
struct Header {
    source: u32,
    destination: u32,
    length: u32,
    /// Where the next header's protocol is.
    protocol: u32,
    /// The register behind an address in [`REGISTER`].
    second: u32,
    /// The kernel's number of the family.
    family: u32,
    /// `ICMP_PORT_UNREACH`, `ICMPV6_PORT_UNREACH`.
    port_unreachable: u8,
}

fn header(of: Family) -> Header {
    let (family, length) = (family_number(of).into(), address_length(of).into());
    match of {
        Family::V4 => Header {
            source: 12,
            destination: 16,
            length,
            protocol: 9,
            second: REGISTER_AFTER_4,
            family,
            port_unreachable: 3,
        },
        Family::V6 => Header {
            source: 8,
            destination: 24,
            length,
            protocol: 6,
            second: REGISTER_AFTER_16,
            family,
            port_unreachable: 4,
        },
    }
}

impl Header {
    /// The 4-byte register at this distance in bytes behind an address in [`REGISTER`].
    fn behind_address(&self, bytes: u32) -> u32 {
        REGISTER_OF_4 + (self.length + bytes) / 4
    }

    /// Destination address, protocol and port → registers.
    fn entry_point(&self, protocol: Expression) -> Vec<Expression> {
        let (offset, length) = DESTINATION_PORT;
        vec![
            payload(NETWORK_HEADER, self.destination, self.length, REGISTER),
            protocol,
            payload(TRANSPORT_HEADER, offset, length, self.behind_address(4)),
        ]
    }
}

impl Phrase {
    /// Compiles the phrase to bytecode for a table of this family.
    pub(super) fn compile(&self, family: Family) -> Vec<Expression> {
        let header = header(family);
        let address = |offset, register| payload(NETWORK_HEADER, offset, header.length, register);
        match self {
            Self::From(inside) => from(&header, inside, EQUAL),
            Self::NotFrom(inside) => from(&header, inside, NOT_EQUAL),
            Self::SourceInSet(set) => vec![address(header.source, REGISTER), lookup(set)],
            Self::DestinationInSet(set) => vec![address(header.destination, REGISTER), lookup(set)],
            Self::PairInSet(set) => {
                vec![
                    address(header.source, REGISTER),
                    address(header.destination, header.second),
                    lookup(set),
                ]
            }
            Self::EntryPointIn(set) => {
                let mut expressions = header.entry_point(meta_to(META_L4_PROTOCOL, header.second));
                expressions.push(lookup(set));
                expressions
            }
            Self::EntryPointAndSourceNotIn(set) => {
                let protocol = payload(NETWORK_HEADER, header.protocol, 1, header.second);
                let mut expressions = header.entry_point(protocol);
                expressions.push(address(header.source, header.behind_address(8)));
                expressions.push(lookup_with(set, Field::number(5, NOT_IN_SET)));
                expressions
            }
            Self::ToThisNode => {
                let fields = [(1, REGISTER), (2, FIB_ADDRESS_TYPE), (3, FIB_DESTINATION)];
                let fields = fields.map(|(kind, number)| Field::number(kind, number)).into();
                vec![expression("fib", fields), compare(EQUAL, &TYPE_LOCAL.to_ne_bytes())]
            }
            Self::LeavesByNoneOf(set) => {
                vec![meta(META_OUTPUT_NAME), lookup_with(set, Field::number(5, NOT_IN_SET))]
            }
            Self::LeavesNotByLoopback => {
                vec![meta(META_OUTPUT), compare(NOT_EQUAL, &LOOPBACK.to_ne_bytes())]
            }
            Self::NotMarked(bit) => mark(*bit, EQUAL),
            Self::Marked(bit) => mark(*bit, NOT_EQUAL),
            Self::Mark(bit) => change_mark(!bit, *bit),
            Self::Unmark(bit) => change_mark(u32::MAX, *bit),
            Self::NewConnection => connection(CT_STATE, NEW, NOT_EQUAL),
            Self::OfNoConnection => connection(CT_STATE, INVALID, NOT_EQUAL),
            Self::Untracked => connection(CT_STATE, UNTRACKED, NOT_EQUAL),
            Self::KnownConnection => connection(CT_STATE, ESTABLISHED_OR_RELATED, NOT_EQUAL),
            Self::Rewritten => connection(CT_STATUS, DESTINATION_TRANSLATED, NOT_EQUAL),
            Self::NotRewritten => connection(CT_STATUS, DESTINATION_TRANSLATED, EQUAL),
            Self::Ping => match family {
                Family::V4 => vec![
                    meta(META_L4_PROTOCOL),
                    compare(EQUAL, &[ICMP]),
                    payload(TRANSPORT_HEADER, ICMP_TYPE.0, 1, REGISTER),
                    compare(EQUAL, &[ICMP_TYPE.1]),
                ],
                Family::V6 => vec![meta(META_L4_PROTOCOL), compare(EQUAL, &[ICMPV6])],
            },
            Self::TcpWithoutSyn => tcp_flags(SYN, EQUAL),
            Self::TcpWithoutSynAndFin => tcp_flags(SYN | FIN, EQUAL),
            Self::TcpReset => tcp_flags(RST, NOT_EQUAL),
            Self::RewriteBy(map) => {
                let mut expressions = header.entry_point(meta_to(META_L4_PROTOCOL, header.second));
                expressions.push(lookup_with(map, Field::number(3, REGISTER)));
                expressions.push(translate(&header, NAT_DESTINATION, Some(header.second), false));
                expressions
            }
            Self::RewriteToItself => {
                vec![address(header.destination, REGISTER), translate(&header, NAT_DESTINATION, None, false)]
            }
            Self::SourceBecomes { address, random } => {
                let value = Field::nest(2, vec![Field::bytes(1, &address.octets())]);
                vec![
                    expression("immediate", vec![Field::number(1, REGISTER), value]),
                    translate(&header, NAT_SOURCE, None, *random),
                ]
            }
            Self::Masquerade { random } => {
                let flags = random.then(|| Field::number(1, FULLY_RANDOM));
                vec![expression("masq", flags.into_iter().collect())]
            }
            Self::Untrack => vec![expression("notrack", Vec::new())],
            Self::Accept => vec![end(verdict::ACCEPT)],
            Self::Return => vec![end(verdict::RETURN)],
            Self::Drop => vec![end(verdict::DROP)],
            Self::Reject => {
                let code = Field::bytes(2, &[header.port_unreachable]);
                vec![expression("reject", vec![Field::number(1, REJECT_WITH_ICMP), code])]
            }
            Self::RejectWithReset => vec![expression("reject", vec![Field::number(1, REJECT_WITH_RESET)])],
        }
    }
}

fn expression(name: &'static str, fields: Vec<Field>) -> Expression {
    Expression { name, fields }
}

/// Bytes of the packet → register.
fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
    let numbers = [(1, register), (2, base), (3, offset), (4, length)];
    expression("payload", numbers.map(|(kind, number)| Field::number(kind, number)).into())
}

/// A property of the packet → [`REGISTER`].
fn meta(key: u32) -> Expression {
    meta_to(key, REGISTER)
}

/// A property of the packet → register.
fn meta_to(key: u32, register: u32) -> Expression {
    expression("meta", vec![Field::number(2, key), Field::number(1, register)])
}

/// Whether a bit of the packet's mark is set ([`NOT_EQUAL`] to zero) or not ([`EQUAL`]).
fn mark(bit: u32, operator: u32) -> Vec<Expression> {
    vec![meta(META_MARK), bitwise(&bit.to_ne_bytes(), &[0; 4]), compare(operator, &[0; 4])]
}

/// Whether some bits of what conntrack knows about the connection are set ([`NOT_EQUAL`] to zero) or not ([`EQUAL`]).
fn connection(key: u32, bits: u32, operator: u32) -> Vec<Expression> {
    vec![
        expression("ct", vec![Field::number(1, REGISTER), Field::number(2, key)]),
        bitwise(&bits.to_ne_bytes(), &[0; 4]),
        compare(operator, &[0; 4]),
    ]
}

/// Whether the packet is TCP, with one of these flags set ([`NOT_EQUAL`] to zero) or none ([`EQUAL`]).
fn tcp_flags(flags: u8, operator: u32) -> Vec<Expression> {
    vec![
        meta(META_L4_PROTOCOL),
        compare(EQUAL, &[Protocol::Tcp.number()]),
        payload(TRANSPORT_HEADER, TCP_FLAGS, 1, REGISTER),
        bitwise(&[flags], &[0]),
        compare(operator, &[0]),
    ]
}

/// Makes the address in [`REGISTER`] the connection's source or destination, with the port in another register, if
/// there is one. What `nft` omits and the kernel fills in (the upper ends of ranges, which attributes are given) is
/// spelled out here, as the kernel dumps it.
fn translate(header: &Header, what: u32, port: Option<u32>, random: bool) -> Expression {
    let mut fields = vec![
        Field::number(1, what),
        Field::number(2, header.family),
        Field::number(3, REGISTER),
        Field::number(4, REGISTER),
    ];
    let mut flags = WITH_ADDRESS | if random { FULLY_RANDOM } else { 0 };
    if let Some(register) = port {
        fields.extend([Field::number(5, register), Field::number(6, register)]);
        flags |= WITH_PORT;
    }
    fields.push(Field::number(7, flags));
    expression("nat", fields)
}

/// Whether a packet is, or is not, from inside the cluster.
fn from(header: &Header, inside: &Inside, operator: u32) -> Vec<Expression> {
    match inside {
        Inside::Network(network) => network_match(header, *network, operator),
        Inside::Interface(name) => vec![meta(META_INPUT_NAME), compare(operator, name.padded())],
        Inside::InterfacePrefix(prefix) => {
            vec![meta(META_INPUT_NAME), compare(operator, prefix.as_str().as_bytes())]
        }
    }
}

/// The rule continues only if the register compares like this.
fn compare(operator: u32, value: &[u8]) -> Expression {
    let value = Field::nest(3, vec![Field::bytes(1, value)]);
    expression("cmp", vec![Field::number(1, REGISTER), Field::number(2, operator), value])
}

/// register = register & mask ^ xor, in the byte order of the register's content.
fn bitwise(mask: &[u8], xor: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).expect("at most an address");
    let fields = vec![
        Field::number(1, REGISTER),
        Field::number(2, REGISTER),
        Field::number(3, length),
        Field::nest(4, vec![Field::bytes(1, mask)]),
        Field::nest(5, vec![Field::bytes(1, xor)]),
    ];
    expression("bitwise", fields)
}

/// The rule continues only if the register is in the set.
fn lookup(set: &str) -> Expression {
    expression("lookup", vec![Field::number(2, REGISTER), Field::text(1, set)])
}

/// As [`lookup`], with another attribute: a flag, or the register that receives what a map maps to.
fn lookup_with(set: &str, more: Field) -> Expression {
    expression("lookup", vec![Field::number(2, REGISTER), Field::text(1, set), more])
}

/// Ends a rule with this verdict.
fn end(code: u32) -> Expression {
    let verdict = Field::nest(verdict::VERDICT, vec![Field::number(verdict::CODE, code)]);
    let data = Field::nest(verdict::DATA, vec![verdict]);
    expression("immediate", vec![Field::number(verdict::REGISTER, VERDICT), data])
}

/// Packet mark = packet mark & mask ^ xor.
fn change_mark(mask: u32, xor: u32) -> Vec<Expression> {
    let set = expression("meta", vec![Field::number(2, META_MARK), Field::number(3, REGISTER)]);
    vec![meta(META_MARK), bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes()), set]
}

/// Compares the source address with a network. As in `nft`, a prefix of whole bytes is compared without a mask.
fn network_match(header: &Header, network: IpNet, operator: u32) -> Vec<Expression> {
    let (first, mask) = (octets(network.network()), octets(network.netmask()));
    let (first, mask) = (first.as_ref(), mask.as_ref());
    let bits = network.prefix_len();
    if bits > 0 && bits.is_multiple_of(8) {
        let length = u32::from(bits / 8);
        let value = &first[..usize::from(bits / 8)];
        vec![payload(NETWORK_HEADER, header.source, length, REGISTER), compare(operator, value)]
    } else {
        vec![
            payload(NETWORK_HEADER, header.source, header.length, REGISTER),
            bitwise(mask, &vec![0; mask.len()]),
            compare(operator, first),
        ]
    }
}
