//! Copies.

use super::*;

/// Rows: D32.
#[test]
fn shadow_gets_the_request_of_main_and_its_answer_is_dropped() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        let body = vec![b'x'; 100_000];
        assert_eq!(client.post("/buy?x=1", &body).await.text(), "main 100000");
        wait_until("the copy came", async || shadow.count() == 1).await;
        let (copy, original) = (shadow.last(), main.last());
        assert_eq!(copy.body, body);
        assert!(copy.head.starts_with("POST /buy?x=1 HTTP/1.1\r\n"), "{}", copy.head);
        assert!(
            copy.head.contains("\r\nHost: shop\r\nContent-Length: 100000\r\n"),
            "its case: {}",
            copy.head
        );
        assert_eq!(copy.field("x-shadow"), Some("1.0.1"));
        assert_eq!(copy.field("x-request-id").unwrap().len(), 32);
        assert_eq!(original.field("x-shadow").or(original.field("x-request-id")), None, "{}", original.head);
        let counts = proxy.wait_until_settled().await;
        assert_eq!((counts.answered, counts.statuses["2/2"]), (1, 1));
    });
}

#[test]
fn copies_share_a_few_connections() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        for _ in 0..10 {
            assert_eq!(Wire::connect(SHOP).await.post("/", b"abc").await.text(), "main 3");
            proxy.wait_until_settled().await;
        }
        assert_eq!((shadow.count(), shadow.connections()), (10, 1));
    });
}

#[test]
fn mirror_respects_share_methods_and_paths_and_counts_every_request() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let shadow = start_server(OTHER, "shadow").await;
        let mut service = build_mirrored_shop();
        service.traffic_split.mirrors[0].percent = "25".parse().unwrap();
        service.traffic_split.mirrors[0].methods = vec!["GET".to_owned()];
        service.traffic_split.mirrors[0].paths = vec!["/api/**".to_owned()];
        service.traffic_split.mirrors[0].without_headers = vec!["host".to_owned()];
        let proxy = Proxy::start_with_service(service).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..40 {
            client.get("/api/x?y").await;
            client.post("/api/x", b"").await;
            client.get("/other").await;
        }
        let counts = proxy.wait_until_settled().await;
        assert_eq!(counts.selected, 10);
        let dropped: Vec<_> =
            counts.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(dropped, [("method", 40), ("path", 40), ("sampled_out", 30)]);
        assert_eq!((shadow.count(), shadow.last().field("host")), (10, None));
    });
}

#[test]
fn copy_is_not_copied_again() {
    run_in_namespace(|| async {
        // The shadow's address is the proxy's own: a loop, if there could be one.
        let main = start_server(MAIN, "main").await;
        let mut service = build_mirrored_shop();
        service.other_upstreams[0].address = ([127, 0, 0, 1], SHOP).into();
        let proxy = Proxy::start_with_service(service).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        let counts = proxy.wait_until_settled().await;
        assert_eq!((counts.selected, counts.dropped["loop"], main.count()), (1, 1, 2));
    });
}

#[test]
fn breaker_suspends_copies_to_a_refusing_shadow() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..200 {
            assert_eq!(client.get("/").await.text(), "main 0");
        }
        let counts = proxy.wait_until_settled().await;
        assert_eq!(main.count(), 200);
        assert_eq!(counts.failed.keys().collect::<Vec<_>>(), ["connect"]);
        assert!(counts.dropped["breaker"] > 0, "{counts:?}");
    });
}

#[test]
fn client_disconnect_aborts_its_copies() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let is_whole = Arc::new(Mutex::new(None));
        let recorder = is_whole.clone();
        serve_connections(OTHER, move |mut wire| {
            let recorder = recorder.clone();
            async move {
                let whole = wire.try_receive().await.is_some();
                *recorder.lock().unwrap() = Some(whole);
            }
        })
        .await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        wait_until("it is copied", async || proxy.shadow().await.in_flight == 1).await;
        drop(client);
        let counts = proxy.wait_until_settled().await;
        assert_eq!(counts.aborted["client"], 1, "{counts:?}");
        wait_until("the shadow sees the end", async || is_whole.lock().unwrap().is_some()).await;
        assert_eq!(*is_whole.lock().unwrap(), Some(false), "a part never looks whole");
    });
}

#[test]
fn bad_shadow_does_not_affect_another_shadow() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let second = start_server(9002, "second").await;
        let mut service = build_mirrored_shop();
        service.other_upstreams.push(build_upstream(9002));
        service.traffic_split.mirrors.push(build_mirror(9002));
        let proxy = Proxy::start_with_service(service).await;
        assert_eq!(Wire::connect(SHOP).await.post("/", b"abc").await.text(), "main 3");
        wait_until("the second has it", async || second.count() == 1).await;
        let stats = proxy.stats().await.services[0].shadows.clone();
        assert_eq!((stats[0].failed["connect"], stats[1].answered), (1, 1));
    });
}
