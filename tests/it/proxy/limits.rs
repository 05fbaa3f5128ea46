//! The proxy itself at its limits.

use super::*;

#[test]
fn short_of_descriptors_it_stops_copying_and_forwards_on() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", "ulimit -n 100; exec \"$0\" proxy --control \"$1\"", SWITCHMAN])
            .arg(dir.path().join("proxy.sock"))
            .spawn()
            .unwrap();
        let proxy = Proxy { dir, child };
        until("its socket answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        proxy.tell(&config(mirrored())).await;
        let (_main, _shadow) = (server(MAIN, "main").await, server(OTHER, "shadow").await);
        let mut idle = Vec::new();
        for _ in 0..70 {
            idle.push(Wire::to(SHOP).await);
        }
        until("copies are suspended", async || proxy.stats().await.is_suspended).await;
        assert_eq!(idle[0].get("/").await.text(), "main 0");
        assert_eq!(proxy.shadow().await.dropped["memory"], 1);
        // More than there is room for: the rest waits, and nothing ends.
        for _ in 0..60 {
            idle.push(Wire::to(SHOP).await);
        }
        assert_eq!(idle[0].get("/").await.text(), "main 0");
        idle.truncate(1);
        until("copies are made again", async || !proxy.stats().await.is_suspended).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        proxy.settled().await;
        assert_eq!(proxy.shadow().await.selected, 1);
    });
}

#[test]
fn short_of_memory_it_stops_copying_and_forwards_on() {
    run_in_namespace(|| async {
        let (_main, _shadow) = (server(MAIN, "main").await, server(OTHER, "shadow").await);
        let proxy = Proxy::start().await;
        let mut told = config(mirrored());
        told.proxy_limits.resident_bytes = 1 << 20;
        proxy.tell(&told).await;
        until("copies are suspended", async || proxy.stats().await.is_suspended).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        assert_eq!(proxy.shadow().await.dropped["memory"], 1);
        told.proxy_limits.resident_bytes = 1 << 30;
        proxy.tell(&told).await;
        until("copies are made again", async || !proxy.stats().await.is_suspended).await;
    });
}
