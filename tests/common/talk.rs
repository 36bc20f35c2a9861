//! Servers that report their name and the client address that they see; clients that ask them over TCP, UDP and SCTP;
//! pings.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom, bind, connect, ipproto, listen,
    recv, recvfrom, send, sendto,
};

/// All protocols of Services.
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The name of the server that answered, and the client address that it saw.
pub(crate) type Answer = (String, IpAddr);

/// The unspecified address of a family.
pub(crate) fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A connection, or a UDP flow.
pub(crate) struct Conversation(OwnedFd);

impl Conversation {
    /// Connects from the calling thread's namespace, from this source or the one that the kernel chooses.
    pub(crate) fn open(protocol: Protocol, source: Option<IpAddr>, target: SocketAddr) -> io::Result<Self> {
        Self::open_within(PATIENCE, protocol, source, target)
    }

    /// Does the same; connecting, and each answer, may take up to `patience`.
    pub(crate) fn open_within(
        patience: Duration,
        protocol: Protocol,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> io::Result<Self> {
        let conversation = Self(socket(protocol, target)?);
        conversation.wait_at_most(patience)?;
        if let Some(source) = source {
            bind(&conversation.0, &SocketAddr::new(source, 0))?;
        }
        connect(&conversation.0, &target)?;
        Ok(conversation)
    }

    /// Sets how long an answer may take.
    pub(crate) fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        for timeout in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&self.0, timeout, Some(patience))?;
        }
        Ok(())
    }

    /// Asks for the server's name.
    pub(crate) fn ask(&self) -> io::Result<Answer> {
        send(&self.0, b"?", SendFlags::NOSIGNAL)?;
        let mut buffer = [0; 200];
        let (_, length) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let (server, seen) = answer.split_once(' ').ok_or(ErrorKind::UnexpectedEof)?;
        Ok((server.to_owned(), seen.parse().map_err(io::Error::other)?))
    }

    /// The client's port.
    pub(crate) fn port(&self) -> u16 {
        let address = rustix::net::getsockname(&self.0).expect("an address");
        SocketAddr::try_from(address).expect("an IP address").port()
    }

    /// The socket.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.0
    }
}

/// Asks once, over a new connection, from the calling thread's namespace.
pub(crate) fn ask(protocol: Protocol, source: Option<IpAddr>, target: SocketAddr) -> io::Result<Answer> {
    Conversation::open(protocol, source, target)?.ask()
}

/// Whether the error means that no answer came in time, or that the own node dropped the packet.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::PermissionDenied)
        || Errno::from_io_error(error) == Some(Errno::INPROGRESS)
}

/// Sends one echo request from the calling thread's namespace, whose `ping_group_range` must allow it; the address that
/// was asked must answer.
pub(crate) fn ping(address: IpAddr) -> io::Result<()> {
    let (family, protocol, request, reply) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = rustix::net::socket(family, SocketType::DGRAM, Some(protocol))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let packet = [request, 0, 0, 0, 0, 0, 0, 1, b'?'];
    sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(address, 0))?;
    let mut buffer = [0; 200];
    let (_, _, from) = recvfrom(&socket, &mut buffer[..], RecvFlags::empty())?;
    let from = from.map(SocketAddr::try_from).transpose()?.map(|from| from.ip());
    if from == Some(address) && buffer[0] == reply {
        Ok(())
    } else {
        Err(io::Error::other(format!("ICMP type {} from {from:?}", buffer[0])))
    }
}

/// Serves in the calling thread's namespace until the process ends: answers everything with the server's name and the
/// client address that it sees. Connections stay open until the client closes them.
pub(crate) fn serve(name: &str, address: SocketAddr) {
    for protocol in PROTOCOLS {
        let socket = socket(protocol, address).expect("a socket");
        bind(&socket, &address).expect("a free port");
        let name = name.to_owned();
        if protocol == Protocol::Udp {
            thread::spawn(move || {
                while let Ok((_, _, Some(peer))) = recvfrom(&socket, &mut [0; 10][..], RecvFlags::empty()) {
                    let peer = SocketAddr::try_from(peer).expect("an IP address");
                    // The client may be gone.
                    let _ = sendto(&socket, greeting(&name, peer).as_bytes(), SendFlags::empty(), &peer);
                }
            });
        } else {
            listen(&socket, 16).expect("a listening socket");
            thread::spawn(move || {
                while let Ok((connection, Some(peer))) = acceptfrom(&socket) {
                    let peer = SocketAddr::try_from(peer).expect("an IP address");
                    let answer = greeting(&name, peer);
                    thread::spawn(move || answer_all(&connection, &answer));
                }
            });
        }
    }
}

fn greeting(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}", peer.ip())
}

fn answer_all(connection: &OwnedFd, answer: &str) {
    let mut buffer = [0; 200];
    while recv(connection, &mut buffer[..], RecvFlags::empty()).is_ok_and(|(_, length)| length > 0) {
        let _ = send(connection, answer.as_bytes(), SendFlags::NOSIGNAL);
    }
}

fn socket(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        // Servers of both families share a port.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}
