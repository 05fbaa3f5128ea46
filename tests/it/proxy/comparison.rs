//! The answers of main and of a shadow become evidence, outside the data path.

use switchman::model::evidence::Evidence;

use super::*;

fn build_compared_shop(control: &str) -> ProxiedService {
    let mut service = build_mirrored_shop();
    service.traffic_split.mirrors[0].compare = true;
    service.traffic_split.mirrors[0].control = control.parse().unwrap();
    service
}

async fn fetch_evidence(proxy: &Proxy) -> Option<Evidence> {
    let answer = proxy.request("GET", &format!("/compare/shop/{}", deployment_id(OTHER)), "").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until this number of pairs was judged or left out.
async fn wait_for_evidence(proxy: &Proxy, pairs: u64) -> Evidence {
    wait_until("all pairs are judged", async || {
        let evidence = fetch_evidence(proxy).await.unwrap();
        evidence.compared + evidence.skipped.values().sum::<u64>() == pairs
    })
    .await;
    fetch_evidence(proxy).await.unwrap()
}

fn build_json_answer(text: &str) -> Vec<u8> {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}")
        .into_bytes()
}

#[test]
fn comparison_finds_differences_and_subtracts_those_of_main() {
    run_in_namespace(|| async {
        let count = Arc::new(Mutex::new(0));
        let main = start_server_with(MAIN, move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            build_json_answer(&format!("{{\"price\": 10, \"id\": {count}}}"))
        })
        .await;
        let _shadow = start_server_with(OTHER, |_| build_json_answer("{\"price\": 12, \"id\": 0}")).await;
        let proxy = Proxy::start_with_service(build_compared_shop("50")).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..10 {
            client.get("/item").await;
            client.post("/buy", b"x").await;
        }
        let evidence = wait_for_evidence(&proxy, 20).await;
        assert_eq!((evidence.compared, evidence.controls, main.count()), (20, 5, 25));
        let price = &evidence.fields.entries[&"$.price".parse().unwrap()];
        assert_eq!((price.differing, price.control_differing), (20, 0));
        let number = &evidence.fields.entries[&"$.id".parse().unwrap()];
        assert_eq!((number.differing, number.control_differing), (20, 5), "main differs from itself");
        assert_eq!(
            proxy.upstream_stats(MAIN).await.answers["2"],
            20,
            "a control request is not counted as a user's"
        );
    });
}

#[test]
fn bodies_of_any_framing_are_compared() {
    run_in_namespace(|| async {
        let answer = |request: &Message| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
            if request.head.starts_with("HEAD") {
                format!("{head}Content-Length: 3\r\n\r\n").into_bytes()
            } else if request.head.starts_with("DELETE") {
                b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
            } else {
                format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
                    .into_bytes()
            }
        };
        let _main = start_server_with(MAIN, answer).await;
        let _shadow = start_server_with(OTHER, answer).await;
        let proxy = Proxy::start_with_service(build_compared_shop("100")).await;
        let mut client = Wire::connect(SHOP).await;
        client.get("/").await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.receive_head().await.unwrap();
        client.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.receive_head().await.unwrap();
        let evidence = wait_for_evidence(&proxy, 3).await;
        assert_eq!((evidence.compared, evidence.controls), (3, 2));
        assert!(evidence.fields.entries.values().all(|field| field.differing == 0), "{evidence:?}");
    });
}

#[test]
fn truncated_answer_is_no_evidence() {
    run_in_namespace(|| async {
        serve_connections(MAIN, |mut wire| async move {
            wire.receive().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        })
        .await;
        let _shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_compared_shop("0")).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.try_receive().await.is_none());
        proxy.wait_until_settled().await;
        let evidence = fetch_evidence(&proxy).await.unwrap();
        assert_eq!((evidence.compared, evidence.skipped.len()), (0, 0));
    });
}

#[test]
fn evidence_is_bounded_and_forgotten_with_its_deployments() {
    run_in_namespace(|| async {
        let big = build_json_answer(&format!("\"{}\"", "x".repeat(300_000)));
        let (one, two) = (big.clone(), big);
        let _main = start_server_with(MAIN, move |_| one.clone()).await;
        let _shadow = start_server_with(OTHER, move |_| two.clone()).await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_compared_shop("0"));
        config.proxy_limits.compare_retained_bytes = 100_000;
        proxy.configure(&config).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.body.len(), 300_002);
        proxy.wait_until_settled().await;
        let evidence_now = wait_for_evidence(&proxy, 1).await;
        assert_eq!((evidence_now.compared, evidence_now.skipped["compare"]), (0, 1), "there was no room");
        config.proxy_limits.compare_retained_bytes = 10 << 20;
        proxy.configure(&config).await;
        Wire::connect(SHOP).await.get("/").await;
        assert_eq!(wait_for_evidence(&proxy, 2).await.compared, 1, "longer than the cap, by its hash");
        // Another build of main.
        config.services[0].main.address = ([127, 0, 0, 1], 9005).into();
        proxy.configure(&config).await;
        assert_eq!(fetch_evidence(&proxy).await.unwrap().compared, 0);
        proxy.configure(&build_config(build_shop())).await;
        assert_eq!(fetch_evidence(&proxy).await, None);
    });
}

/// A controlled comparison waits for main only where main got the request.
#[test]
fn control_request_is_not_sent_for_an_answer_of_the_canary() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let other = start_server(OTHER, "other").await;
        let mut service = build_compared_shop("100");
        service.traffic_split.canary = Some(build_canary("50"));
        let proxy = Proxy::start_with_service(service).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..10 {
            client.get("/").await;
        }
        proxy.wait_until_settled().await;
        let evidence = wait_for_evidence(&proxy, 5).await;
        assert_eq!((evidence.compared, evidence.controls), (5, 5));
        assert_eq!((main.count(), other.count()), (10, 15), "five users, and five of them again");
    });
}

#[test]
fn concurrent_control_requests_are_limited() {
    run_in_namespace(|| async {
        let (main, may) = (ReceivedRequests::default(), tokio::sync::watch::channel(false).0);
        let (recorder, permit) = (main.clone(), may.subscribe());
        serve_connections(MAIN, move |mut wire| {
            let (recorder, mut permit) = (recorder.clone(), permit.clone());
            async move {
                // The first is the user's; all others wait.
                let is_user = std::mem::replace(&mut *recorder.connections.lock().unwrap(), 1) == 0;
                while let Some(request) = wire.try_receive().await {
                    recorder.requests.lock().unwrap().push(request);
                    if !is_user {
                        permit.wait_for(|may| *may).await.unwrap();
                    }
                    wire.send_bytes(&build_json_answer("1")).await;
                }
            }
        })
        .await;
        let _shadow = start_server_with(OTHER, |_| build_json_answer("1")).await;
        let proxy = Proxy::start().await;
        let mut service = build_config(build_compared_shop("100"));
        service.proxy_limits.copy_timeout_ms = 60_000;
        proxy.configure(&service).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..20 {
            client.get("/").await;
        }
        assert_eq!(
            wait_for_evidence(&proxy, 12).await.controls,
            0,
            "those beyond the bound do not wait for it"
        );
        wait_until("eight control requests arrive", async || main.count() == 28).await;
        may.send_replace(true);
        assert_eq!(wait_for_evidence(&proxy, 20).await.controls, 8);
        assert_eq!(main.count(), 28);
    });
}

#[test]
fn incomparable_answers_release_their_bytes() {
    run_in_namespace(|| async {
        let part = "x".repeat(150_000);
        serve_connections(MAIN, move |mut wire| {
            let part = part.clone();
            async move {
                while let Some(request) = wire.try_receive().await {
                    if request.head.starts_with("GET /endless") {
                        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                        wire.send(&format!("{head}{:x}\r\n{part}\r\n", part.len())).await;
                        wire.is_closed().await;
                    } else {
                        wire.send_bytes(&build_json_answer(&format!("\"{}\"", &part[..100_000]))).await;
                    }
                }
            }
        })
        .await;
        let same = build_json_answer(&format!("\"{}\"", "x".repeat(100_000)));
        serve_connections(OTHER, move |mut wire| {
            let same = same.clone();
            async move {
                while let Some(request) = wire.try_receive().await {
                    if request.head.starts_with("GET /endless") {
                        return;
                    }
                    wire.send_bytes(&same).await;
                }
            }
        })
        .await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_compared_shop("0"));
        config.proxy_limits.compare_retained_bytes = 250_000;
        proxy.configure(&config).await;
        let mut endless = Wire::connect(SHOP).await;
        endless.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
        endless.receive_head().await.unwrap();
        endless.read_bytes(150_000).await.unwrap();
        assert_eq!(proxy.wait_until_settled().await.failed["reset"], 1);
        Wire::connect(SHOP).await.get("/").await;
        let evidence = wait_for_evidence(&proxy, 1).await;
        assert_eq!((evidence.compared, evidence.skipped.len()), (1, 0));
    });
}

#[test]
fn long_targets_and_fields_count_against_the_byte_limit() {
    run_in_namespace(|| async {
        let answer = |request: &Message| {
            let long =
                if request.head.starts_with("GET /field") { "l".repeat(20_000) } else { String::new() };
            format!("HTTP/1.1 200 OK\r\nLocation: {long}\r\nContent-Length: 1\r\n\r\n1").into_bytes()
        };
        let _main = start_server_with(MAIN, answer).await;
        let _shadow = start_server_with(OTHER, answer).await;
        let proxy = Proxy::start().await;
        let mut config = build_config(build_compared_shop("0"));
        config.proxy_limits.compare_retained_bytes = 10_000;
        proxy.configure(&config).await;
        let mut client = Wire::connect(SHOP).await;
        for (path, compared, missed) in [
            ("/short", 1, None),
            ("/field", 1, Some(&1)),
            (&*format!("/{}", "p".repeat(20_000)), 1, Some(&2)),
        ] {
            client.get(path).await;
            proxy.wait_until_settled().await;
            let evidence = wait_for_evidence(&proxy, compared + missed.copied().unwrap_or(0)).await;
            assert_eq!((evidence.compared, evidence.skipped.get("compare")), (compared, missed), "{path}");
        }
    });
}

#[test]
fn copy_counts_restart_with_the_evidence() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _next = start_server(9005, "next").await;
        let failed = |shadow: &ShadowStats| (shadow.selected, shadow.failed.get("connect").copied());
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.get("/").await;
        assert_eq!(failed(&proxy.wait_until_settled().await), (1, Some(1)));
        proxy.configure(&build_config(build_compared_shop("0"))).await;
        assert_eq!(failed(&proxy.shadow().await), (0, None), "nothing was compared of those before");
        for _ in 0..3 {
            client.get("/").await;
        }
        assert_eq!(failed(&proxy.wait_until_settled().await), (3, Some(3)));
        let mut service = build_compared_shop("0");
        service.traffic_split.mirrors[0].methods = vec!["GET".to_owned()];
        proxy.configure(&build_config(service.clone())).await;
        assert_eq!(failed(&proxy.shadow().await), (3, Some(3)), "both sides are who they were");
        // Another build of main: failures beside the previous build are no evidence.
        service.main.address = ([127, 0, 0, 1], 9005).into();
        proxy.configure(&build_config(service)).await;
        assert_eq!(failed(&proxy.shadow().await), (0, None));
        client.get("/").await;
        assert_eq!(failed(&proxy.wait_until_settled().await), (1, Some(1)));
    });
}

/// A shadow's answer that comes when main's never will is not one that there was no room for.
#[test]
fn truncated_answer_of_main_is_not_counted_as_skipped() {
    const SHADOW: u16 = 9002;
    run_in_namespace(|| async {
        serve_connections(MAIN, |mut wire| async move {
            wire.receive().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        })
        .await;
        let _canary = start_server(OTHER, "canary").await;
        let (answers, permit) = tokio::sync::watch::channel(0);
        let long = build_json_answer(&format!("\"{}\"", "x".repeat(50_000)));
        serve_connections(SHADOW, move |mut wire| {
            let (mut permit, long) = (permit.clone(), long.clone());
            async move {
                while let Some(request) = wire.try_receive().await {
                    let number = if request.head.starts_with("GET /1") { 1 } else { 2 };
                    permit.wait_for(|answers| *answers >= number).await.unwrap();
                    wire.send_bytes(&long).await;
                }
            }
        })
        .await;
        let mut service = build_compared_shop("0");
        service.other_upstreams.push(build_upstream(SHADOW));
        service.traffic_split.mirrors[0].deployment = deployment_id(SHADOW);
        let mut proxied = build_config(service);
        proxied.proxy_limits.compare_retained_bytes = 10_000;
        let proxy = Proxy::start().await;
        for number in 1..=2 {
            // First main's is cut; then the canary answers.
            proxied.services[0].traffic_split.canary = (number == 2).then(|| build_canary("100"));
            proxy.configure(&proxied).await;
            let mut client = Wire::connect(SHOP).await;
            client.send(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            assert_eq!(client.try_receive().await.is_some(), number == 2);
            wait_until("it is over", async || proxy.stats().await.services[0].in_flight == 0).await;
            answers.send_replace(number);
            assert_eq!(proxy.wait_until_settled().await.answered, number);
        }
        let answer = proxy.request("GET", &format!("/compare/shop/{}", deployment_id(SHADOW)), "").await;
        let evidence: Evidence = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((evidence.compared, evidence.skipped.len()), (0, 0), "{:?}", evidence.skipped);
    });
}
