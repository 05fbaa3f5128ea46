//! Copies.

use super::*;

#[test]
fn a_shadow_gets_what_main_gets_and_nobody_sees_its_answer() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        let body = vec![b'x'; 100_000];
        assert_eq!(client.post("/buy?x=1", &body).await.text(), "main 100000");
        until("the copy came", async || shadow.count() == 1).await;
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
        let counts = proxy.settled().await;
        assert_eq!((counts.answered, counts.statuses["2/2"]), (1, 1));
    });
}

#[test]
fn copies_share_a_few_connections() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(mirrored()).await;
        for _ in 0..10 {
            assert_eq!(Wire::to(SHOP).await.post("/", b"abc").await.text(), "main 3");
            proxy.settled().await;
        }
        assert_eq!((shadow.count(), shadow.connections()), (10, 1));
    });
}

#[test]
fn shares_methods_and_paths_are_kept_and_every_request_is_accounted_for() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let shadow = server(OTHER, "shadow").await;
        let mut service = mirrored();
        service.traffic_split.mirrors[0].percent = "25".parse().unwrap();
        service.traffic_split.mirrors[0].methods = vec!["GET".to_owned()];
        service.traffic_split.mirrors[0].paths = vec!["/api/**".to_owned()];
        service.traffic_split.mirrors[0].without_headers = vec!["host".to_owned()];
        let proxy = Proxy::serving(service).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..40 {
            client.get("/api/x?y").await;
            client.post("/api/x", b"").await;
            client.get("/other").await;
        }
        let counts = proxy.settled().await;
        assert_eq!(counts.selected, 10);
        let dropped: Vec<_> =
            counts.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(dropped, [("method", 40), ("path", 40), ("sampled_out", 30)]);
        assert_eq!((shadow.count(), shadow.last().field("host")), (10, None));
    });
}

#[test]
fn a_copy_is_not_copied_again() {
    run_in_namespace(|| async {
        // The shadow's address is the proxy's own: a loop, if there could be one.
        let main = server(MAIN, "main").await;
        let mut service = mirrored();
        service.other_upstreams[0].address = ([127, 0, 0, 1], SHOP).into();
        let proxy = Proxy::serving(service).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        let counts = proxy.settled().await;
        assert_eq!((counts.selected, counts.dropped["loop"], main.count()), (1, 1, 2));
    });
}

#[test]
fn a_shadow_that_refuses_is_left_alone_for_a_while() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..200 {
            assert_eq!(client.get("/").await.text(), "main 0");
        }
        let counts = proxy.settled().await;
        assert_eq!(main.count(), 200);
        assert_eq!(counts.failed.keys().collect::<Vec<_>>(), ["connect"]);
        assert!(counts.dropped["breaker"] > 0, "{counts:?}");
    });
}

#[test]
fn a_client_that_goes_away_gives_its_copies_up() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let heard = Arc::new(Mutex::new(None));
        let noted = heard.clone();
        listen(OTHER, move |mut wire| {
            let noted = noted.clone();
            async move {
                let whole = wire.try_hear().await.is_some();
                *noted.lock().unwrap() = Some(whole);
            }
        })
        .await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        until("it is copied", async || proxy.shadow().await.in_flight == 1).await;
        drop(client);
        let counts = proxy.settled().await;
        assert_eq!(counts.aborted["client"], 1, "{counts:?}");
        until("the shadow sees the end", async || heard.lock().unwrap().is_some()).await;
        assert_eq!(*heard.lock().unwrap(), Some(false), "a part never looks whole");
    });
}

#[test]
fn two_shadows_are_apart() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let second = server(9002, "second").await;
        let mut service = mirrored();
        service.other_upstreams.push(upstream(9002));
        service.traffic_split.mirrors.push(mirror(9002));
        let proxy = Proxy::serving(service).await;
        assert_eq!(Wire::to(SHOP).await.post("/", b"abc").await.text(), "main 3");
        until("the second has it", async || second.count() == 1).await;
        let stats = proxy.stats().await.services[0].shadows.clone();
        assert_eq!((stats[0].failed["connect"], stats[1].answered), (1, 1));
    });
}
