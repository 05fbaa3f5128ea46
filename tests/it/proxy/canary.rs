//! Who answers.

use switchman::model::proxy::{FieldMatch, Sticky};

use super::*;

async fn start_main_and_canary() -> (ReceivedRequests, ReceivedRequests) {
    (start_server(MAIN, "main").await, start_server(OTHER, "canary").await)
}
/// Seed row E4 (docs/design/seed-systems.md#exercise-9): 100 of 400.

#[test]
fn canary_gets_exactly_its_share_with_and_without_keep_alive() {
    run_in_namespace(|| async {
        let (_main, canaries) = start_main_and_canary().await;
        let proxy = Proxy::start_with_service(build_shop_with_canary(build_canary("25"))).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..400 {
            client.get("/").await;
        }
        assert_eq!(canaries.count(), 100);
        for _ in 0..400 {
            Wire::connect(SHOP).await.get("/").await;
        }
        assert_eq!(canaries.count(), 200);
        assert_eq!(
            (proxy.upstream_stats(OTHER).await.answers["2"], proxy.upstream_stats(MAIN).await.answers["2"]),
            (200, 600)
        );
    });
}
/// Seed rows E6, E7: the canary alone answers requests with the header, also if its value is empty.

#[test]
fn header_and_cookie_select_the_canary_even_when_empty() {
    run_in_namespace(|| async {
        let _both = start_main_and_canary().await;
        let mark = |name: &str| Some(FieldMatch { name: name.to_owned(), value: None });
        let marked = Canary {
            percent: None,
            header: mark("X-Mistery-Shopper"),
            cookie: mark("beta"),
            ..build_canary("0")
        };
        let _proxy = Proxy::start_with_service(build_shop_with_canary(marked)).await;
        let mut client = Wire::connect(SHOP).await;
        for (line, expected) in [
            ("X-MISTERY-SHOPPER:", "canary 0"),
            ("x-mistery-shopper: anything", "canary 0"),
            ("Cookie: a=b; beta=", "canary 0"),
            ("Cookie: betas=1", "main 0"),
            ("X-Other: 1", "main 0"),
        ] {
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")).await;
            assert_eq!(client.receive().await.text(), expected, "{line}");
        }
    });
}

#[test]
fn sticky_user_keeps_the_canary_while_the_share_grows() {
    run_in_namespace(|| async {
        let _both = start_main_and_canary().await;
        let sticky = |percent| Canary { sticky: Some(Sticky::Cookie), ..build_canary(percent) };
        let proxy = Proxy::start_with_service(build_shop_with_canary(sticky("25"))).await;
        let mut users = Vec::new();
        for _ in 0..40 {
            let answer = Wire::connect(SHOP).await.get("/").await;
            let cookie = answer.field("set-cookie").unwrap();
            let (value, attributes) = cookie.split_once("; ").unwrap();
            assert!(value.starts_with("swm_shop=") && attributes.contains("Path=/"), "{cookie}");
            users.push((value.to_owned(), answer.text()));
        }
        assert_eq!(users.iter().filter(|(_, text)| text == "canary 0").count(), 10);
        let mut client = Wire::connect(SHOP).await;
        for percent in ["25", "60", "100"] {
            proxy.configure(&build_config(build_shop_with_canary(sticky(percent)))).await;
            let mut count = 0;
            for (cookie, first) in &users {
                client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")).await;
                let answer = client.receive().await;
                assert_eq!(answer.field("set-cookie"), None);
                assert!(first == "main 0" || answer.text() == "canary 0", "taken back at {percent}");
                count += usize::from(answer.text() == "canary 0");
            }
            assert!(percent != "25" || count == 10);
            assert!(percent != "100" || count == 40);
        }
    });
}
/// Seed row E8, where the exercise answers 503: main answers what its canary cannot.
/// Rows: E8.
#[test]
fn main_answers_for_an_absent_canary() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(build_shop_with_canary(build_canary("100"))).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..20 {
            assert_eq!(client.post("/", b"abc").await.text(), "main 3");
        }
        assert_eq!((proxy.upstream_stats(OTHER).await.fallbacks, main.count()), (20, 20));
        let canaries = start_server(OTHER, "canary").await;
        // It is tried again by itself.
        wait_until("it answers", async || Wire::connect(SHOP).await.get("/").await.text() == "canary 0")
            .await;
        assert!(canaries.count() > 0);
    });
}

#[test]
fn answers_of_a_canary_are_not_compared_with_main() {
    run_in_namespace(|| async {
        let _both = start_main_and_canary().await;
        let mut service = build_mirrored_shop();
        service.traffic_split.canary = Some(build_canary("50"));
        let proxy = Proxy::start_with_service(service).await;
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..10 {
            client.get("/").await;
        }
        let counts = proxy.wait_until_settled().await;
        assert_eq!((counts.answered, counts.statuses["2/2"]), (10, 5));
    });
}

/// A server that reads requests and sends nothing until `answers` is set.
async fn start_silent_server(port: u16, answers: Arc<Mutex<bool>>) -> ReceivedRequests {
    let received = ReceivedRequests::default();
    let recorder = received.clone();
    serve_connections(port, move |mut wire| {
        let (recorder, answers) = (recorder.clone(), answers.clone());
        async move {
            while let Some(request) = wire.try_receive().await {
                recorder.requests.lock().unwrap().push(request);
                if *answers.lock().unwrap() {
                    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary").await;
                }
            }
        }
    })
    .await;
    received
}

/// If the trial were lost with its client, no request would ever reach the canary again.
#[test]
fn client_disconnect_during_the_canary_trial_leaves_the_trial_to_the_next_request() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop_with_canary(build_canary("100"))).await;
        for _ in 0..5 {
            assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        }
        let answers = Arc::new(Mutex::new(false));
        let canaries = start_silent_server(OTHER, answers.clone()).await;
        // The trial request gets no answer; main answers the others until then.
        let trying = Arc::new(Mutex::new(None));
        wait_until("the canary is tried", async || {
            let mut client = Wire::connect(SHOP).await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let received = canaries.clone();
            tokio::select! {
                answer = client.try_receive() => { assert_eq!(answer.unwrap().text(), "main 0"); false }
                () = wait_until("the canary gets it", async || received.count() > 0) => {
                    *trying.lock().unwrap() = Some(client);
                    true
                }
            }
        })
        .await;
        *answers.lock().unwrap() = true;
        let client = trying.lock().unwrap().take().unwrap();
        client.stream.set_zero_linger().unwrap();
        drop(client);
        wait_until("the next request tries the canary", async || {
            Wire::connect(SHOP).await.get("/").await.text() == "canary"
        })
        .await;
    });
}

#[test]
fn latency_of_main_excludes_the_wait_for_the_canary() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        // Connections to the canary are not refused either: the proxy waits in vain.
        #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
        let mut command = Command::new("iptables");
        let rule = "-w -A INPUT -p tcp --dport 9001 -j DROP";
        assert!(command.args(rule.split(' ')).status().unwrap().success());
        let proxy = Proxy::start().await;
        let mut config = build_config(build_shop_with_canary(build_canary("100")));
        config.proxy_limits.connect_timeout_ms = 3_000;
        proxy.configure(&config).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        let upstream = proxy.upstream_stats(MAIN).await;
        assert_eq!(upstream.latency.0.values().sum::<u64>(), 1);
        assert!(
            upstream.latency.0.keys().all(|us| *us < 3_000_000),
            "the wait is the canary's: {upstream:?}"
        );
    });
}
