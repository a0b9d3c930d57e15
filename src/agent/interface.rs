//! Network interfaces and their addresses: where a service address belongs, whether it is there, adding and removing
//! it (rtnetlink), and raw frames to the link.
//!
//! Every call is short: none waits for the network, except [`who_has`], which waits as long as it is told.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    recv, sendmsg, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::ClientNetwork;
use super::packet::{self, Mac};
use crate::daemon::config::ServiceAddress;

/// An interface that can have service addresses.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    index: u32,
    mac: Option<Mac>,
    /// For raw frames.
    link: LinkAddr,
}

/// The interface for a service address: the one named, or the one that has another address of the same subnet.
pub fn find(address: &ServiceAddress, named: Option<&str>) -> io::Result<Interface> {
    let name = match named {
        Some(name) => name.to_owned(),
        None => by_subnet(address.ip)?.ok_or_else(|| {
            let what = format!("no interface has an address in the subnet of {}", address.ip);
            io::Error::new(io::ErrorKind::NotFound, what)
        })?,
    };
    by_name(name)
}

fn by_name(name: String) -> io::Result<Interface> {
    for entry in getifaddrs()? {
        let link = entry.address.as_ref().and_then(|it| it.as_link_addr().copied());
        if let (true, Some(link)) = (entry.interface_name == name, link) {
            let mac = link
                .addr()
                .filter(|_| link.halen() == 6 && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK));
            return Ok(Interface { name, index: link.ifindex() as u32, mac, link });
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))
}

fn by_subnet(ip: IpAddr) -> io::Result<Option<String>> {
    let found = getifaddrs()?.find(|entry| {
        let (Some(address), Some(mask)) =
            (entry.address.as_ref().and_then(ip_of), entry.netmask.as_ref().and_then(ip_of))
        else {
            return false;
        };
        address != ip && same_subnet(address, ip, mask)
    });
    Ok(found.map(|entry| entry.interface_name))
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    }
}

/// A mask without a bit is no subnet: it holds every address.
fn same_subnet(one: IpAddr, other: IpAddr, mask: IpAddr) -> bool {
    match (one, other, mask) {
        (IpAddr::V4(one), IpAddr::V4(other), IpAddr::V4(mask)) => {
            !mask.is_unspecified() && (u32::from(one) ^ u32::from(other)) & u32::from(mask) == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other), IpAddr::V6(mask)) => {
            let link_local = one.segments()[0] & 0xFFC0 == 0xFE80;
            !link_local
                && !mask.is_unspecified()
                && (u128::from(one) ^ u128::from(other)) & u128::from(mask) == 0
        }
        _ => false,
    }
}

/// Has any interface of this host the address?
pub fn is_here(ip: IpAddr) -> io::Result<bool> {
    Ok(getifaddrs()?.any(|entry| entry.address.as_ref().and_then(ip_of) == Some(ip)))
}

/// The interface that has the address itself.
pub fn holder(ip: IpAddr) -> io::Result<Option<Interface>> {
    let held = getifaddrs()?.find(|entry| entry.address.as_ref().and_then(ip_of) == Some(ip));
    held.map(|entry| by_name(entry.interface_name)).transpose()
}

/// The interface whose link a host with this address is on.
pub fn toward(ip: IpAddr) -> io::Result<Option<Interface>> {
    by_subnet(ip)?.map(by_name).transpose()
}

/// Can the interface reach anything, as far as its driver knows?
pub fn state(name: &str) -> ClientNetwork {
    let Ok(mut entries) = getifaddrs() else { return ClientNetwork::Unknown };
    match entries.find(|entry| entry.interface_name == name) {
        Some(entry) if entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING) => {
            ClientNetwork::Up
        }
        Some(_) => ClientNetwork::Down,
        None => ClientNetwork::Unknown,
    }
}

// ---- rtnetlink ----

/// A socket that becomes readable when an interface changes, a cable that dies or comes back among that; a read waits for
/// half a second.
pub fn changes() -> io::Result<OwnedFd> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
    Ok(fd)
}

/// Waits for a change. `false`: none came.
pub fn await_change(changes: &OwnedFd) -> bool {
    let mut message = [0; 8192];
    // Too many changes to keep is a change as well.
    !matches!(
        recv(changes.as_raw_fd(), &mut message, MsgFlags::empty()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)
    )
}

/// Adds the address. One that is there already is in order.
pub fn add(interface: &Interface, address: &ServiceAddress) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    match change(libc::RTM_NEWADDR, flags, interface, address) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Removes the address. One that is not there is in order.
pub fn remove(interface: &Interface, address: &ServiceAddress) -> io::Result<()> {
    match change(libc::RTM_DELADDR, 0, interface, address) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

fn change(kind: u16, flags: libc::c_int, interface: &Interface, address: &ServiceAddress) -> io::Result<()> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500))?;
    let request = change_request(kind, flags as u16, interface.index, address);
    sendto(fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read_answer(&answer[..length])
}

const HEADER_BYTES: usize = 16;

/// One message in the host's byte order: header, `ifaddrmsg`, attributes (rtnetlink(7)).
#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
fn change_request(kind: u16, flags: u16, index: u32, address: &ServiceAddress) -> Vec<u8> {
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let (family, octets) = match address.ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    // Duplicates are looked for before; the kernel's own search would hold an IPv6 address back for a second.
    let own_search = if address.ip.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut message = vec![0; 4];
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(&[family as u8, address.prefix, own_search, libc::RT_SCOPE_UNIVERSE]);
    message.extend_from_slice(&index.to_ne_bytes());
    for attribute in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        message.extend_from_slice(&(4 + octets.len() as u16).to_ne_bytes());
        message.extend_from_slice(&attribute.to_ne_bytes());
        message.extend_from_slice(&octets);
    }
    if address.ip.is_ipv6() && kind == libc::RTM_NEWADDR {
        // Never preferred, valid for ever: what this host says by itself comes from an address of its own.
        message.extend_from_slice(&20u16.to_ne_bytes());
        message.extend_from_slice(&libc::IFA_CACHEINFO.to_ne_bytes());
        for seconds in [0, u32::MAX, 0, 0] {
            message.extend_from_slice(&seconds.to_ne_bytes());
        }
    }
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
fn read_answer(answer: &[u8]) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd answer from netlink");
    let kind = u16::from_ne_bytes(*answer.get(4..).and_then(|it| it.first_chunk()).ok_or_else(odd)?);
    if i32::from(kind) != libc::NLMSG_ERROR {
        return Err(odd());
    }
    let code = *answer.get(HEADER_BYTES..).and_then(|it| it.first_chunk()).ok_or_else(odd)?;
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

// ---- raw frames and packets ----

/// Tells the link that the address is here now.
pub fn announce(interface: &Interface, ip: IpAddr) -> io::Result<()> {
    let Some(mac) = interface.mac else { return Ok(()) };
    let fd = frame_socket(SockProtocol::EthIpv6)?;
    for frame in packet::announcement(ip, mac) {
        sendto(fd.as_raw_fd(), &frame, &interface.link, MsgFlags::empty())?;
    }
    Ok(())
}

fn frame_socket(protocol: SockProtocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// Asks the link who has the address, and waits for an answer as long as `patience`. `None`: nobody, or nobody can be
/// asked on this kind of interface.
pub fn who_has(interface: &Interface, ip: IpAddr, patience: Duration) -> io::Result<Option<Mac>> {
    let Some(mac) = interface.mac else { return Ok(None) };
    let fd = frame_socket(SockProtocol::EthAll)?;
    bind(fd.as_raw_fd(), &interface.link)?;
    let began = Instant::now();
    sendto(fd.as_raw_fd(), &packet::probe(ip, mac), &interface.link, MsgFlags::empty())?;
    let mut frame = [0; 2048];
    loop {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        let left = TimeVal::microseconds(left.as_micros().max(1) as i64);
        setsockopt(&fd.as_fd(), sockopt::ReceiveTimeout, &left)?;
        match recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(owner) = packet::owner(&frame[..length], ip, mac) {
                    return Ok(Some(owner));
                }
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Does any of these hosts on the link answer? Asked a few times within `patience`.
pub fn anyone(interface: &Interface, hosts: &[IpAddr], patience: Duration) -> io::Result<bool> {
    const TRIES: u32 = 3;
    let Some(mac) = interface.mac else { return Ok(true) };
    let fd = frame_socket(SockProtocol::EthAll)?;
    bind(fd.as_raw_fd(), &interface.link)?;
    let began = Instant::now();
    let mut frame = [0; 2048];
    for turn in 1..=TRIES {
        for host in hosts {
            // A link that is down sends nothing, and nobody answers.
            let _ = sendto(fd.as_raw_fd(), &packet::probe(*host, mac), &interface.link, MsgFlags::empty());
        }
        loop {
            let left = (patience * turn / TRIES).saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            let left = TimeVal::microseconds(left.as_micros().max(1) as i64);
            setsockopt(&fd.as_fd(), sockopt::ReceiveTimeout, &left)?;
            let Ok(length) = recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
            if hosts.iter().any(|host| packet::owner(&frame[..length], *host, mac).is_some()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sends the packet that makes an initiator notice that its connection has gone.
pub fn tickle(local: SocketAddr, remote: SocketAddr, sequence: u32) -> io::Result<()> {
    let Some(packet) = packet::tickle(local, remote, sequence) else { return Ok(()) };
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    // Raw sockets have no ports.
    let to = SockaddrStorage::from(SocketAddr::new(remote.ip(), 0));
    sendmsg(fd.as_raw_fd(), &[IoSlice::new(&packet)], &[], MsgFlags::empty(), Some(&to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_what_its_mask_says() {
        let same = |one: &str, other: &str, mask: &str| {
            let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
            same_subnet(ip(one), ip(other), ip(mask))
        };
        assert!(same("10.1.2.3", "10.1.2.200", "255.255.255.0"));
        assert!(!same("10.1.2.3", "10.1.3.3", "255.255.255.0"));
        assert!(!same("10.1.2.3", "8.8.8.8", "0.0.0.0"));
        assert!(same("2001:db8::1", "2001:db8::100", "ffff:ffff:ffff:ffff::"));
        assert!(!same("fe80::1", "fe80::2", "ffff:ffff:ffff:ffff::"));
        assert!(!same("10.1.2.3", "2001:db8::1", "255.0.0.0"));
    }

    #[test]
    #[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
    fn a_request_says_its_length_and_an_answer_its_error() {
        let address = ServiceAddress { ip: "192.0.2.10".parse().expect("an address"), prefix: 24 };
        let request = change_request(libc::RTM_NEWADDR, 0, 7, &address);
        assert_eq!(request.len(), 16 + 8 + 2 * 8);
        assert_eq!(request[..4], (request.len() as u32).to_ne_bytes());
        assert_eq!(request[16..20], [libc::AF_INET as u8, 24, 0, 0]);
        let answer = |code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            read_answer(&bytes)
        };
        assert!(answer(0).is_ok());
        assert_eq!(answer(-libc::EPERM).expect_err("refused").raw_os_error(), Some(libc::EPERM));
        assert!(read_answer(&[0; 5]).is_err());
    }

    #[test]
    fn this_host_has_its_loopback_and_not_a_test_network() {
        assert!(is_here("127.0.0.1".parse().expect("an address")).expect("the kernel answers"));
        assert!(!is_here("192.0.2.77".parse().expect("an address")).expect("the kernel answers"));
        let address = ServiceAddress { ip: "127.0.0.9".parse().expect("an address"), prefix: 8 };
        assert_eq!(find(&address, None).expect("found").name, "lo");
        assert!(find(&address, Some("no-such")).is_err());
    }
}
