//! The answers of main and of a shadow become evidence, outside the data path.

use switchman::model::evidence::Evidence;

use super::*;

fn compared(control: &str) -> ProxiedService {
    let mut service = mirrored();
    service.traffic_split.mirrors[0].compare = true;
    service.traffic_split.mirrors[0].control = control.parse().unwrap();
    service
}

async fn evidence(proxy: &Proxy) -> Option<Evidence> {
    let answer = proxy.ask("GET", &format!("/compare/shop/{}", id(OTHER)), "").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until this number of pairs was judged or left out.
async fn judged(proxy: &Proxy, pairs: u64) -> Evidence {
    until("all pairs are judged", async || {
        let evidence = evidence(proxy).await.unwrap();
        evidence.compared + evidence.skipped.values().sum::<u64>() == pairs
    })
    .await;
    evidence(proxy).await.unwrap()
}

fn json(text: &str) -> Vec<u8> {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}")
        .into_bytes()
}

#[test]
fn a_difference_is_found_and_mains_own_is_known() {
    run_in_namespace(|| async {
        let count = Arc::new(Mutex::new(0));
        let main = answering(MAIN, move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            json(&format!("{{\"price\": 10, \"id\": {count}}}"))
        })
        .await;
        let _shadow = answering(OTHER, |_| json("{\"price\": 12, \"id\": 0}")).await;
        let proxy = Proxy::serving(compared("50")).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..10 {
            client.get("/item").await;
            client.post("/buy", b"x").await;
        }
        let evidence = judged(&proxy, 20).await;
        assert_eq!((evidence.compared, evidence.controls, main.count()), (20, 5, 25));
        let price = &evidence.fields.entries[&"$.price".parse().unwrap()];
        assert_eq!((price.differing, price.control_differing), (20, 0));
        let number = &evidence.fields.entries[&"$.id".parse().unwrap()];
        assert_eq!((number.differing, number.control_differing), (20, 5), "main differs from itself");
        assert_eq!(proxy.leg(MAIN).await.answers["2"], 20, "what is asked again is nobody's request");
    });
}

#[test]
fn bodies_of_any_framing_and_none_are_compared() {
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
        let _main = answering(MAIN, answer).await;
        let _shadow = answering(OTHER, answer).await;
        let proxy = Proxy::serving(compared("100")).await;
        let mut client = Wire::to(SHOP).await;
        client.get("/").await;
        client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.hear_head().await.unwrap();
        client.say("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.hear_head().await.unwrap();
        let evidence = judged(&proxy, 3).await;
        assert_eq!((evidence.compared, evidence.controls), (3, 2));
        assert!(evidence.fields.entries.values().all(|field| field.differing == 0), "{evidence:?}");
    });
}

#[test]
fn an_answer_that_was_cut_is_no_evidence() {
    run_in_namespace(|| async {
        listen(MAIN, |mut wire| async move {
            wire.hear().await;
            wire.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        })
        .await;
        let _shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(compared("0")).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.try_hear().await.is_none());
        proxy.settled().await;
        let evidence = evidence(&proxy).await.unwrap();
        assert_eq!((evidence.compared, evidence.skipped.len()), (0, 0));
    });
}

#[test]
fn evidence_is_bounded_and_ends_with_those_it_is_about() {
    run_in_namespace(|| async {
        let big = json(&format!("\"{}\"", "x".repeat(300_000)));
        let (one, two) = (big.clone(), big);
        let _main = answering(MAIN, move |_| one.clone()).await;
        let _shadow = answering(OTHER, move |_| two.clone()).await;
        let proxy = Proxy::start().await;
        let mut told = config(compared("0"));
        told.proxy_limits.compare_retained_bytes = 100_000;
        proxy.tell(&told).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.body.len(), 300_002);
        proxy.settled().await;
        let evidence_now = judged(&proxy, 1).await;
        assert_eq!((evidence_now.compared, evidence_now.skipped["compare"]), (0, 1), "there was no room");
        told.proxy_limits.compare_retained_bytes = 10 << 20;
        proxy.tell(&told).await;
        Wire::to(SHOP).await.get("/").await;
        assert_eq!(judged(&proxy, 2).await.compared, 1, "longer than the cap, by its hash");
        // Another build of main.
        told.services[0].main.address = ([127, 0, 0, 1], 9005).into();
        proxy.tell(&told).await;
        assert_eq!(evidence(&proxy).await.unwrap().compared, 0);
        proxy.tell(&config(shop())).await;
        assert_eq!(evidence(&proxy).await, None);
    });
}

/// A controlled comparison waits for main only where main got the request.
#[test]
fn main_is_not_asked_again_for_what_the_canary_answered() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let other = server(OTHER, "other").await;
        let mut service = compared("100");
        service.traffic_split.canary = Some(canary("50"));
        let proxy = Proxy::serving(service).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..10 {
            client.get("/").await;
        }
        proxy.settled().await;
        let evidence = judged(&proxy, 5).await;
        assert_eq!((evidence.compared, evidence.controls), (5, 5));
        assert_eq!((main.count(), other.count()), (10, 15), "five users, and five of them again");
    });
}

#[test]
fn main_is_asked_again_only_so_often_at_once() {
    run_in_namespace(|| async {
        let (main, may) = (ReceivedRequests::default(), tokio::sync::watch::channel(false).0);
        let (noted, told) = (main.clone(), may.subscribe());
        listen(MAIN, move |mut wire| {
            let (noted, mut told) = (noted.clone(), told.clone());
            async move {
                // The first is the user's; all others wait.
                let is_user = std::mem::replace(&mut *noted.connections.lock().unwrap(), 1) == 0;
                while let Some(request) = wire.try_hear().await {
                    noted.requests.lock().unwrap().push(request);
                    if !is_user {
                        told.wait_for(|may| *may).await.unwrap();
                    }
                    wire.say_bytes(&json("1")).await;
                }
            }
        })
        .await;
        let _shadow = answering(OTHER, |_| json("1")).await;
        let proxy = Proxy::start().await;
        let mut service = config(compared("100"));
        service.proxy_limits.copy_timeout_ms = 60_000;
        proxy.tell(&service).await;
        let mut client = Wire::to(SHOP).await;
        for _ in 0..20 {
            client.get("/").await;
        }
        assert_eq!(judged(&proxy, 12).await.controls, 0, "those beyond the bound do not wait for it");
        until("eight are asked again", async || main.count() == 28).await;
        may.send_replace(true);
        assert_eq!(judged(&proxy, 20).await.controls, 8);
        assert_eq!(main.count(), 28);
    });
}

#[test]
fn what_can_never_be_compared_holds_no_room() {
    run_in_namespace(|| async {
        let part = "x".repeat(150_000);
        listen(MAIN, move |mut wire| {
            let part = part.clone();
            async move {
                while let Some(request) = wire.try_hear().await {
                    if request.head.starts_with("GET /endless") {
                        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                        wire.say(&format!("{head}{:x}\r\n{part}\r\n", part.len())).await;
                        wire.ends().await;
                    } else {
                        wire.say_bytes(&json(&format!("\"{}\"", &part[..100_000]))).await;
                    }
                }
            }
        })
        .await;
        let same = json(&format!("\"{}\"", "x".repeat(100_000)));
        listen(OTHER, move |mut wire| {
            let same = same.clone();
            async move {
                while let Some(request) = wire.try_hear().await {
                    if request.head.starts_with("GET /endless") {
                        return;
                    }
                    wire.say_bytes(&same).await;
                }
            }
        })
        .await;
        let proxy = Proxy::start().await;
        let mut told = config(compared("0"));
        told.proxy_limits.compare_retained_bytes = 250_000;
        proxy.tell(&told).await;
        let mut endless = Wire::to(SHOP).await;
        endless.say("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
        endless.hear_head().await.unwrap();
        endless.bytes(150_000).await.unwrap();
        assert_eq!(proxy.settled().await.failed["reset"], 1);
        Wire::to(SHOP).await.get("/").await;
        let evidence = judged(&proxy, 1).await;
        assert_eq!((evidence.compared, evidence.skipped.len()), (1, 0));
    });
}

#[test]
fn long_targets_and_fields_count_against_the_bound() {
    run_in_namespace(|| async {
        let answer = |request: &Message| {
            let long =
                if request.head.starts_with("GET /field") { "l".repeat(20_000) } else { String::new() };
            format!("HTTP/1.1 200 OK\r\nLocation: {long}\r\nContent-Length: 1\r\n\r\n1").into_bytes()
        };
        let _main = answering(MAIN, answer).await;
        let _shadow = answering(OTHER, answer).await;
        let proxy = Proxy::start().await;
        let mut told = config(compared("0"));
        told.proxy_limits.compare_retained_bytes = 10_000;
        proxy.tell(&told).await;
        let mut client = Wire::to(SHOP).await;
        for (path, compared, missed) in [
            ("/short", 1, None),
            ("/field", 1, Some(&1)),
            (&*format!("/{}", "p".repeat(20_000)), 1, Some(&2)),
        ] {
            client.get(path).await;
            proxy.settled().await;
            let evidence = judged(&proxy, compared + missed.copied().unwrap_or(0)).await;
            assert_eq!((evidence.compared, evidence.skipped.get("compare")), (compared, missed), "{path}");
        }
    });
}

#[test]
fn copies_are_counted_anew_when_the_evidence_begins_anew() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _next = server(9005, "next").await;
        let failed = |shadow: &ShadowStats| (shadow.selected, shadow.failed.get("connect").copied());
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.get("/").await;
        assert_eq!(failed(&proxy.settled().await), (1, Some(1)));
        proxy.tell(&config(compared("0"))).await;
        assert_eq!(failed(&proxy.shadow().await), (0, None), "nothing was compared of those before");
        for _ in 0..3 {
            client.get("/").await;
        }
        assert_eq!(failed(&proxy.settled().await), (3, Some(3)));
        let mut told = compared("0");
        told.traffic_split.mirrors[0].methods = vec!["GET".to_owned()];
        proxy.tell(&config(told.clone())).await;
        assert_eq!(failed(&proxy.shadow().await), (3, Some(3)), "both sides are who they were");
        // Another build of main: failures beside the previous build are no evidence.
        told.main.address = ([127, 0, 0, 1], 9005).into();
        proxy.tell(&config(told)).await;
        assert_eq!(failed(&proxy.shadow().await), (0, None));
        client.get("/").await;
        assert_eq!(failed(&proxy.settled().await), (1, Some(1)));
    });
}

/// A shadow's answer that comes when main's never will is not one that there was no room for.
#[test]
fn what_main_did_not_answer_whole_is_not_counted_as_missed() {
    const SHADOW: u16 = 9002;
    run_in_namespace(|| async {
        listen(MAIN, |mut wire| async move {
            wire.hear().await;
            wire.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        })
        .await;
        let _canary = server(OTHER, "canary").await;
        let (answers, told) = tokio::sync::watch::channel(0);
        let long = json(&format!("\"{}\"", "x".repeat(50_000)));
        listen(SHADOW, move |mut wire| {
            let (mut told, long) = (told.clone(), long.clone());
            async move {
                while let Some(request) = wire.try_hear().await {
                    let number = if request.head.starts_with("GET /1") { 1 } else { 2 };
                    told.wait_for(|answers| *answers >= number).await.unwrap();
                    wire.say_bytes(&long).await;
                }
            }
        })
        .await;
        let mut service = compared("0");
        service.other_upstreams.push(upstream(SHADOW));
        service.traffic_split.mirrors[0].deployment = id(SHADOW);
        let mut proxied = config(service);
        proxied.proxy_limits.compare_retained_bytes = 10_000;
        let proxy = Proxy::start().await;
        for number in 1..=2 {
            // First main's is cut; then the canary answers.
            proxied.services[0].traffic_split.canary = (number == 2).then(|| canary("100"));
            proxy.tell(&proxied).await;
            let mut client = Wire::to(SHOP).await;
            client.say(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            assert_eq!(client.try_hear().await.is_some(), number == 2);
            until("it is over", async || proxy.stats().await.services[0].in_flight == 0).await;
            answers.send_replace(number);
            assert_eq!(proxy.settled().await.answered, number);
        }
        let answer = proxy.ask("GET", &format!("/compare/shop/{}", id(SHADOW)), "").await;
        let evidence: Evidence = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((evidence.compared, evidence.skipped.len()), (0, 0), "{:?}", evidence.skipped);
    });
}
