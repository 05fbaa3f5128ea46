//! Answers that come before the request is over, and requests that never are.

use super::*;

/// Answers the head alone, and reads the rest before it closes, as servers do whose answer has to arrive.
async fn start_early_refusing_main(port: u16) {
    serve_connections(port, |mut wire| async move {
        wire.receive_head().await;
        wire.try_send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig").await;
        let _ = wire.stream.shutdown().await;
        while let Some(true) = wire.read_more().await {
            wire.rest.clear();
        }
    })
    .await;
}

#[test]
fn early_answer_reaches_a_client_that_still_sends() {
    run_in_namespace(|| async {
        start_early_refusing_main(MAIN).await;
        let shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_mirrored_shop());
        // A whole body: on a loaded machine the shadow falls behind, which is not the matter here.
        config.proxy_limits.backlog_bytes = 8 << 20;
        proxy.configure(&config).await;
        for _ in 0..20 {
            let mut client = Wire::connect(SHOP).await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n").await;
            let chunk = vec![b'x'; 64 << 10];
            // The client sends as much as is accepted.
            for _ in 0..64 {
                if !client.try_send(&chunk).await {
                    break;
                }
            }
            assert_eq!(client.receive().await.text(), "big");
        }
        let counts = proxy.wait_until_settled().await;
        let aborted: u64 = counts.aborted.values().sum();
        assert_eq!((counts.answered + aborted, counts.failed.len()), (20, 0), "{counts:?}");
        assert_eq!(shadow.count() as u64, counts.answered, "a part never looks whole");
    });
}

#[test]
fn early_answer_with_unread_body_aborts_copies() {
    run_in_namespace(|| async {
        serve_connections(MAIN, |mut wire| async move {
            wire.receive_head().await;
            wire.try_send(b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        })
        .await;
        let _shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
        assert_eq!(client.receive().await.status(), 403);
        drop(client);
        let counts = proxy.wait_until_settled().await;
        assert_eq!(counts.aborted.values().sum::<u64>(), 1, "{counts:?}");
    });
}

#[test]
fn slow_upload_is_not_counted_against_the_shadow() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_mirrored_shop());
        config.proxy_limits.copy_timeout_ms = 100;
        proxy.configure(&config).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await;
        wait_until("it is copied", async || proxy.shadow().await.in_flight == 1).await;
        let counts = proxy.wait_until_settled().await;
        assert_eq!((counts.aborted["client"], counts.failed.len()), (1, 0), "{counts:?}");
        client.send("y").await;
        assert_eq!(client.receive().await.text(), "main 2");
    });
}
