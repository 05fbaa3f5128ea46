//! Behaviour of hyper that a client or a server would notice: a test for each (docs/design/proxy.md#hyper).

use super::*;

fn build_ok_answer(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn chunked_body_of_a_get_is_forwarded() {
    run_in_namespace(|| async {
        let (main, shadow) = (start_server(MAIN, "main").await, start_server(OTHER, "shadow").await);
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        for method in ["GET", "DELETE", "OPTIONS"] {
            client
                .send(&format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                ))
                .await;
            assert_eq!(client.receive().await.text(), "main 3", "{method}");
        }
        proxy.wait_until_settled().await;
        assert_eq!((main.last().body, shadow.last().body), (b"abc".to_vec(), b"abc".to_vec()));
    });
}

#[test]
fn expect_100_continue_is_answered_by_main() {
    run_in_namespace(|| async {
        let shadow = start_server(OTHER, "shadow").await;
        serve_connections(MAIN, |mut wire| async move {
            let head = wire.receive_head().await.unwrap();
            assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
            if head.starts_with("POST /no") {
                wire.send("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
            } else {
                wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(wire.read_bytes(5).await.unwrap(), b"hello");
                wire.send_bytes(&build_ok_answer("yes")).await;
            }
            wire.is_closed().await;
        })
        .await;
        let _proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let head = |path| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        };
        let mut client = Wire::connect(SHOP).await;
        client.send(&head("/no")).await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.text().as_str()), (417, "no"), "no 100 comes before it");
        let mut client = Wire::connect(SHOP).await;
        client.send(&head("/yes")).await;
        assert_eq!(client.receive_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello").await;
        assert_eq!(client.receive().await.text(), "yes");
        wait_until("the copy came", async || shadow.count() == 1).await;
        assert_eq!((shadow.last().field("expect"), shadow.last().body), (None, b"hello".to_vec()));
    });
}

#[test]
fn expect_100_continue_times_out_when_main_ignores_it() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        assert_eq!(client.receive_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello").await;
        assert_eq!(client.receive().await.text(), "main 5");
    });
}

#[test]
fn early_hints_do_not_hide_the_answer() {
    run_in_namespace(|| async {
        let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_vec();
        let _main = start_server_with(MAIN, move |_| [hint.clone(), build_ok_answer("real")].concat()).await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "real");
    });
}

/// Sends the bytes on a connection that was used before and on a fresh one; returns the bytes that main received.
async fn send_unparsable_head(bytes: &[u8]) -> Vec<String> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let recorder = heads.clone();
    serve_connections(MAIN, move |mut wire| {
        let recorder = recorder.clone();
        async move {
            while let Some(head) = wire.receive_head().await {
                recorder.lock().unwrap().push(head);
                wire.send_bytes(&build_ok_answer("main")).await;
            }
        }
    })
    .await;
    let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
    let _shadow = start_server(OTHER, "shadow").await;
    let mut used = Wire::connect(SHOP).await;
    assert_eq!(used.get("/first").await.text(), "main");
    for mut client in [used, Wire::connect(SHOP).await] {
        client.send_bytes(bytes).await;
        assert_eq!(client.receive().await.text(), "main");
        assert_eq!(client.get("/next").await.text(), "main", "the connection goes on");
    }
    assert_eq!(proxy.stats().await.services[0].rejected["passed_through"], 2);
    let heads = heads.lock().unwrap();
    assert_eq!((heads.len(), &heads[1], &heads[2]), (5, &heads[3], &heads[4]));
    vec![heads[1].clone()]
}

#[test]
fn head_that_hyper_rejects_is_passed_through_unchanged() {
    for line in [
        "GET /a<b>`c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?q=\"<x>\" HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nName : value\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nName: folded\r\n value\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
    ] {
        run_in_namespace(move || async move {
            assert_eq!(send_unparsable_head(line.as_bytes()).await, [line]);
        });
    }
    run_in_namespace(|| async {
        let got = send_unparsable_head(b"GET /\xe9\xff HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(got, [String::from_utf8_lossy(b"GET /\xe9\xff HTTP/1.1\r\nHost: a\r\n\r\n")]);
    });
}

#[test]
fn heads_of_any_size_reach_main() {
    run_in_namespace(|| async {
        let fields: String = (0..300).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(send_unparsable_head(head.as_bytes()).await, [head]);
    });
    run_in_namespace(|| async {
        let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
        assert_eq!(send_unparsable_head(head.as_bytes()).await, [head]);
    });
    run_in_namespace(|| async {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(700_000));
        assert_eq!(send_unparsable_head(head.as_bytes()).await, [head]);
    });
}

#[test]
fn half_closed_client_gets_its_answer() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.receive().await.text(), "main 0");
        assert!(client.is_closed().await);
    });
}

#[test]
fn client_reset_ends_its_request() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(false));
        let recorder = ended.clone();
        serve_connections(MAIN, move |mut wire| {
            let recorder = recorder.clone();
            async move {
                wire.receive().await;
                assert!(wire.is_closed().await);
                *recorder.lock().unwrap() = true;
            }
        })
        .await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wait_until("it is in flight", async || proxy.stats().await.services[0].in_flight == 1).await;
        client.stream.set_zero_linger().unwrap();
        drop(client);
        wait_until("main sees the end", async || *ended.lock().unwrap()).await;
        wait_until("it is counted", async || {
            proxy.upstream_stats(MAIN).await.errors.get("client") == Some(&1)
        })
        .await;
    });
}

#[test]
fn chunked_overrides_content_length_and_closes_the_connection() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
        assert_eq!(client.receive().await.text(), "main 5");
        assert!(client.is_closed().await);
        assert_eq!(main.last().field("content-length"), None);
    });
}

#[test]
fn header_names_keep_their_case_and_no_header_is_added() {
    run_in_namespace(|| async {
        // The length comes last, and fields of one name together: the only order that is lost.
        let answer = "HTTP/1.1 200 Fine\r\nX-ODD-case: 1\r\nSet-Cookie: a=1\r\nsEt-cOOkie: b=2\r\n\
                      content-LENGTH: 0\r\n\r\n";
        let main = start_server_with(MAIN, move |_| answer.as_bytes().to_vec()).await;
        let _shadow = start_server(OTHER, "shadow").await;
        let _proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let request = "GET / HTTP/1.1\r\nhOST: a\r\nX-weird-CASE: 1\r\nACCEPT: */*\r\n\r\n";
        let mut client = Wire::connect(SHOP).await;
        client.send(request).await;
        assert_eq!(client.receive().await.head, answer, "no Date, no Via, the same reason");
        assert_eq!(main.last().head, request);
    });
}

#[test]
fn answers_without_a_body_keep_their_content_length() {
    run_in_namespace(|| async {
        let _main = start_server_with(MAIN, |request| {
            let status = if request.head.starts_with("HEAD") { "200 OK" } else { "304 Not Modified" };
            format!("HTTP/1.1 {status}\r\nETag: x\r\nContent-Length: 5\r\n\r\n").into_bytes()
        })
        .await;
        let _proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.receive_head().await.unwrap();
        assert!(head.contains("Content-Length: 5\r\n"), "{head}");
        client.send("GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: x\r\n\r\n").await;
        let head = client.receive_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\nETag: x\r\n"), "{head}");
    });
}

#[test]
fn close_delimited_answer_is_forwarded_whole() {
    run_in_namespace(|| async {
        serve_connections(MAIN, |mut wire| async move {
            let request = wire.receive().await;
            let close = if request.head.starts_with("GET /close") { "Connection: close\r\n" } else { "" };
            wire.send(&format!("HTTP/1.1 200 OK\r\n{close}\r\nuntil the end")).await;
        })
        .await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        let answer = client.get("/").await;
        assert_eq!(
            (answer.text().as_str(), answer.field("transfer-encoding")),
            ("until the end", Some("chunked"))
        );
        let answer = client.get("/close").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("until the end", Some("close")));
        assert!(client.is_closed().await);
    });
}

#[test]
fn truncated_answer_is_truncated_for_the_client() {
    run_in_namespace(|| async {
        serve_connections(MAIN, |mut wire| async move {
            wire.receive().await;
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        })
        .await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(fail_if_stuck("the end", client.try_receive()).await.is_none(), "a part never looks whole");
    });
}

#[test]
fn trailers_are_forwarded_both_ways_and_to_shadows() {
    run_in_namespace(|| async {
        let chunked = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
        let main = start_server_with(MAIN, move |_| chunked.as_bytes().to_vec()).await;
        let shadow = start_server(OTHER, "shadow").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers, gzip\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Up: 9\r\n\r\n",
            )
            .await;
        let answer = client.receive().await;
        assert_eq!(
            (answer.text().as_str(), answer.trailers.to_lowercase().as_str()),
            ("abc", "x-sum: 7\r\n")
        );
        proxy.wait_until_settled().await;
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
fn http10_clients_get_http10_semantics() {
    run_in_namespace(|| async {
        let main = start_server_with(MAIN, |request| {
            let keep = request.field("connection").unwrap_or("close");
            format!("HTTP/1.0 200 OK\r\nConnection: {keep}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
        })
        .await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let answer = client.receive().await;
        assert!(answer.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", answer.head);
        assert!(client.is_closed().await);
        assert!(main.last().head.starts_with("GET / HTTP/1.0\r\n"), "{}", main.last().head);
        let mut client = Wire::connect(SHOP).await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            let answer = client.receive().await;
            assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", Some("keep-alive")));
        }
    });
}

#[test]
fn connection_close_is_forwarded_end_to_end() {
    run_in_namespace(|| async {
        let main = start_server_with(MAIN, |request| {
            let close = if request.head.starts_with("GET /close") { "Connection: close\r\n" } else { "" };
            format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n").into_bytes()
        })
        .await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        client.receive().await;
        assert!(client.is_closed().await);
        assert_eq!(main.last().field("connection"), Some("close"));
        let mut client = Wire::connect(SHOP).await;
        assert_eq!(client.get("/close").await.field("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let _proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client
            .send(
                "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\naGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
                 POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            )
            .await;
        for expected in ["main 1", "main 0", "main 3"] {
            assert_eq!(client.receive().await.text(), expected);
        }
        assert_eq!(main.connections(), 1);
    });
}

#[test]
fn forwarded_headers_are_added_only_on_request() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(ProxiedService {
            traffic_split: TrafficSplit { forwarded: true, ..TrafficSplit::default() },
            ..build_shop()
        })
        .await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n").await;
        client.receive().await;
        assert_eq!(main.last().field("x-forwarded-for"), Some("10.1.1.1, 127.0.0.1"));
        assert_eq!(main.last().field("x-forwarded-proto"), Some("http"));
        proxy.configure(&build_config(build_shop())).await;
        client.get("/").await;
        assert_eq!(main.last().field("x-forwarded-for").or(main.last().field("x-forwarded-proto")), None);
    });
}

#[test]
fn answer_with_many_fields_is_forwarded_from_the_first_request_on() {
    run_in_namespace(|| async {
        let fields: String = (0..400).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes();
        let copied = answer.clone();
        let _main = start_server_with(MAIN, move |_| answer.clone()).await;
        let _shadow = start_server_with(OTHER, move |_| copied.clone()).await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        for _ in 0..2 {
            let answer = Wire::connect(SHOP).await.get("/").await;
            assert_eq!((answer.text().as_str(), answer.field("x-399")), ("ok", Some("399")));
        }
        assert_eq!(proxy.wait_until_settled().await.answered, 2, "and as a copy");
    });
}
