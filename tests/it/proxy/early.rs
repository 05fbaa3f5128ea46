//! Answers that come before the request is over, and requests that never are.

use super::*;

/// Answers the head alone, and reads the rest before it closes, as servers do whose answer has to arrive.
async fn refuses_early(port: u16) {
    listen(port, |mut wire| async move {
        wire.hear_head().await;
        wire.try_say(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig").await;
        let _ = wire.stream.shutdown().await;
        while let Some(true) = wire.more().await {
            wire.rest.clear();
        }
    })
    .await;
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    run_in_namespace(|| async {
        refuses_early(MAIN).await;
        let shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::start().await;
        let mut told = config(mirrored());
        // A whole body: on a loaded machine the shadow falls behind, which is not the matter here.
        told.proxy_limits.backlog_bytes = 8 << 20;
        proxy.tell(&told).await;
        for _ in 0..20 {
            let mut client = Wire::to(SHOP).await;
            client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n").await;
            let chunk = vec![b'x'; 64 << 10];
            // The client sends as much as is accepted.
            for _ in 0..64 {
                if !client.try_say(&chunk).await {
                    break;
                }
            }
            assert_eq!(client.hear().await.text(), "big");
        }
        let counts = proxy.settled().await;
        let aborted: u64 = counts.aborted.values().sum();
        assert_eq!((counts.answered + aborted, counts.failed.len()), (20, 0), "{counts:?}");
        assert_eq!(shadow.count() as u64, counts.answered, "a part never looks whole");
    });
}

#[test]
fn an_early_answer_that_leaves_the_body_unread_gives_copies_up() {
    run_in_namespace(|| async {
        listen(MAIN, |mut wire| async move {
            wire.hear_head().await;
            wire.try_say(b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        })
        .await;
        let _shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
        assert_eq!(client.hear().await.status(), 403);
        drop(client);
        let counts = proxy.settled().await;
        assert_eq!(counts.aborted.values().sum::<u64>(), 1, "{counts:?}");
    });
}

#[test]
fn a_slow_upload_is_the_clients_and_no_fault_of_the_shadow() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::start().await;
        let mut told = config(mirrored());
        told.proxy_limits.copy_timeout_ms = 100;
        proxy.tell(&told).await;
        let mut client = Wire::to(SHOP).await;
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await;
        until("it is copied", async || proxy.shadow().await.in_flight == 1).await;
        let counts = proxy.settled().await;
        assert_eq!((counts.aborted["client"], counts.failed.len()), (1, 0), "{counts:?}");
        client.say("y").await;
        assert_eq!(client.hear().await.text(), "main 2");
    });
}
