//! Behaviour of hyper that a client or a server would notice: a test for each (docs/design/proxy.md#hyper).

use super::*;

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn a_get_with_a_chunked_body_keeps_it() {
    run_in_namespace(|| async {
        let (main, shadow) = (server(MAIN, "main").await, server(OTHER, "shadow").await);
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        for method in ["GET", "DELETE", "OPTIONS"] {
            client
                .say(&format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                ))
                .await;
            assert_eq!(client.hear().await.text(), "main 3", "{method}");
        }
        proxy.settled().await;
        assert_eq!((main.last().body, shadow.last().body), (b"abc".to_vec(), b"abc".to_vec()));
    });
}

#[test]
fn an_expectation_is_mains_to_meet() {
    run_in_namespace(|| async {
        let shadow = server(OTHER, "shadow").await;
        listen(MAIN, |mut wire| async move {
            let head = wire.hear_head().await.unwrap();
            assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
            if head.starts_with("POST /no") {
                wire.say("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
            } else {
                wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(wire.bytes(5).await.unwrap(), b"hello");
                wire.say_bytes(&ok("yes")).await;
            }
            wire.ends().await;
        })
        .await;
        let _proxy = Proxy::serving(mirrored()).await;
        let head = |path| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        };
        let mut client = Wire::to(SHOP).await;
        client.say(&head("/no")).await;
        let answer = client.hear().await;
        assert_eq!((answer.status(), answer.text().as_str()), (417, "no"), "no 100 comes before it");
        let mut client = Wire::to(SHOP).await;
        client.say(&head("/yes")).await;
        assert_eq!(client.hear_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("hello").await;
        assert_eq!(client.hear().await.text(), "yes");
        until("the copy came", async || shadow.count() == 1).await;
        assert_eq!((shadow.last().field("expect"), shadow.last().body), (None, b"hello".to_vec()));
    });
}

#[test]
fn an_expectation_that_main_does_not_know_is_met_after_a_while() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        assert_eq!(client.hear_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("hello").await;
        assert_eq!(client.hear().await.text(), "main 5");
    });
}

#[test]
fn an_early_hint_does_not_hide_the_answer() {
    run_in_namespace(|| async {
        let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_vec();
        let _main = answering(MAIN, move |_| [hint.clone(), ok("real")].concat()).await;
        let _proxy = Proxy::serving(shop()).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "real");
    });
}

/// Sends the bytes on a connection that was used before and on a fresh one; returns the bytes that main received.
async fn strange(bytes: &[u8]) -> Vec<String> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = heads.clone();
    listen(MAIN, move |mut wire| {
        let noted = noted.clone();
        async move {
            while let Some(head) = wire.hear_head().await {
                noted.lock().unwrap().push(head);
                wire.say_bytes(&ok("main")).await;
            }
        }
    })
    .await;
    let proxy = Proxy::serving(mirrored()).await;
    let _shadow = server(OTHER, "shadow").await;
    let mut used = Wire::to(SHOP).await;
    assert_eq!(used.get("/first").await.text(), "main");
    for mut client in [used, Wire::to(SHOP).await] {
        client.say_bytes(bytes).await;
        assert_eq!(client.hear().await.text(), "main");
        assert_eq!(client.get("/next").await.text(), "main", "the connection goes on");
    }
    assert_eq!(proxy.stats().await.services[0].rejected["passed_through"], 2);
    let heads = heads.lock().unwrap();
    assert_eq!((heads.len(), &heads[1], &heads[2]), (5, &heads[3], &heads[4]));
    vec![heads[1].clone()]
}

#[test]
fn what_hyper_does_not_understand_main_gets_as_it_is() {
    for line in [
        "GET /a<b>`c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?q=\"<x>\" HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nName : value\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nName: folded\r\n value\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
    ] {
        run_in_namespace(move || async move {
            assert_eq!(strange(line.as_bytes()).await, [line]);
        });
    }
    run_in_namespace(|| async {
        let got = strange(b"GET /\xe9\xff HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(got, [String::from_utf8_lossy(b"GET /\xe9\xff HTTP/1.1\r\nHost: a\r\n\r\n")]);
    });
}

#[test]
fn heads_of_any_size_reach_main() {
    run_in_namespace(|| async {
        let fields: String = (0..300).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(strange(head.as_bytes()).await, [head]);
    });
    run_in_namespace(|| async {
        let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
        assert_eq!(strange(head.as_bytes()).await, [head]);
    });
    run_in_namespace(|| async {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(700_000));
        assert_eq!(strange(head.as_bytes()).await, [head]);
    });
}

#[test]
fn a_client_that_closes_half_gets_its_answer() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.hear().await.text(), "main 0");
        assert!(client.ends().await);
    });
}

#[test]
fn a_client_that_resets_ends_its_request() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(false));
        let noted = ended.clone();
        listen(MAIN, move |mut wire| {
            let noted = noted.clone();
            async move {
                wire.hear().await;
                assert!(wire.ends().await);
                *noted.lock().unwrap() = true;
            }
        })
        .await;
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        until("it is in flight", async || proxy.stats().await.services[0].in_flight == 1).await;
        client.stream.set_zero_linger().unwrap();
        drop(client);
        until("main sees the end", async || *ended.lock().unwrap()).await;
        until("it is counted", async || proxy.leg(MAIN).await.errors.get("client") == Some(&1)).await;
    });
}

#[test]
fn chunked_goes_before_a_length_and_ends_the_connection() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client
            .say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
        assert_eq!(client.hear().await.text(), "main 5");
        assert!(client.ends().await);
        assert_eq!(main.last().field("content-length"), None);
    });
}

#[test]
fn names_keep_their_case_both_ways_and_nothing_is_added() {
    run_in_namespace(|| async {
        // The length comes last, and fields of one name together: the only order that is lost.
        let answer = "HTTP/1.1 200 Fine\r\nX-ODD-case: 1\r\nSet-Cookie: a=1\r\nsEt-cOOkie: b=2\r\n\
                      content-LENGTH: 0\r\n\r\n";
        let main = answering(MAIN, move |_| answer.as_bytes().to_vec()).await;
        let _shadow = server(OTHER, "shadow").await;
        let _proxy = Proxy::serving(mirrored()).await;
        let request = "GET / HTTP/1.1\r\nhOST: a\r\nX-weird-CASE: 1\r\nACCEPT: */*\r\n\r\n";
        let mut client = Wire::to(SHOP).await;
        client.say(request).await;
        assert_eq!(client.hear().await.head, answer, "no Date, no Via, the same reason");
        assert_eq!(main.last().head, request);
    });
}

#[test]
fn answers_without_a_body_keep_their_length() {
    run_in_namespace(|| async {
        let _main = answering(MAIN, |request| {
            let status = if request.head.starts_with("HEAD") { "200 OK" } else { "304 Not Modified" };
            format!("HTTP/1.1 {status}\r\nETag: x\r\nContent-Length: 5\r\n\r\n").into_bytes()
        })
        .await;
        let _proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.hear_head().await.unwrap();
        assert!(head.contains("Content-Length: 5\r\n"), "{head}");
        client.say("GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: x\r\n\r\n").await;
        let head = client.hear_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\nETag: x\r\n"), "{head}");
    });
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    run_in_namespace(|| async {
        listen(MAIN, |mut wire| async move {
            let request = wire.hear().await;
            let close = if request.head.starts_with("GET /close") { "Connection: close\r\n" } else { "" };
            wire.say(&format!("HTTP/1.1 200 OK\r\n{close}\r\nuntil the end")).await;
        })
        .await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        let answer = client.get("/").await;
        assert_eq!(
            (answer.text().as_str(), answer.field("transfer-encoding")),
            ("until the end", Some("chunked"))
        );
        let answer = client.get("/close").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("until the end", Some("close")));
        assert!(client.ends().await);
    });
}

#[test]
fn an_answer_that_is_cut_is_cut_for_the_client() {
    run_in_namespace(|| async {
        listen(MAIN, |mut wire| async move {
            wire.hear().await;
            wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        })
        .await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(within("the end", client.try_hear()).await.is_none(), "a part never looks whole");
    });
}

#[test]
fn trailers_pass_both_ways_and_to_shadows() {
    run_in_namespace(|| async {
        let chunked = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
        let main = answering(MAIN, move |_| chunked.as_bytes().to_vec()).await;
        let shadow = server(OTHER, "shadow").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client
            .say(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers, gzip\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Up: 9\r\n\r\n",
            )
            .await;
        let answer = client.hear().await;
        assert_eq!(
            (answer.text().as_str(), answer.trailers.to_lowercase().as_str()),
            ("abc", "x-sum: 7\r\n")
        );
        proxy.settled().await;
        for request in [main.last(), shadow.last()] {
            assert_eq!(
                (request.body.as_slice(), request.trailers.to_lowercase().as_str()),
                (&b"hi"[..], "x-up: 9\r\n")
            );
            assert_eq!(request.field("te"), Some("trailers"));
        }
    });
}

#[test]
fn old_clients_are_served_as_old_clients() {
    run_in_namespace(|| async {
        let main = answering(MAIN, |request| {
            let keep = request.field("connection").unwrap_or("close");
            format!("HTTP/1.0 200 OK\r\nConnection: {keep}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
        })
        .await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.0\r\n\r\n").await;
        let answer = client.hear().await;
        assert!(answer.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", answer.head);
        assert!(client.ends().await);
        assert!(main.last().head.starts_with("GET / HTTP/1.0\r\n"), "{}", main.last().head);
        let mut client = Wire::to(SHOP).await;
        for _ in 0..2 {
            client.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            let answer = client.hear().await;
            assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", Some("keep-alive")));
        }
    });
}

#[test]
fn a_close_is_said_end_to_end() {
    run_in_namespace(|| async {
        let main = answering(MAIN, |request| {
            let close = if request.head.starts_with("GET /close") { "Connection: close\r\n" } else { "" };
            format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n").into_bytes()
        })
        .await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        client.hear().await;
        assert!(client.ends().await);
        assert_eq!(main.last().field("connection"), Some("close"));
        let mut client = Wire::to(SHOP).await;
        assert_eq!(client.get("/close").await.field("connection"), Some("close"));
        assert!(client.ends().await);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let _proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client
            .say(
                "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\naGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
                 POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            )
            .await;
        for expected in ["main 1", "main 0", "main 3"] {
            assert_eq!(client.hear().await.text(), expected);
        }
        assert_eq!(main.connections(), 1);
    });
}

#[test]
fn who_asked_is_said_only_when_it_is_asked_for() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let proxy = Proxy::serving(ProxiedService {
            traffic_split: TrafficSplit { forwarded: true, ..TrafficSplit::default() },
            ..shop()
        })
        .await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n").await;
        client.hear().await;
        assert_eq!(main.last().field("x-forwarded-for"), Some("10.1.1.1, 127.0.0.1"));
        assert_eq!(main.last().field("x-forwarded-proto"), Some("http"));
        proxy.tell(&config(shop())).await;
        client.get("/").await;
        assert_eq!(main.last().field("x-forwarded-for").or(main.last().field("x-forwarded-proto")), None);
    });
}

#[test]
fn an_answer_with_many_fields_passes_from_the_first_on() {
    run_in_namespace(|| async {
        let fields: String = (0..400).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes();
        let copied = answer.clone();
        let _main = answering(MAIN, move |_| answer.clone()).await;
        let _shadow = answering(OTHER, move |_| copied.clone()).await;
        let proxy = Proxy::serving(mirrored()).await;
        for _ in 0..2 {
            let answer = Wire::to(SHOP).await.get("/").await;
            assert_eq!((answer.text().as_str(), answer.field("x-399")), ("ok", Some("399")));
        }
        assert_eq!(proxy.settled().await.answered, 2, "and as a copy");
    });
}
