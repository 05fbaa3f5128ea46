//! Who answers.

use switchman::model::proxy::{FieldMatch, Sticky};

use super::*;

async fn both() -> (ReceivedRequests, ReceivedRequests) {
    (server(MAIN, "main").await, server(OTHER, "canary").await)
}
/// Seed row E4 (docs/design/seed-systems.md#exercise-9): 100 of 400.

#[test]
fn of_400_requests_at_25_percent_exactly_100_keep_alive_or_not() {
    run_in_namespace(|| async {
        let (_main, canaries) = both().await;
        let proxy = Proxy::serving(with_canary(canary("25"))).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..400 {
            client.get("/").await;
        }
        assert_eq!(canaries.count(), 100);
        for _ in 0..400 {
            Wire::to(SHOP).await.get("/").await;
        }
        assert_eq!(canaries.count(), 200);
        assert_eq!((proxy.leg(OTHER).await.answers["2"], proxy.leg(MAIN).await.answers["2"]), (200, 600));
    });
}
/// Seed rows E6, E7: the canary alone answers requests with the header, also if its value is empty.

#[test]
fn marks_choose_the_canary_even_when_empty() {
    run_in_namespace(|| async {
        let _both = both().await;
        let mark = |name: &str| Some(FieldMatch { name: name.to_owned(), value: None });
        let marked =
            Canary { percent: None, header: mark("X-Mistery-Shopper"), cookie: mark("beta"), ..canary("0") };
        let _proxy = Proxy::serving(with_canary(marked)).await;
        let mut client = Wire::to(SHOP).await;
        for (line, expected) in [
            ("X-MISTERY-SHOPPER:", "canary 0"),
            ("x-mistery-shopper: anything", "canary 0"),
            ("Cookie: a=b; beta=", "canary 0"),
            ("Cookie: betas=1", "main 0"),
            ("X-Other: 1", "main 0"),
        ] {
            client.say(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")).await;
            assert_eq!(client.hear().await.text(), expected, "{line}");
        }
    });
}

#[test]
fn a_user_with_a_cookie_stays_where_he_is_while_the_share_grows() {
    run_in_namespace(|| async {
        let _both = both().await;
        let sticky = |percent| Canary { sticky: Some(Sticky::Cookie), ..canary(percent) };
        let proxy = Proxy::serving(with_canary(sticky("25"))).await;
        let mut users = Vec::new();
        for _ in 0..40 {
            let answer = Wire::to(SHOP).await.get("/").await;
            let cookie = answer.field("set-cookie").unwrap();
            let (value, attributes) = cookie.split_once("; ").unwrap();
            assert!(value.starts_with("swm_shop=") && attributes.contains("Path=/"), "{cookie}");
            users.push((value.to_owned(), answer.text()));
        }
        assert_eq!(users.iter().filter(|(_, text)| text == "canary 0").count(), 10);
        let mut client = Wire::to(SHOP).await;
        for percent in ["25", "60", "100"] {
            proxy.tell(&config(with_canary(sticky(percent)))).await;
            let mut count = 0;
            for (cookie, first) in &users {
                client.say(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")).await;
                let answer = client.hear().await;
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

#[test]
fn a_canary_that_is_not_there_is_answered_for_by_main() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let proxy = Proxy::serving(with_canary(canary("100"))).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..20 {
            assert_eq!(client.post("/", b"abc").await.text(), "main 3");
        }
        assert_eq!((proxy.leg(OTHER).await.fallbacks, main.count()), (20, 20));
        let canaries = server(OTHER, "canary").await;
        // It is tried again by itself.
        until("it answers", async || Wire::to(SHOP).await.get("/").await.text() == "canary 0").await;
        assert!(canaries.count() > 0);
    });
}

#[test]
fn what_a_canary_answers_is_not_compared_with_main() {
    run_in_namespace(|| async {
        let _both = both().await;
        let mut service = mirrored();
        service.traffic_split.canary = Some(canary("50"));
        let proxy = Proxy::serving(service).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..10 {
            client.get("/").await;
        }
        let counts = proxy.settled().await;
        assert_eq!((counts.answered, counts.statuses["2/2"]), (10, 5));
    });
}

/// A server that reads requests and sends nothing until `answers` is set.
async fn silent(port: u16, answers: Arc<Mutex<bool>>) -> ReceivedRequests {
    let seen = ReceivedRequests::default();
    let noted = seen.clone();
    listen(port, move |mut wire| {
        let (noted, answers) = (noted.clone(), answers.clone());
        async move {
            while let Some(request) = wire.try_hear().await {
                noted.requests.lock().unwrap().push(request);
                if *answers.lock().unwrap() {
                    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary").await;
                }
            }
        }
    })
    .await;
    seen
}

/// Without this no request would ever reach the canary again.
#[test]
fn a_client_that_goes_away_during_the_deciding_try_leaves_it_to_the_next() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(with_canary(canary("100"))).await;
        for _ in 0..5 {
            assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        }
        let answers = Arc::new(Mutex::new(false));
        let canaries = silent(OTHER, answers.clone()).await;
        // The trial request gets no answer; main answers the others until then.
        let trying = Arc::new(Mutex::new(None));
        until("the canary is tried", async || {
            let mut client = Wire::to(SHOP).await;
            client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let heard = canaries.clone();
            tokio::select! {
                answer = client.try_hear() => { assert_eq!(answer.unwrap().text(), "main 0"); false }
                () = until("it is heard", async || heard.count() > 0) => {
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
        until("the next one asks it", async || Wire::to(SHOP).await.get("/").await.text() == "canary").await;
    });
}

#[test]
fn mains_time_begins_when_main_is_asked() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        // Connections to the canary are not refused either: the proxy waits in vain.
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut command = Command::new("iptables");
        let rule = "-w -A INPUT -p tcp --dport 9001 -j DROP";
        assert!(command.args(rule.split(' ')).status().unwrap().success());
        let proxy = Proxy::start().await;
        let mut told = config(with_canary(canary("100")));
        told.proxy_limits.connect_timeout_ms = 3_000;
        proxy.tell(&told).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        let leg = proxy.leg(MAIN).await;
        assert_eq!(leg.latency.0.values().sum::<u64>(), 1);
        assert!(leg.latency.0.keys().all(|us| *us < 3_000_000), "the wait is the canary's: {leg:?}");
    });
}
