//! Against the real kernel, in network namespaces.

use std::net::TcpListener;

use super::*;
use crate::sys::exec::Program;
use crate::sys::testing::run_in_namespace;

async fn sh(script: &str) -> String {
    let output = Program::new("sh").args(["-ec", script]).run(b"", Duration::from_secs(10)).await.unwrap();
    assert_eq!(output.status, 0, "{script}: {}", output.stderr);
    output.stdout
}

/// An interface with an address of each family.
const INTERFACE: &str = "ip link add swm-d0 type veth peer name swm-d1; ip link set swm-d1 up; \
    ip addr add 10.9.0.5/24 dev swm-d0; ip addr add fd00:9::5/64 dev swm-d0 nodad; ip link set swm-d0 up; ";

fn make_addresses(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new([10, 9, 0, 5].into(), port), format!("[fd00:9::5]:{port}").parse().unwrap()]
}

async fn connect(port: u16) -> Vec<PacketAnswer> {
    let answers = TunProbe.connect(&make_addresses(port)).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// The answers when the host itself answers on `port`.
fn accepted_by(port: u16) -> Vec<PacketAnswer> {
    make_addresses(port).map(|by| PacketAnswer::Accepted { by: Some(by) }).to_vec()
}

#[test]
fn packets_are_answered_as_those_from_outside() {
    run_in_namespace(|| async {
        // With strict filtering of the reverse path, which drops a packet whose source has no route to its interface.
        sh(&format!("{INTERFACE} sysctl -qw net.ipv4.conf.all.rp_filter=1")).await;
        let _listeners = ["0.0.0.0:8080", "[::1]:8081", "[fd00:9::5]:8080"].map(TcpListener::bind);
        assert_eq!(connect(8888).await, [PacketAnswer::Refused, PacketAnswer::Refused]);
        let untracked = connect(8080).await;
        assert!(
            untracked.iter().all(|answer| matches!(answer, PacketAnswer::Accepted { .. })),
            "{untracked:?}"
        );
    });
}

#[test]
fn redirected_packet_names_the_port_that_answers() {
    run_in_namespace(|| async {
        sh(&format!(
            "{INTERFACE} for tables in iptables ip6tables; do $tables -t nat -A PREROUTING -p tcp --dport 8888 -m addrtype \
             --dst-type LOCAL -j REDIRECT --to-ports 8080; done"
        ))
        .await;
        let _both = TcpListener::bind("[::]:8080").unwrap();
        assert_eq!(connect(8888).await, accepted_by(8080));
    });
}

#[test]
fn dropped_packet_gets_no_answer() {
    run_in_namespace(|| async {
        sh(&format!(
            "{INTERFACE} iptables -A INPUT -p tcp --dport 8888 -j DROP; \
                     ip6tables -A INPUT -p tcp --dport 8888 -j REJECT"
        ))
        .await;
        let started_at = Instant::now();
        assert_eq!(connect(8888).await, [PacketAnswer::Silent, PacketAnswer::Refused]);
        assert!(started_at.elapsed() < ANSWER_TIMEOUT * 10, "{:?}", started_at.elapsed());
    });
}

#[test]
fn device_leaves_nothing_behind() {
    run_in_namespace(|| async {
        sh(INTERFACE).await;
        let read = "ip addr | grep -c swm-p || true; ip route show table all | grep -c swm-p || true";
        let _main = TcpListener::bind("0.0.0.0:8080").unwrap();
        connect(8080).await;
        let until = Instant::now() + Duration::from_secs(20);
        while sh(read).await.lines().rev().take(2).any(|count| count != "0") {
            assert!(Instant::now() < until, "{}", sh("ip addr; ip route show table all").await);
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn host_with_a_route_to_the_first_range_uses_another() {
    run_in_namespace(|| async {
        sh(&format!("{INTERFACE} ip route add 192.0.2.0/24 via 10.9.0.1; ip route add default via 10.9.0.1"))
            .await;
        assert_eq!(connect(8888).await, [PacketAnswer::Refused, PacketAnswer::Refused]);
        sh("ip route add 198.51.100.0/24 via 10.9.0.1; ip route add 203.0.113.0/24 via 10.9.0.1").await;
        let answers = TunProbe.connect(&make_addresses(8888)).await.unwrap();
        assert_eq!(
            answers[0].as_ref().unwrap_err().to_string(),
            "cannot find an unused address: this host has routes to the ranges for documentation"
        );
        assert_eq!(answers[1], Ok(PacketAnswer::Refused));
    });
}

#[test]
fn policy_routing_of_answers_is_named() {
    run_in_namespace(|| async {
        sh(&format!("{INTERFACE} ip route add default via 10.9.0.1 table 7; ip rule add from 10.9.0.5 table 7 priority 10"))
            .await;
        let answers = TunProbe.connect(&make_addresses(8888)[..1]).await.unwrap();
        assert_eq!(
            answers[0].as_ref().unwrap_err().to_string(),
            "cannot receive an answer: policy routing sends it to another interface"
        );
    });
}

#[test]
fn listeners_are_read_by_address() {
    run_in_namespace(|| async {
        let _listeners = ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8081"].map(TcpListener::bind);
        let found = TunProbe.list_listening_addresses(Port::new(8080).unwrap()).unwrap();
        let expected: Vec<SocketAddr> =
            ["127.0.0.1:8080", "[::1]:8080"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(found, expected);
    });
}

/// Unknown is not empty: a port whose listeners cannot be read is not free.
#[test]
fn unreadable_table_of_sockets_is_an_error() {
    let port = Port::new(8080).unwrap();
    let missing = std::path::Path::new("/proc/thread-self/net/no-such-directory");
    let error = list_listeners(missing, port).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the kernel's table of sockets: "), "{error}");
}
