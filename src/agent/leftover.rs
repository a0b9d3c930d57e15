//! Connections of an earlier time that the kernel still keeps for a service address.
//!
//! A node that has had the address before may keep half-closed connections and such in TIME-WAIT for it, up to minutes.
//! An initiator that comes over with a port of that time would be answered by them, where it should be reset, and would
//! wait as long. So they are removed before the address is announced (sock_diag(7), `SOCK_DESTROY`).
//! Absent on purpose: established connections, which may be this moment's.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Connections that are removed at one time at most.
const MOST: usize = 1024;
/// How long the kernel may think.
const PATIENCE_MS: i64 = 200;
/// FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, LAST-ACK, CLOSING (`include/net/tcp_states.h`).
const STATES: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;

// linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = 48;
/// In a message: family, state, timer, retransmissions.
const ID_AT: usize = HEADER_BYTES + 4;
/// In an identity: two ports.
const LOCAL_AT: usize = 4;

/// What the kernel calls a connection by: ports, addresses, interface, cookie.
type Identity = [u8; ID_BYTES];

/// Removes what is left over for this address; returns how many there were. An error says that the kernel cannot, or
/// that this process may not.
pub fn forget(ip: IpAddr) -> io::Result<usize> {
    let fd = open()?;
    let found = list(&fd, ip)?;
    for identity in &found {
        send(&fd, &request(SOCK_DESTROY, libc::NLM_F_ACK, ip, identity))?;
        let mut answer = [0; 1024];
        let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match first(&answer[..length]).map(|message| message.error) {
            // One that ended by itself meanwhile is in order.
            Some(Some(0 | libc::ENOENT)) => {}
            Some(Some(code)) => return Err(io::Error::from_raw_os_error(code)),
            _ => return Err(odd()),
        }
    }
    Ok(found.len())
}

fn open() -> io::Result<OwnedFd> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
    Ok(fd)
}

fn send(fd: &OwnedFd, request: &[u8]) -> io::Result<()> {
    sendto(fd.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an odd answer from sock_diag")
}

/// All that are left over for this local address, at most [`MOST`].
fn list(fd: &OwnedFd, ip: IpAddr) -> io::Result<Vec<Identity>> {
    send(fd, &request(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, ip, &[0; ID_BYTES]))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(message) = first(rest) {
            match (message.kind, message.error) {
                (_, Some(0)) => return Ok(found),
                (_, Some(code)) => return Err(io::Error::from_raw_os_error(code)),
                (kind, None) if i32::from(kind) == libc::NLMSG_DONE => return Ok(found),
                _ => {}
            }
            if let Some(identity) = message.identity.filter(|it| is_local(it, ip) && found.len() < MOST) {
                found.push(identity);
            }
            rest = &rest[message.length..];
        }
        if !rest.is_empty() {
            return Err(odd());
        }
    }
}

fn is_local(identity: &Identity, ip: IpAddr) -> bool {
    let local = &identity[LOCAL_AT..];
    match ip {
        IpAddr::V4(ip) => local.starts_with(&ip.octets()),
        IpAddr::V6(ip) => local.starts_with(&ip.octets()),
    }
}

/// A message header and `inet_diag_req_v2`.
#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
fn request(kind: u16, flags: libc::c_int, ip: IpAddr, identity: &Identity) -> Vec<u8> {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let flags = (flags | libc::NLM_F_REQUEST) as u16;
    let mut message = vec![0; 4];
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend_from_slice(&STATES.to_ne_bytes());
    message.extend_from_slice(identity);
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

#[derive(Debug, PartialEq)]
struct Message {
    kind: u16,
    /// Bytes to the next message.
    length: usize,
    /// Of an answer: 0, or what went wrong.
    error: Option<i32>,
    identity: Option<Identity>,
}

/// The first message of these bytes; `None` when there is no whole one.
#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
fn first(bytes: &[u8]) -> Option<Message> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let message = bytes.get(..length).filter(|it| it.len() >= HEADER_BYTES)?;
    let error = match i32::from(kind) {
        libc::NLMSG_ERROR => {
            Some(i32::from_ne_bytes(*message.get(HEADER_BYTES..)?.first_chunk()?).checked_neg()?)
        }
        _ => None,
    };
    let identity = match kind {
        SOCK_DIAG_BY_FAMILY => Some(*message.get(ID_AT..)?.first_chunk()?),
        _ => None,
    };
    Some(Message { kind, length: length.next_multiple_of(4).min(bytes.len()), error, identity })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_this_side_has_closed_is_left_over_and_removed_and_what_is_open_stays() {
        // An address of this test alone.
        let listener = TcpListener::bind("127.77.3.9:0").expect("loopback");
        let local = listener.local_addr().expect("bound");
        let connect =
            || (TcpStream::connect(local).expect("connected"), listener.accept().expect("accepted").0);
        let (mut open_client, open_server) = connect();
        let (mut client, server) = connect();
        drop(server);
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
        let fd = open().expect("sock_diag");
        assert_eq!(list(&fd, local.ip()).expect("a list").len(), 1);
        drop(client);
        match forget(local.ip()) {
            Ok(count) => {
                assert_eq!(count, 1, "it waits in TIME-WAIT");
                assert!(list(&fd, local.ip()).expect("a list").is_empty());
            }
            // Not root, or a kernel that cannot.
            Err(error) => assert!(matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOENT)
            )),
        }
        drop(open_server);
        assert_eq!(open_client.read(&mut [0]).expect("it was not reset"), 0);
    }

    #[test]
    #[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's byte order")]
    fn odd_answers_are_no_messages() {
        let ip: IpAddr = "192.0.2.10".parse().expect("an address");
        let whole = request(SOCK_DIAG_BY_FAMILY, 0, ip, &[7; ID_BYTES]);
        assert_eq!(whole.len(), HEADER_BYTES + 56);
        for length in 0..whole.len() {
            assert_eq!(first(&whole[..length]), None, "{length}");
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&15u32.to_ne_bytes());
        assert_eq!(first(&short), None);
        let mut error = vec![0; 36];
        error[..4].copy_from_slice(&36u32.to_ne_bytes());
        error[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        error[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert_eq!(first(&error), None);
        error[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(first(&error).and_then(|message| message.error), Some(libc::EPERM));
    }
}
