//! `world::packet_probe` over a TUN device: a segment that is written to it comes into the host as from a wire, through
//! PREROUTING. It needs `/dev/net/tun` and CAP_NET_ADMIN alone.
//!
//! The device ends with its descriptor, and its addresses and routes with it, also when the process is killed.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_tun::Tun;

use super::conntrack;
use crate::model::packet_proof::PacketAnswer;
use crate::model::ports::Port;
use crate::world::packet_probe::{PacketAnswers, PacketProbe, PacketProbeError};

mod routes;
mod segment;

use routes::{Endpoint, to_error};
use segment::{Reply, Segment};

/// The kernel answers within the write, or soon after it where another host or a container answers.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// A lost packet is sent again once.
const RESEND_AFTER: Duration = Duration::from_millis(100);
/// The kernel puts the first free number in the place of `%d`.
const NAME_PATTERN: &str = "swm-p%d";
/// The ports that Linux gives to clients by default begin here.
const FIRST_CLIENT_PORT: u16 = 32_768;
const CLIENT_PORTS: u16 = 28_000;

/// The network namespace that the calling thread is in.
#[derive(Debug)]
pub struct TunProbe;

#[async_trait]
impl PacketProbe for TunProbe {
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<PacketAnswers, PacketProbeError> {
        let device = Tun::builder()
            .name(NAME_PATTERN)
            .build()
            .map_err(|error| to_error("create a TUN device with `/dev/net/tun`", &error))?;
        let Some(device) = device.into_iter().next() else {
            return Err(to_error("create a TUN device with `/dev/net/tun`", &"no queue"));
        };
        let answers = probe(&device, addresses).await;
        // Closing waits for an RCU grace period, 15 to 30 ms: nothing else has to wait for it.
        tokio::task::spawn_blocking(move || drop(device));
        answers
    }

    fn list_listening_addresses(&self, port: Port) -> Result<Vec<SocketAddr>, PacketProbeError> {
        list_listeners(Path::new("/proc/thread-self/net"), port)
    }
}

/// Lists the listeners of a port from the tables of a network namespace.
fn list_listeners(tables: &Path, port: Port) -> Result<Vec<SocketAddr>, PacketProbeError> {
    let mut found = Vec::new();
    for name in ["tcp", "tcp6"] {
        let table = match std::fs::read_to_string(tables.join(name)) {
            // A kernel without IPv6 has no such table.
            Err(error) if name == "tcp6" && error.kind() == ErrorKind::NotFound => continue,
            read => read.map_err(|error| to_error("read the kernel's table of sockets", &error))?,
        };
        found.extend(table.lines().filter_map(parse_listener).filter(|one| one.port() == port.get()));
    }
    Ok(found)
}

/// A connection that waits for its answer.
struct Attempt {
    place: usize,
    segment: Segment,
    answer: Option<PacketAnswer>,
}

async fn probe(device: &Tun, addresses: &[SocketAddr]) -> Result<PacketAnswers, PacketProbeError> {
    let index = device.index().map_err(|error| to_error("find the TUN device", &error))?;
    let netlink = routes::start_device(index).map_err(|error| to_error("start the TUN device", &error))?;
    let seed = make_random();
    let mut answers: PacketAnswers = Vec::new();
    let mut attempts = Vec::new();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (place, address) in addresses.iter().enumerate() {
        let known = endpoints.iter().find(|endpoint| endpoint.client.is_ipv4() == address.is_ipv4()).copied();
        let endpoint = match known {
            Some(endpoint) => {
                routes::check_answer_route(&netlink, index, &endpoint, address.ip()).map(|()| endpoint)
            }
            None => routes::add_endpoint(&netlink, index, address.ip(), seed).await,
        };
        let (answer, attempt) = match endpoint {
            Ok(endpoint) => {
                endpoints.push(endpoint);
                (Ok(PacketAnswer::Silent), Some(start_attempt(place, endpoint, *address, seed)))
            }
            Err(error) => (Err(error), None),
        };
        answers.push(answer);
        attempts.extend(attempt);
    }
    exchange(device, &mut attempts).await?;
    for Attempt { place, segment, answer } in attempts {
        let answer = match answer {
            None => PacketAnswer::Silent,
            Some(PacketAnswer::Accepted { .. }) => PacketAnswer::Accepted { by: find_answerer(&segment) },
            Some(other) => other,
        };
        if matches!(answer, PacketAnswer::Accepted { .. }) {
            let _ = device.try_send(&segment.build_reset());
        }
        answers[place] = Ok(answer);
    }
    Ok(answers)
}

fn start_attempt(place: usize, endpoint: Endpoint, address: SocketAddr, seed: u64) -> Attempt {
    let [first, second, sequence @ .., _, _] = seed.to_be_bytes();
    let number = u32::from(u16::from_be_bytes([first, second])) + u32::try_from(place).unwrap_or(0);
    let port = FIRST_CLIENT_PORT + u16::try_from(number % u32::from(CLIENT_PORTS)).unwrap_or(0);
    let segment = Segment {
        client: SocketAddr::new(endpoint.client, port),
        server: address,
        own: endpoint.own,
        sequence: u32::from_be_bytes(sequence),
    };
    Attempt { place, segment, answer: None }
}

/// Sends every first segment and receives until each has its answer or the time is up.
async fn exchange(device: &Tun, attempts: &mut [Attempt]) -> Result<(), PacketProbeError> {
    send_open(device, attempts)?;
    let start = Instant::now();
    let mut buffer = [0; 2048];
    let mut is_resent = false;
    while attempts.iter().any(|attempt| attempt.answer.is_none()) {
        let until = if is_resent { start + ANSWER_TIMEOUT } else { start + RESEND_AFTER };
        match tokio::time::timeout_at(until, device.recv(&mut buffer)).await {
            Err(_) if is_resent => return Ok(()),
            Err(_) => {
                is_resent = true;
                send_open(device, attempts)?;
            }
            Ok(Err(error)) => return Err(to_error("read from the TUN device", &error)),
            Ok(Ok(length)) => {
                for attempt in attempts.iter_mut().filter(|attempt| attempt.answer.is_none()) {
                    attempt.answer =
                        attempt.segment.parse_reply(&buffer[..length]).map(|reply| match reply {
                            Reply::Accepted => PacketAnswer::Accepted { by: None },
                            Reply::Refused => PacketAnswer::Refused,
                        });
                }
            }
        }
    }
    Ok(())
}

fn send_open(device: &Tun, attempts: &[Attempt]) -> Result<(), PacketProbeError> {
    for attempt in attempts.iter().filter(|attempt| attempt.answer.is_none()) {
        device
            .try_send(&attempt.segment.build_open())
            .map_err(|error| to_error("write to the TUN device", &error))?;
    }
    Ok(())
}

/// The address that answers by the kernel's table of connections. A redirect goes to the address of the interface by which
/// the packet came in, so the device's own address is this host.
fn find_answerer(segment: &Segment) -> Option<SocketAddr> {
    let by = match conntrack::find_answerer(segment.client, segment.server) {
        Ok(by) => by?,
        Err(why) => {
            log::debug!("cannot read which address answers {}: {why}", segment.server);
            return None;
        }
    };
    Some(if by.ip() == segment.own { SocketAddr::new(segment.server.ip(), by.port()) } else { by })
}

/// `0100007F:1F90` of /proc/net/tcp, in the host's order by groups of four bytes; only sockets that listen.
fn parse_listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    if state != "0A" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let groups = address.as_bytes().chunks(8).map(|group| {
        let number = u32::from_str_radix(std::str::from_utf8(group).ok()?, 16).ok()?;
        Some(number.to_ne_bytes())
    });
    let bytes: Vec<u8> = groups.collect::<Option<Vec<_>>>()?.concat();
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(SocketAddr::new(address, port))
}

/// Ports and addresses differ between runs at the same moment.
fn make_random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Reads bytes as a packet that answers, and as a line of the kernel's table of sockets: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_packet(packet: &[u8]) {
    let address = |ip: [u8; 4], port| SocketAddr::new(IpAddr::from(ip), port);
    let (client, server) = (address([10, 0, 0, 2], 40000), address([10, 0, 0, 1], 8888));
    let _ = Segment { client, server, own: client.ip(), sequence: 7 }.parse_reply(packet);
    let _ = parse_listener(&String::from_utf8_lossy(packet));
}

#[cfg(test)]
mod tests;
