//! The few packets that an agent makes by hand, as bytes: who has an address (ARP and neighbour discovery), that it is
//! here now, and the segment that makes an initiator find out that its connection is dead.
//!
//! Pure. Numbers go out in network byte order. Clauses: ARP RFC 826 and 5227; neighbour discovery RFC 4861 §4.3, §4.4
//! and duplicate address detection RFC 4862 §5.4; TCP RFC 9293 §3.10.7.4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xFF; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
/// "Take this over what you knew."
const OVERRIDE: u8 = 0x20;

/// Frames that tell everyone on the link that `ip` is at `mac` now: an ARP announcement and, for those who listen to
/// answers only, an answer nobody asked for; or an unsolicited neighbour advertisement.
pub fn announcement(ip: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![
            arp(BROADCAST, mac, 1, (mac, ip), ([0; 6], ip)),
            arp(BROADCAST, mac, 2, (mac, ip), (BROADCAST, ip)),
        ],
        IpAddr::V6(ip) => {
            let mut body = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            body.extend_from_slice(&ip.octets());
            // Target link-layer address, one unit of eight octets.
            body.extend_from_slice(&[2, 1]);
            body.extend_from_slice(&mac);
            vec![neighbour(mac, ip, ALL_NODES, body)]
        }
    }
}

/// A frame that asks whether anybody has `ip`, without claiming it.
pub fn probe(ip: IpAddr, mac: Mac) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(BROADCAST, mac, 1, (mac, Ipv4Addr::UNSPECIFIED), ([0; 6], ip)),
        IpAddr::V6(ip) => {
            let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            body.extend_from_slice(&ip.octets());
            let [.., a, b, c] = ip.octets();
            let group =
                Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00 | u16::from(a), u16::from_be_bytes([b, c]));
            neighbour(mac, Ipv6Addr::UNSPECIFIED, group, body)
        }
    }
}

/// Does this frame show that somebody other than `mac` has `ip`? Then who.
pub fn owner(frame: &[u8], ip: IpAddr, mac: Mac) -> Option<Mac> {
    let ethertype = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let body = frame.get(14..)?;
    let found = match ip {
        IpAddr::V4(ip) if ethertype == ETHERTYPE_ARP => {
            let sender: Mac = *body.get(8..)?.first_chunk()?;
            (body.get(14..18)? == ip.octets()).then_some(sender)
        }
        IpAddr::V6(ip) if ethertype == ETHERTYPE_IPV6 => {
            let advertises = *body.get(6)? == ICMPV6 && *body.get(40)? == ADVERTISEMENT;
            let sender: Mac = *frame.get(6..)?.first_chunk()?;
            (advertises && body.get(48..64)? == ip.octets()).then_some(sender)
        }
        _ => None,
    };
    found.filter(|sender| *sender != mac)
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

fn arp(to: Mac, from: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, from, ETHERTYPE_ARP);
    // Ethernet, IPv4, six and four octets.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame.extend_from_slice(&operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&ip.octets());
    }
    frame
}

/// An ICMPv6 message to a multicast group, with its checksum; the hop limit says that no router passed it on.
fn neighbour(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let [.., a, b, c, d] = to.octets();
    let mut frame = ethernet([0x33, 0x33, a, b, c, d], mac, ETHERTYPE_IPV6);
    let sum = checksum(IpAddr::V6(from), IpAddr::V6(to), ICMPV6, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ipv6_header(from, to, ICMPV6, body.len(), 255));
    frame.extend_from_slice(&body);
    frame
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, next: u8, length: usize, hops: u8) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    (header[6], header[7]) = (next, hops);
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    header
}

/// The Internet checksum over the pseudo header and a body whose checksum field is zero (RFC 1071, RFC 8200 §8.1).
fn checksum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut sum = u32::from(protocol) + body.len() as u32;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    };
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => add(&ip.octets()),
            IpAddr::V6(ip) => add(&ip.octets()),
        }
    }
    add(body);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IP packet from a service address to an initiator: a bare ACK with a sequence number that is not expected. Its
/// receiver answers with the numbers of its own connection, which the kernel here does not know; so the kernel resets
/// that connection, with the right numbers, and the initiator connects anew at once instead of after its time-outs.
/// `None`: the two are of different families.
pub fn tickle(local: SocketAddr, remote: SocketAddr, sequence: u32) -> Option<Vec<u8>> {
    let mut segment = Vec::with_capacity(20);
    segment.extend_from_slice(&local.port().to_be_bytes());
    segment.extend_from_slice(&remote.port().to_be_bytes());
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&0u32.to_be_bytes());
    // Five words of header, ACK, a window, no checksum yet, nothing urgent.
    segment.extend_from_slice(&[0x50, 0x10, 0x04, 0x00, 0, 0, 0, 0]);
    let sum = checksum(local.ip(), remote.ip(), TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (local.ip(), remote.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in length, identification and checksum.
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(from, to, TCP, segment.len(), 64).to_vec(),
        _ => return None,
    };
    packet.extend_from_slice(&segment);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Mac = [2, 0, 0, 0, 0, 1];
    const THERE: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A message with a right checksum sums up to nothing.
    fn sums_up(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> bool {
        checksum(from, to, protocol, body) == 0
    }

    #[test]
    fn an_announcement_shows_its_owner_to_others_only() {
        for text in ["192.0.2.10", "2001:db8::10"] {
            let frames = announcement(ip(text), THERE);
            assert!(!frames.is_empty());
            for frame in frames {
                assert_eq!(owner(&frame, ip(text), HERE), Some(THERE));
                assert_eq!(owner(&frame, ip(text), THERE), None, "it is our own");
                assert_eq!(owner(&frame, ip("192.0.2.11"), HERE), None);
                assert_eq!(owner(&frame, ip("2001:db8::11"), HERE), None);
                for cut in 0..frame.len().min(40) {
                    assert_eq!(owner(&frame[..cut], ip("2001:db8::10"), HERE), None);
                }
            }
        }
    }

    #[test]
    fn a_probe_claims_nothing() {
        for text in ["192.0.2.10", "2001:db8::10"] {
            assert_eq!(owner(&probe(ip(text), THERE), ip(text), HERE), None);
        }
        let frame = probe(ip("192.0.2.10"), THERE);
        assert_eq!(&frame[28..32], &[0, 0, 0, 0], "RFC 5227 §1.1: the sender's address is all zero");
        assert_eq!(&frame[38..42], &[192, 0, 2, 10]);
        let frame = probe(ip("2001:db8::12:3456"), THERE);
        assert_eq!(&frame[..6], &[0x33, 0x33, 0xFF, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn neighbour_messages_have_right_checksums_and_hop_limits() {
        for frame in [probe(ip("2001:db8::10"), HERE), announcement(ip("2001:db8::10"), HERE).remove(0)] {
            let address = |at: usize| {
                let octets: [u8; 16] = *frame[at..].first_chunk().expect("long enough");
                IpAddr::V6(octets.into())
            };
            assert_eq!(frame[21], 255);
            assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
            assert!(sums_up(address(22), address(38), ICMPV6, &frame[54..]));
        }
    }

    #[test]
    fn a_tickle_is_a_bare_ack_between_the_right_ports() {
        for (local, remote, header) in
            [("192.0.2.10:3260", "192.0.2.77:40001", 20), ("[2001:db8::10]:3260", "[2001:db8::77]:40001", 40)]
        {
            let (local, remote): (SocketAddr, SocketAddr) =
                (local.parse().expect("an address"), remote.parse().expect("an address"));
            let packet = tickle(local, remote, 0xDEAD_BEEF).expect("one family");
            let segment = &packet[header..];
            assert_eq!(segment.len(), 20);
            assert_eq!(&segment[..8], &[0x0C, 0xBC, 0x9C, 0x41, 0xDE, 0xAD, 0xBE, 0xEF]);
            assert_eq!(segment[13], 0x10);
            assert!(sums_up(local.ip(), remote.ip(), TCP, segment));
        }
        let mixed = ("192.0.2.10:1".parse().expect("v4"), "[2001:db8::1]:1".parse().expect("v6"));
        assert_eq!(tickle(mixed.0, mixed.1, 0), None);
    }
}
