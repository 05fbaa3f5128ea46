//! Against the real kernel: two ports routed to one listener are distinguished.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::model::rules::{Family, Transaction, Variant};
use crate::sys::iptables::Iptables;
use crate::sys::sock_diag::connections::list_connections;
use crate::sys::testing::run_in_namespace;
use crate::world::firewall::Firewall as _;

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

/// Both ends are on this host, so the rules of OUTPUT are the ones that are used.
async fn lead(family: Family, variant: Variant, target: u16) {
    let rule = |port| format!("-A OUTPUT -p tcp -m tcp --dport {port} -j REDIRECT --to-ports {target}\n");
    let text = format!("*nat\n{}{}COMMIT\n", rule(8080), rule(80));
    Iptables.commit(&Transaction { family, variant, text }).await.unwrap();
}

async fn connect(from: SocketAddr, port: u16) -> TcpStream {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(from).unwrap();
    socket.connect((from.ip(), port).into()).await.unwrap()
}

#[test]
fn conntrack_separates_ports_redirected_to_one_listener() {
    for variant in [Variant::NfTables, Variant::Legacy] {
        run_in_namespace(move || async move {
            let listener = TcpListener::bind("[::]:0").await.unwrap();
            let target = listener.local_addr().unwrap().port();
            for family in [Family::V4, Family::V6] {
                lead(family, variant, target).await;
            }
            let mut open = Vec::new();
            let mut expected: BTreeMap<u16, BTreeSet<SocketAddr>> = BTreeMap::new();
            for address in ["127.0.0.1", "::1"] {
                let from = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0);
                let first = connect(from, 8080).await;
                // The same source port a second time: the listener sees another one.
                let clash = first.local_addr().unwrap();
                open.push((8080, first));
                open.push((80, connect(clash, 80).await));
                open.push((80, connect(from, 80).await));
                open.push((target, connect(from, target).await));
            }
            let mut accepted = Vec::new();
            for (made_to, _) in &open {
                let (stream, peer) = listener.accept().await.unwrap();
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                expected.entry(*made_to).or_default().insert(peer);
                accepted.push(stream);
            }
            for made_to in [8080, 80, target] {
                let led = Conntrack.list_peers(port(made_to), port(target)).await.unwrap();
                assert_eq!(led, expected[&made_to], "{made_to} ({variant})");
            }
            assert_eq!(expected[&80].len(), 4);
            assert_eq!(Conntrack.list_peers(port(8080), port(9)).await, Ok(BTreeSet::new()));
        });
    }
}

#[test]
fn kernel_filter_matches_own_filter() {
    run_in_namespace(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().port();
        lead(Family::V4, Variant::NfTables, target).await;
        let _open = [connect("127.0.0.1:0".parse().unwrap(), 80).await];
        let _other = connect("127.0.0.1:0".parse().unwrap(), target).await;
        let netlink = netlink::open(SockProtocol::NetlinkNetFilter).unwrap();
        let wanted = FlowFilter { port: port(80), target: port(target) };
        let listed = |filter, sequence| {
            netlink::send(&netlink, &wire::build_request(AddressFamily::Inet as u8, filter, sequence))
                .unwrap();
            let mut flows = 0;
            loop {
                let mut buffer = vec![0; BUFFER];
                let length = netlink::receive(&netlink, &mut buffer).unwrap();
                for part in wire::parse_parts(&buffer[..length], sequence) {
                    match part.unwrap() {
                        DumpPart::Flow(_) => flows += 1,
                        DumpPart::Done => return flows,
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        assert_eq!((listed(Some(wanted), 1), listed(None, 2)), (1, 2));
    });
}

#[test]
fn refused_filter_differs_from_refused_dump() {
    let refused = |code: i32| netlink::build_message(netlink::NLMSG_ERROR, 0, 1, &code.to_ne_bytes());
    let wanted = FlowFilter { port: port(80), target: port(20001) };
    for (code, error) in [(-22, Errno::EINVAL), (-1, Errno::EPERM)] {
        let receive = |buffer: &mut [u8]| {
            buffer[..20].copy_from_slice(&refused(code));
            Ok(20)
        };
        assert_eq!(collect(receive, &mut [0; 64], 1, wanted), Ok(DumpOutcome::Refused(error)));
    }
}

/// A connection that ends between the list of connections and its new entry: its entry goes again.
#[test]
fn entry_of_a_connection_that_has_ended_is_deleted() {
    run_in_namespace(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (open, ended) =
            (TcpStream::connect(server).await.unwrap(), TcpStream::connect(server).await.unwrap());
        let clients = [&open, &ended].map(|stream| stream.local_addr().unwrap());
        let (accepted, other) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
        let list = || list_connections(Port::new(server.port()).unwrap());
        let listed = list().unwrap();
        assert_eq!(listed.len(), 2);
        for stream in [&ended, &other] {
            stream.set_zero_linger().unwrap();
        }
        drop((ended, other));
        let tracked = track::track_connections(listed, list).unwrap();
        assert_eq!(tracked, 1);
        let found = clients.map(|client| find_answerer(client, server).unwrap());
        assert_eq!(found, [Some(server), None]);
        // Again: what is tracked is left alone.
        assert_eq!(track::track_connections(list().unwrap(), list).unwrap(), 0);
        assert_eq!(find_answerer(clients[0], server).unwrap(), Some(server));
        drop((open, accepted));
    });
}
