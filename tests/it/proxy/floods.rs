//! Clients that only cost: connections without a request, and HTTP/2 control frames without end.

use std::net::Ipv4Addr;

use super::*;

const GATEWAY: u16 = 8080;

/// Connects from an address of the loopback network, and sends nothing.
async fn connect_from(local: Ipv4Addr, port: u16) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((local, 0).into()).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.ok()
}

/// Starts the proxy with a limit of open files that 300 idle connections exceed.
async fn start_with_few_files() -> Proxy {
    let dir = tempfile::tempdir().unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = Command::new("sh");
    let child = command
        .args(["-c", "ulimit -n 200; exec \"$0\" proxy --control \"$1\"", SWITCHMAN])
        .arg(dir.path().join("proxy.sock"))
        .spawn()
        .unwrap();
    let proxy = Proxy { dir, child };
    wait_until("its socket answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
    proxy
}

/// Opens 300 half-open connections to `port`, from one address or from 100; then counts users who are answered.
async fn count_answered_users(port: u16, sources: u8, path: &str) -> usize {
    let mut half_open = Vec::new();
    for number in 0..300_u16 {
        let local = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(number % u16::from(sources)).unwrap());
        if let Some(mut stream) = connect_from(local, port).await {
            // Half of a head, for every second one.
            let start: &[u8] = if number % 2 == 0 { b"" } else { b"GET / HTTP/1.1\r\nHo" };
            let _ = stream.write_all(start).await;
            half_open.push(stream);
        }
    }
    let mut answered = 0;
    for _ in 0..20 {
        answered += usize::from(Wire::connect(port).await.get(path).await.text() == "main 0");
    }
    answered
}

#[test]
fn half_open_connections_keep_no_user_out() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let proxy = start_with_few_files().await;
        proxy.configure(&ProxyConfig { gateway: Port::new(GATEWAY), ..build_config(build_shop()) }).await;
        let mut kept = Wire::connect(SHOP).await;
        assert_eq!(kept.get("/").await.text(), "main 0");
        for sources in [1, 100] {
            assert_eq!(count_answered_users(SHOP, sources, "/").await, 20, "from {sources}");
            assert_eq!(count_answered_users(GATEWAY, sources, "/services/shop/").await, 20, "from {sources}");
        }
        assert_eq!(
            kept.get("/").await.text(),
            "main 0",
            "a client that has sent a request is never displaced"
        );
    });
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, 0][..], &stream.to_be_bytes(), payload].concat()
}

/// Sends frames until the proxy closes the connection, at most 500,000; returns how many were sent.
async fn flood(frame: &[u8]) -> usize {
    const BATCH: usize = 1000;
    let (mut read, mut write) = Wire::connect(SHOP).await.stream.into_split();
    let answers = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let batch = frame.repeat(BATCH);
    for number in 0..500 {
        let sent = fail_if_stuck("the flood is read or closed", write.write_all(&batch)).await;
        if sent.is_err() || answers.is_finished() {
            return number * BATCH;
        }
    }
    500 * BATCH
}

#[test]
fn control_frame_flood_closes_only_its_connection() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut kept = Wire::connect(SHOP).await;
        assert_eq!(kept.get("/").await.text(), "main 0");
        for (name, frame) in [
            ("PRIORITY", frame(2, 3, &[0, 0, 0, 0, 16])),
            ("WINDOW_UPDATE", frame(8, 0, &[0, 0, 0, 1])),
            ("PING", frame(6, 0, &[0; 8])),
            ("SETTINGS", frame(4, 0, &[])),
            ("unknown", frame(200, 0, &[0; 8])),
        ] {
            let sent = flood(&frame).await;
            assert!(sent < 500_000, "{name}: all of {sent} frames were read");
            assert_eq!(kept.get("/").await.text(), "main 0", "{name}");
        }
    });
}
