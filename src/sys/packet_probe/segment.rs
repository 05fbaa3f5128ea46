//! The bytes of the packets: IPv4 (RFC 791) or IPv6 (RFC 8200) with a TCP header (RFC 9293) and nothing behind it.

use std::net::{IpAddr, SocketAddr};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const TCP_BYTES: usize = 20;
/// "Destination unreachable" of ICMP and of ICMPv6: what REJECT sends by default.
const ICMP_UNREACHABLE: u8 = 3;
const ICMP6_UNREACHABLE: u8 = 1;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A connection that consists of its first segment and, where it is accepted, of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The device's own address, to which the kernel redirects.
    pub own: IpAddr,
    pub sequence: u32,
}

/// The kernel's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Accepted,
    Refused,
}

impl Segment {
    pub(super) fn build_open(&self) -> Vec<u8> {
        self.build(SYN, self.sequence)
    }

    /// The sequence number is the next one, so that the kernel takes the reset.
    pub(super) fn build_reset(&self) -> Vec<u8> {
        self.build(RST, self.sequence.wrapping_add(1))
    }

    fn build(&self, flags: u8, sequence: u32) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP_BYTES);
        tcp.extend_from_slice(&self.client.port().to_be_bytes());
        tcp.extend_from_slice(&self.server.port().to_be_bytes());
        tcp.extend_from_slice(&sequence.to_be_bytes());
        tcp.extend_from_slice(&[0; 4]);
        // Five words of header, the flags, a window, no checksum yet, no urgent data.
        tcp.extend_from_slice(&[5 << 4, flags, 0x10, 0, 0, 0, 0, 0]);
        let addresses = [to_bytes(self.client.ip()), to_bytes(self.server.ip())].concat();
        let pseudo = [&addresses[..], &[0, TCP, 0, 20], &tcp].concat();
        tcp[16..18].copy_from_slice(&compute_checksum(&pseudo).to_be_bytes());
        let mut packet = if self.server.is_ipv4() {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
            header.extend_from_slice(&addresses);
            let checksum = compute_checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&checksum);
            header
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
            header.extend_from_slice(&addresses);
            header
        };
        packet.extend_from_slice(&tcp);
        packet
    }

    /// Returns what a packet replies to this connection; `None` for a packet of another one.
    pub(super) fn parse_reply(&self, packet: &[u8]) -> Option<Reply> {
        let IpPacket { protocol, source, destination, body } = parse_ip(packet)?;
        if destination != to_bytes(self.client.ip()) {
            return None;
        }
        match protocol {
            TCP if source == to_bytes(self.server.ip()) => {
                let ports = [self.server.port().to_be_bytes(), self.client.port().to_be_bytes()].concat();
                let flags = *body.get(13)?;
                if body.get(..4)? != ports {
                    return None;
                }
                match (flags & RST != 0, flags & (SYN | ACK) == SYN | ACK) {
                    (true, _) => Some(Reply::Refused),
                    (false, true) => Some(Reply::Accepted),
                    (false, false) => None,
                }
            }
            ICMP | ICMP6 => {
                let is_unreachable = matches!(
                    (protocol, body.first()?),
                    (ICMP, &ICMP_UNREACHABLE) | (ICMP6, &ICMP6_UNREACHABLE)
                );
                // The client's port identifies the connection; the server's may be translated.
                let inner = parse_ip(body.get(8..)?)?;
                let is_ours =
                    inner.protocol == TCP && inner.body.get(..2)? == self.client.port().to_be_bytes();
                (is_unreachable && is_ours).then_some(Reply::Refused)
            }
            _ => None,
        }
    }
}

struct IpPacket<'a> {
    protocol: u8,
    source: &'a [u8],
    destination: &'a [u8],
    body: &'a [u8],
}

fn parse_ip(packet: &[u8]) -> Option<IpPacket<'_>> {
    let (protocol, source, destination, start) = match packet.first()? >> 4 {
        4 => (9, 12..16, 16..20, usize::from(packet.first()? & 0x0f) * 4),
        6 => (6, 8..24, 24..40, 40),
        _ => return None,
    };
    Some(IpPacket {
        protocol: *packet.get(protocol)?,
        source: packet.get(source)?,
        destination: packet.get(destination)?,
        body: packet.get(start..)?,
    })
}

fn to_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn compute_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn make_segment(client: &str, server: &str) -> Segment {
        let client: SocketAddr = client.parse().unwrap();
        Segment { client, server: server.parse().unwrap(), own: client.ip(), sequence: u32::MAX }
    }

    /// The packet that the other side of a connection sends.
    fn reverse(segment: &Segment) -> Segment {
        Segment { client: segment.server, server: segment.client, ..*segment }
    }

    #[test]
    fn checksums_of_built_packets_are_correct() {
        let packet = make_segment("192.0.2.2:40000", "10.0.0.5:8888").build_open();
        assert_eq!(packet.len(), 40);
        assert_eq!(compute_checksum(&packet[..20]), 0);
        let pseudo = [&packet[12..20], &[0, TCP, 0, 20], &packet[20..]].concat();
        assert_eq!(compute_checksum(&pseudo), 0);
    }

    #[test]
    fn replies_are_matched_to_their_connection() {
        for (client, server) in
            [("192.0.2.2:40000", "10.0.0.5:8888"), ("[2001:db8::2]:40000", "[2001:db8:1::5]:8888")]
        {
            let segment = make_segment(client, server);
            assert_eq!(segment.parse_reply(&reverse(&segment).build(SYN | ACK, 1)), Some(Reply::Accepted));
            assert_eq!(segment.parse_reply(&reverse(&segment).build(RST | ACK, 1)), Some(Reply::Refused));
            assert_eq!(segment.parse_reply(&reverse(&segment).build(ACK, 1)), None);
            let other = Segment { client: "192.0.2.2:40001".parse().unwrap(), ..segment };
            assert_eq!(segment.parse_reply(&reverse(&other).build(RST, 1)), None);
        }
    }

    #[test]
    fn unreachable_message_is_a_refusal() {
        let segment = make_segment("192.0.2.2:40000", "10.0.0.5:8888");
        let mut packet = reverse(&segment).build(0, 0)[..20].to_vec();
        packet[9] = ICMP;
        packet.extend_from_slice(&[ICMP_UNREACHABLE, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend_from_slice(&segment.build_open()[..28]);
        assert_eq!(segment.parse_reply(&packet), Some(Reply::Refused));
    }

    proptest! {
        #[test]
        fn parse_reply_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = make_segment("192.0.2.2:40000", "10.0.0.5:8888").parse_reply(&bytes);
        }
    }
}
