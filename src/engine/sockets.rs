//! Sockets before they reach the ring: options, listening, addresses. None of these calls blocks.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
    shutdown, socket, sockopt,
};

const BACKLOG: i32 = 128;

/// A listening socket. The address need not be up yet: a service address may arrive later, at a takeover.
pub fn listen_on(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(address)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    set_free_bind(fd.as_fd(), address)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// A socket for a connection to `peer`, bound to the local address `from` (any port).
pub fn connecting(from: Option<SocketAddr>, peer: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(peer)?;
    if let Some(mut from) = from {
        from.set_port(0);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    Ok(fd)
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Allows to bind an address that this host does not have (yet).
fn set_free_bind(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_FREEBIND),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    };
    set_int(fd, level, option, 1)
}

/// What every connection gets: no waiting for more to send, and an end when the other side has vanished.
/// `dead_after`: unacknowledged data this old ends the connection.
pub fn tune(fd: BorrowedFd<'_>, dead_after: std::time::Duration) -> io::Result<()> {
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    let millis = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&fd, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}

fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option takes one int, which lives over the call; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address this connection was made to.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    with_stream(fd, TcpStream::local_addr).map(plain)
}

/// The other end's address.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    with_stream(fd, TcpStream::peer_addr).map(plain)
}

/// The address a listening socket is bound to, with the port the kernel chose if it was left open.
pub fn bound_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    // SAFETY: the descriptor is open, and forgetting the listener keeps it from being closed here.
    let listener = std::mem::ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(fd.as_raw_fd()) });
    listener.local_addr()
}

fn with_stream<T>(fd: BorrowedFd<'_>, ask: impl FnOnce(&TcpStream) -> T) -> T {
    // SAFETY: the descriptor is open, and ManuallyDrop keeps it from being closed here.
    let stream = std::mem::ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(fd.as_raw_fd()) });
    ask(&stream)
}

/// IPv4 that came in over an IPv6 socket, as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id())),
        },
        v4 @ SocketAddr::V4(_) => v4,
    }
}

/// Ends both directions; operations under way on the ring complete.
pub fn hang_up(fd: BorrowedFd<'_>) {
    // An error means that the other side was faster.
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
}
