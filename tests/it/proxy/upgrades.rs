//! Connections that become something else: passed through, never copied.

use super::*;

async fn echo_bytes(mut wire: Wire<TcpStream>, head: &str) {
    wire.receive_head().await.unwrap();
    wire.send(head).await;
    loop {
        let rest = std::mem::take(&mut wire.rest);
        if !rest.is_empty() && !wire.try_send(&rest).await {
            return;
        }
        if wire.rest.is_empty() && !matches!(wire.read_more().await, Some(true)) {
            return;
        }
    }
}

#[test]
fn websocket_is_passed_through_and_not_copied() {
    run_in_namespace(|| async {
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        serve_connections(MAIN, move |wire| echo_bytes(wire, agreed)).await;
        let shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let head = client.receive_head().await.unwrap();
        assert!(head.to_lowercase().contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
        client.send("one").await;
        assert_eq!(client.read_bytes(3).await.unwrap(), b"one");
        let stats = proxy.stats().await.services[0].clone();
        assert_eq!((stats.upgraded, stats.connections), (1, 1));
        let big = vec![7; 1 << 20];
        let (mut reader, mut writer) = client.stream.split();
        let mut back = vec![0; big.len()];
        let (written, read) = tokio::join!(writer.write_all(&big), reader.read_exact(&mut back));
        written.unwrap();
        read.unwrap();
        assert!(back == big);
        drop(client);
        wait_until("the connection has ended", async || {
            let stats = proxy.stats().await.services[0].clone();
            (stats.upgraded, stats.connections) == (0, 0)
        })
        .await;
        assert_eq!((proxy.shadow().await.dropped["upgrade"], shadow.count()), (1, 0));
    });
}

#[test]
fn declined_upgrade_is_an_ordinary_answer() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..2 {
            client
                .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            assert_eq!(client.receive().await.text(), "main 0");
        }
    });
}

#[test]
fn upgrade_to_h2c_is_removed() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            .await;
        assert_eq!(client.receive().await.text(), "main 0");
        let head = main.last().head;
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    });
}

#[test]
fn connect_is_passed_through() {
    run_in_namespace(|| async {
        serve_connections(MAIN, |wire| echo_bytes(wire, "HTTP/1.1 200 OK\r\n\r\n")).await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n").await;
        assert!(client.receive_head().await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        client.send("raw").await;
        assert_eq!(client.read_bytes(3).await.unwrap(), b"raw");
        assert_eq!(proxy.shadow().await.dropped["upgrade"], 1);
    });
}

#[test]
fn sigterm_ends_upgraded_connections_at_the_drain_limit() {
    run_in_namespace(|| async {
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
        serve_connections(MAIN, move |wire| echo_bytes(wire, agreed)).await;
        let mut proxy = Proxy::start_with_flags(&["--drain-limit", "60s"]).await;
        proxy.configure(&build_config(build_shop())).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
        client.receive_head().await.unwrap();
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        wait_until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err())
            .await;
        client.send("still").await;
        assert_eq!(client.read_bytes(5).await.unwrap(), b"still");
        drop(client);
        assert_eq!(proxy.wait_for_exit().await, Some(0));
    });
}
