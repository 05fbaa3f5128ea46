//! The first version of a service takes over the data ports: connections that the vhosts have open go on, also those that the
//! kernel did not track yet because no rule on the host needed it. Found by a user's request that failed in the quick start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::single_host::LocalOperator;
use crate::testing::run_in_namespace;

const ADDRESS: &str = "10.9.0.5";
const YAML: &str = "service: shop
ports: {check: 8888, main: 8080, backup: 8081}
roll: {min_up: 0}
health: {path: /health, interval: 50ms, timeout: 500ms, rise: 1}
versions: {health_timeout: 10s, watch: 0s}
";
/// Opens a connection to each port. After each line of its input it sends a byte by every connection, and prints what comes
/// back.
const CLIENT: &str = "
import socket, sys
print('up', flush=True)
for line in sys.stdin:
    if line.startswith('open'):
        connections = [socket.create_connection((sys.argv[1], int(port)), timeout=5) for port in sys.argv[2:]]
    answers = []
    for connection in connections:
        try:
            connection.sendall(b'x')
            answers.append(connection.recv(16).decode() or 'closed')
        except OSError as error:
            answers.append(str(error))
    print(' '.join(answers), flush=True)
";

fn command(program: &str) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    Command::new(program)
}

fn sh(script: &str) -> String {
    let output = command("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A vhost that sends back every byte.
fn echo(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A client on another machine.
struct Client {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(ports: &[&str]) -> Self {
        let mut process = command("unshare")
            .args(["--net", "python3", "-c", CLIENT, ADDRESS])
            .args(ports)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        let pid = process.id();
        sh(&format!(
            "ip link add swm-t0 type veth peer name swm-t1 netns {pid}; ip addr add {ADDRESS}/24 dev swm-t0
            ip addr add fd00:9::5/64 dev swm-t0 nodad; ip link set swm-t0 up
            nsenter --net=/proc/{pid}/ns/net sh -ec 'ip addr add 10.9.0.6/24 dev swm-t1; ip link set swm-t1 up
            ip addr add fd00:9::6/64 dev swm-t1 nodad'"
        ));
        Self { process, input, output }
    }

    /// Sends a byte by every connection and returns the answers.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answers = String::new();
        self.output.read_line(&mut answers).unwrap();
        answers.trim().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn make_host() -> LocalOperator {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("switchman.yaml"), YAML).unwrap();
    LocalOperator::new(dir)
}

/// `before` runs between the opening of the connections and the deploy.
fn check_takeover(before: &'static [&'static [&'static str]]) {
    run_in_namespace(move || async move {
        let host = make_host();
        // The backup vhost is IPv4 alone; an IPv4 client of the main vhost has a socket of IPv6 on this side.
        echo("[::]:8080");
        echo("0.0.0.0:8081");
        let mut client = Client::start(&["8080", "8081", "8080"]);
        assert_eq!(client.ask("open"), "x x x");
        for args in before {
            host.stdout(args);
        }
        host.deploy("1.0.0");
        let rules = sh("iptables-save -t nat");
        assert!(rules.contains("--dport 8080") && rules.contains("--dport 8081"), "{rules}");
        assert_eq!(client.ask("again"), "x x x");
        assert_eq!(client.ask("and again"), "x x x");
    });
}

#[test]
fn connections_from_before_the_first_rule_survive_the_first_deploy() {
    check_takeover(&[]);
}

/// The usual case: the forward was on before, and the connections carried nothing since.
#[test]
fn connections_from_before_the_forward_survive_the_first_deploy() {
    check_takeover(&[&["enable-forward", "--no-wait", "--force"]]);
}

/// The programs of others that clear the tables also end the tracking of connections.
#[test]
fn connections_from_a_gap_in_the_rules_survive_their_repair() {
    run_in_namespace(|| async {
        let host = make_host();
        echo("[::]:8080");
        let mut client = Client::start(&["8080"]);
        host.deploy("1.0.0");
        sh("nft flush ruleset; nft delete table ip nat || true; nft delete table ip6 nat || true");
        assert_eq!(client.ask("open"), "x");
        host.stdout(&["restore"]);
        let rules = sh("iptables-save -t nat");
        assert!(rules.contains("--dport 8080"), "{rules}");
        assert_eq!(client.ask("again"), "x");
    });
}
