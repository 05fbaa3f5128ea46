//! What main and a shadow answered becomes evidence, beside the data path.

use switchman::model::evidence::Evidence;

use super::*;

fn compared(control: &str) -> ProxiedService {
    let mut service = mirrored();
    service.splits.mirrors[0].compare = true;
    service.splits.mirrors[0].control = control.parse().unwrap();
    service
}

async fn evidence(proxy: &Proxy) -> Option<Evidence> {
    let answer = proxy.ask("GET", &format!("/compare/shop/{}", id(OTHER)), "").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Once so many pairs were judged or left out.
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
    in_namespace(|| async {
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
        let price = &evidence.fields.kept[&"$.price".parse().unwrap()];
        assert_eq!((price.differing, price.control_differing), (20, 0));
        let number = &evidence.fields.kept[&"$.id".parse().unwrap()];
        assert_eq!((number.differing, number.control_differing), (20, 5), "main differs from itself");
        assert_eq!(proxy.leg(MAIN).await.answers["2"], 20, "what is asked again is nobody's request");
    });
}

#[test]
fn bodies_of_any_framing_and_none_are_compared() {
    in_namespace(|| async {
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
        assert!(evidence.fields.kept.values().all(|field| field.differing == 0), "{evidence:?}");
    });
}

#[test]
fn an_answer_that_was_cut_is_no_evidence() {
    in_namespace(|| async {
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
    in_namespace(|| async {
        let big = json(&format!("\"{}\"", "x".repeat(300_000)));
        let (one, two) = (big.clone(), big);
        let _main = answering(MAIN, move |_| one.clone()).await;
        let _shadow = answering(OTHER, move |_| two.clone()).await;
        let proxy = Proxy::start().await;
        let mut told = config(compared("0"));
        told.limits.compare_retained_bytes = 100_000;
        proxy.tell(&told).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.body.len(), 300_002);
        proxy.settled().await;
        let evidence_now = judged(&proxy, 1).await;
        assert_eq!((evidence_now.compared, evidence_now.skipped["compare"]), (0, 1), "there was no room");
        told.limits.compare_retained_bytes = 10 << 20;
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
