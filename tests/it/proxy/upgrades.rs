//! Connections that become something else: passed through, never copied.

use super::*;

async fn echo(mut wire: Wire<TcpStream>, head: &str) {
    wire.hear_head().await.unwrap();
    wire.say(head).await;
    loop {
        let rest = std::mem::take(&mut wire.rest);
        if !rest.is_empty() && !wire.try_say(&rest).await {
            return;
        }
        if wire.rest.is_empty() && !matches!(wire.more().await, Some(true)) {
            return;
        }
    }
}

#[test]
fn a_websocket_is_passed_through_and_not_copied() {
    run_in_namespace(|| async {
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        listen(MAIN, move |wire| echo(wire, agreed)).await;
        let shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let head = client.hear_head().await.unwrap();
        assert!(head.to_lowercase().contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
        client.say("one").await;
        assert_eq!(client.bytes(3).await.unwrap(), b"one");
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
        until("it is gone", async || {
            let stats = proxy.stats().await.services[0].clone();
            (stats.upgraded, stats.connections) == (0, 0)
        })
        .await;
        assert_eq!((proxy.shadow().await.dropped["upgrade"], shadow.count()), (1, 0));
    });
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..2 {
            client
                .say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            assert_eq!(client.hear().await.text(), "main 0");
        }
    });
}

#[test]
fn an_offer_of_http2_by_upgrade_is_left_out() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client
            .say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            .await;
        assert_eq!(client.hear().await.text(), "main 0");
        let head = main.last().head;
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    });
}

#[test]
fn connect_is_passed_through() {
    run_in_namespace(|| async {
        listen(MAIN, |wire| echo(wire, "HTTP/1.1 200 OK\r\n\r\n")).await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n").await;
        assert!(client.hear_head().await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        client.say("raw").await;
        assert_eq!(client.bytes(3).await.unwrap(), b"raw");
        assert_eq!(proxy.shadow().await.dropped["upgrade"], 1);
    });
}

#[test]
fn told_to_end_an_upgraded_connection_has_until_the_limit() {
    run_in_namespace(|| async {
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
        listen(MAIN, move |wire| echo(wire, agreed)).await;
        let mut proxy = Proxy::with(&["--drain-limit", "60s"]).await;
        proxy.tell(&config(shop())).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
        client.hear_head().await.unwrap();
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err()).await;
        client.say("still").await;
        assert_eq!(client.bytes(5).await.unwrap(), b"still");
        drop(client);
        assert_eq!(proxy.ended().await, Some(0));
    });
}
