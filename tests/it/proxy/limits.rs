//! The proxy itself at its limits.

use super::*;

#[test]
fn descriptor_limit_suspends_copies_but_not_forwarding() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", "ulimit -n 100; exec \"$0\" proxy --control \"$1\"", SWITCHMAN])
            .arg(dir.path().join("proxy.sock"))
            .spawn()
            .unwrap();
        let proxy = Proxy { dir, child };
        wait_until("its socket answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        proxy.configure(&build_config(build_mirrored_shop())).await;
        let (_main, _shadow) = (start_server(MAIN, "main").await, start_server(OTHER, "shadow").await);
        let mut idle = Vec::new();
        for _ in 0..70 {
            idle.push(Wire::connect(SHOP).await);
        }
        wait_until("copies are suspended", async || proxy.stats().await.is_suspended).await;
        assert_eq!(idle[0].get("/").await.text(), "main 0");
        assert_eq!(proxy.shadow().await.dropped["memory"], 1);
        // More than there is room for: the rest waits, and nothing ends.
        for _ in 0..60 {
            idle.push(Wire::connect(SHOP).await);
        }
        assert_eq!(idle[0].get("/").await.text(), "main 0");
        idle.truncate(1);
        wait_until("copies are made again", async || !proxy.stats().await.is_suspended).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        proxy.wait_until_settled().await;
        assert_eq!(proxy.shadow().await.selected, 1);
    });
}

#[test]
fn memory_limit_suspends_copies_but_not_forwarding() {
    run_in_namespace(|| async {
        let (_main, _shadow) = (start_server(MAIN, "main").await, start_server(OTHER, "shadow").await);
        let proxy = Proxy::start().await;
        let mut config = build_config(build_mirrored_shop());
        config.proxy_limits.resident_bytes = 1 << 20;
        proxy.configure(&config).await;
        wait_until("copies are suspended", async || proxy.stats().await.is_suspended).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        assert_eq!(proxy.shadow().await.dropped["memory"], 1);
        config.proxy_limits.resident_bytes = 1 << 30;
        proxy.configure(&config).await;
        wait_until("copies are made again", async || !proxy.stats().await.is_suspended).await;
    });
}
