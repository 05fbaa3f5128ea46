//! No shadow harms the users of main: no error, every answer right, memory bounded, every copy counted. The benchmark
//! measures time.

use std::collections::BTreeMap;

use super::*;

/// Requests of a kind, by a number of clients at once.
#[derive(Debug, Clone, Copy)]
enum Load {
    Gets,
    Chunked,
    Uploads,
}

impl Load {
    const ALL: [Self; 3] = [Self::Gets, Self::Chunked, Self::Uploads];

    const fn clients(self) -> usize {
        match self {
            Self::Gets => 8,
            Self::Chunked => 4,
            Self::Uploads => 2,
        }
    }

    const fn each(self) -> usize {
        match self {
            Self::Gets => 50,
            Self::Chunked => 10,
            Self::Uploads => 1,
        }
    }

    const fn body(self) -> usize {
        match self {
            Self::Gets => 0,
            Self::Chunked => 256 << 10,
            Self::Uploads => 16 << 20,
        }
    }

    async fn send(self, wire: &mut Wire<TcpStream>) {
        let chunk = vec![b'x'; 16 << 10];
        match self {
            Self::Gets => wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await,
            Self::Chunked => {
                wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                for _ in 0..self.body() / chunk.len() {
                    wire.send("4000\r\n").await;
                    wire.send_bytes(&chunk).await;
                    wire.send("\r\n").await;
                }
                wire.send("0\r\n\r\n").await;
            }
            Self::Uploads => {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", self.body());
                wire.send(&head).await;
                for _ in 0..self.body() / chunk.len() {
                    wire.send_bytes(&chunk).await;
                }
            }
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nshadow";

/// Reads whole requests and sends this answer to each, after a delay.
async fn start_slow_shadow(after: Duration, answer: &'static str) {
    serve_connections(OTHER, move |mut wire| async move {
        while wire.try_receive().await.is_some() {
            tokio::time::sleep(after).await;
            if !wire.try_send(answer.as_bytes()).await {
                return;
            }
        }
    })
    .await;
}

async fn start_unread_shadow() {
    let listener = TcpListener::bind(("127.0.0.1", OTHER)).await.unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
}

async fn start_resetting_shadow() {
    serve_connections(OTHER, |mut wire| async move {
        if wire.try_receive().await.is_some() {
            wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsha").await;
            wire.stream.set_zero_linger().unwrap();
        }
    })
    .await;
}

async fn start_trickling_shadow() {
    serve_connections(OTHER, |mut wire| async move {
        if wire.try_receive().await.is_none() {
            return;
        }
        for byte in OK.bytes() {
            if !wire.try_send(&[byte]).await {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

/// In a namespace of its own, packets to the shadow are lost: neither an answer nor a refusal.
fn drop_packets_to_shadow() {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = Command::new("iptables");
    let rule = format!("-w -A OUTPUT -p tcp --dport {OTHER} -j DROP");
    assert!(command.args(rule.split(' ')).status().unwrap().success());
}

/// Runs all loads one after another, and returns the counts of the copies.
async fn run_loads() -> ShadowStats {
    let main = start_server(MAIN, "main").await;
    let proxy = Proxy::start().await;
    let mut config = build_config(build_mirrored_shop());
    config.proxy_limits.copy_timeout_ms = 1_500;
    config.proxy_limits.connect_timeout_ms = 300;
    proxy.configure(&config).await;
    let mut requests = 0;
    for load in Load::ALL {
        let expected = format!("main {}", load.body());
        let clients = (0..load.clients()).map(|_| async {
            let mut wire = Wire::connect(SHOP).await;
            for _ in 0..load.each() {
                load.send(&mut wire).await;
                assert_eq!(wire.receive().await.text(), expected, "{load:?}");
            }
        });
        futures_util::future::join_all(clients).await;
        requests += load.clients() * load.each();
        // The next load starts without copies in flight.
        proxy.wait_until_settled().await;
    }
    assert_eq!(main.count(), requests);
    let upstream = proxy.upstream_stats(MAIN).await;
    assert_eq!(
        (upstream.answers, upstream.errors),
        ([("2".to_owned(), requests as u64)].into(), BTreeMap::new())
    );
    let shadow = proxy.wait_until_settled().await;
    let dropped: u64 = shadow.dropped.values().sum();
    assert_eq!(shadow.selected + dropped, requests as u64, "{shadow:?}");
    let peak = read_peak_bytes(proxy.pid());
    assert!(peak < 96 << 20, "{} MiB at its peak", peak >> 20);
    shadow
}

/// proc(5): `VmHWM`, in KiB.
fn read_peak_bytes(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn main_is_unharmed_by_a_healthy_shadow() {
    run_in_namespace(|| async {
        start_slow_shadow(Duration::ZERO, OK).await;
        let shadow = run_loads().await;
        assert!(shadow.answered >= 400, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_takes_100_ms() {
    run_in_namespace(|| async {
        start_slow_shadow(Duration::from_millis(100), OK).await;
        let shadow = run_loads().await;
        assert!(shadow.answered > 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_takes_2_s() {
    run_in_namespace(|| async {
        start_slow_shadow(Duration::from_secs(2), OK).await;
        let shadow = run_loads().await;
        assert!(shadow.failed["timeout"] > 0 && shadow.dropped["inflight"] > 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_refuses_connections() {
    run_in_namespace(|| async {
        let shadow = run_loads().await;
        assert!(shadow.failed["connect"] > 0 && shadow.answered == 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_never_reads() {
    run_in_namespace(|| async {
        start_unread_shadow().await;
        let shadow = run_loads().await;
        assert!(shadow.failed["timeout"] > 0 && shadow.answered == 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_answers_500() {
    run_in_namespace(|| async {
        start_slow_shadow(Duration::ZERO, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
        let shadow = run_loads().await;
        assert!(shadow.statuses["2/5"] >= 400, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_resets_mid_answer() {
    run_in_namespace(|| async {
        start_resetting_shadow().await;
        let shadow = run_loads().await;
        assert!(shadow.failed["reset"] > 0 && shadow.answered == 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_a_shadow_that_sends_a_byte_a_second() {
    run_in_namespace(|| async {
        start_trickling_shadow().await;
        let shadow = run_loads().await;
        assert!(shadow.failed["timeout"] > 0 && shadow.answered == 0, "{shadow:?}");
    });
}

#[test]
fn main_is_unharmed_by_an_unreachable_shadow() {
    run_in_namespace(|| async {
        drop_packets_to_shadow();
        let shadow = run_loads().await;
        assert!(shadow.failed["connect"] > 0 && shadow.answered == 0, "{shadow:?}");
    });
}

/// Never reads, and every copy is behind at once: the bound over all of them holds too.
#[test]
fn unread_uploads_stay_within_the_byte_limit_of_all_copies() {
    run_in_namespace(|| async {
        start_unread_shadow().await;
        let _main = start_server(MAIN, "main").await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_mirrored_shop());
        config.proxy_limits.backlog_bytes = 8 << 20;
        config.proxy_limits.retained_bytes = 16 << 20;
        proxy.configure(&config).await;
        let clients = (0..12).map(|_| async {
            let mut wire = Wire::connect(SHOP).await;
            Load::Uploads.send(&mut wire).await;
            assert_eq!(wire.receive().await.text(), format!("main {}", Load::Uploads.body()));
        });
        futures_util::future::join_all(clients).await;
        let shadow = proxy.wait_until_settled().await;
        assert!(shadow.aborted["backlog"] > 0, "{shadow:?}");
        let peak = read_peak_bytes(proxy.pid());
        assert!(peak < 96 << 20, "{} MiB at its peak", peak >> 20);
    });
}
