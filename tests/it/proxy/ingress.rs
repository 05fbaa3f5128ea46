//! Other ingress than HTTP/1 on a port of a service: health checks, the gateway, HTTP/2.

use hyper::body::Bytes;
use switchman::model::deployment::Access;

use super::*;

fn redirect_check_port(program: &str) {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = Command::new(program);
    let rule = "-w -t nat -A OUTPUT -p tcp --dport 8888 -j REDIRECT --to-ports 8000";
    assert!(command.args(rule.split(' ')).status().unwrap().success());
}

#[test]
fn health_check_goes_to_main_and_is_not_counted() {
    run_in_namespace(|| async {
        redirect_check_port("iptables");
        redirect_check_port("ip6tables");
        let (main, shadow) = (start_server(MAIN, "main").await, start_server(OTHER, "other").await);
        let mut service = build_mirrored_shop();
        service.traffic_split.canary = Some(build_canary("100"));
        let proxy = Proxy::start_with_service(service).await;
        for address in ["127.0.0.1:8888", "[::1]:8888"] {
            let mut check = Wire::new(TcpStream::connect(address).await.unwrap());
            assert_eq!(check.get("/health").await.text(), "main 0", "{address}");
            let stats = proxy.stats().await.services[0].clone();
            assert_eq!((stats.connections, stats.shadows[0].selected), (0, 0));
            assert!(stats.upstreams.iter().all(|upstream| upstream.answers.is_empty()), "{stats:?}");
        }
        assert_eq!((main.count(), shadow.count()), (2, 0));
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "other 0", "others go to the canary");
    });
}

/// Seed rows D7, D33, R27 (docs/design/seed-systems.md).
/// Rows: D33, R27.
#[test]
fn gateway_resolves_services_and_versions() {
    run_in_namespace(|| async {
        let (main, other) = (start_server(MAIN, "main").await, start_server(OTHER, "other").await);
        let proxy = Proxy::start().await;
        proxy
            .configure(&ProxyConfig { gateway: Port::new(8080), ..build_config(build_mirrored_shop()) })
            .await;
        let mut client = Wire::connect(8080).await;
        for path in ["/services/shop", "/services/shop/", "/services/shop_1.0.0/"] {
            assert_eq!(client.get(path).await.text(), "main 0");
            assert!(main.last().head.starts_with("GET / HTTP/1.1\r\n"), "{}", main.last().head);
        }
        let copied = proxy.wait_until_settled().await.selected;
        assert_eq!((copied, other.count()), (2, 2), "a version alone is not copied");
        assert_eq!(client.get("/services/shop_1.0.1/a/b?c=d").await.text(), "other 0");
        assert!(other.last().head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"));
        assert_eq!(other.last().field("x-shadow"), None);
        for (path, text) in [
            ("/services/none/", "No service matching none"),
            ("/services/shopping/", "No service matching shopping"),
            ("/services/shop_9.9.9/", "No service matching shop 9.9.9"),
        ] {
            let answer = Wire::connect(8080).await.get(path).await;
            assert_eq!((answer.status(), answer.text().as_str()), (404, text));
        }
        let private = ProxiedService { access: Access::Private, ..build_mirrored_shop() };
        proxy.configure(&ProxyConfig { gateway: Port::new(8080), ..build_config(private) }).await;
        for path in ["/services/shop/", "/services/shop_1.0.1/"] {
            let answer = Wire::connect(8080).await.get(path).await;
            assert_eq!((answer.status(), answer.text().as_str()), (400, "the invoked service is not public"));
        }
        assert_eq!(proxy.stats().await.services[0].rejected["private"], 2);
    });
}

async fn fetch_gateway_error(proxy: &Proxy) -> Option<String> {
    let stats: serde_json::Value =
        serde_json::from_slice(&proxy.request("GET", "/stats", "").await.body).unwrap();
    stats["gateway"].as_str().map(str::to_owned)
}

#[test]
fn gateway_port_in_use_does_not_stop_services() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let taken = TcpListener::bind("127.0.0.1:8080").await.unwrap();
        let proxy = Proxy::start().await;
        proxy.configure(&ProxyConfig { gateway: Port::new(8080), ..build_config(build_shop()) }).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        let reason = fetch_gateway_error(&proxy).await.unwrap();
        assert!(reason.contains("cannot listen on port 8080: "), "{reason}");
        drop(taken);
        wait_until("there is a gateway", async || fetch_gateway_error(&proxy).await.is_none()).await;
        assert_eq!(Wire::connect(8080).await.get("/services/shop/").await.text(), "main 0");
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        proxy.configure(&ProxyConfig { gateway: Port::new(SHOP), ..build_config(build_shop()) }).await;
        assert!(fetch_gateway_error(&proxy).await.unwrap().contains("port 8000"), "the service has it");
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
    });
}

/// An HTTP/2 server that answers with its name and the length of the body.
async fn start_h2_server(port: u16, name: &'static str) -> ReceivedRequests {
    start_h2_server_until(port, name, Arc::default()).await
}

/// Counts its connections that have ended as well.
async fn start_h2_server_until(port: u16, name: &'static str, ended: Arc<Mutex<usize>>) -> ReceivedRequests {
    let received = ReceivedRequests::default();
    let recorder = received.clone();
    serve_connections(port, move |wire| {
        let (recorder, ended) = (recorder.clone(), ended.clone());
        async move {
            *recorder.connections.lock().unwrap() += 1;
            let mut connection = h2::server::handshake(wire.stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let recorder = recorder.clone();
                tokio::spawn(async move {
                    let head =
                        format!("{} {} {:?}", request.method(), request.uri().path(), request.headers());
                    let mut body = request.into_body();
                    let mut all = Vec::new();
                    while let Some(Ok(part)) = body.data().await {
                        body.flow_control().release_capacity(part.len()).unwrap();
                        all.extend_from_slice(&part);
                    }
                    let text = format!("{name} {}", all.len());
                    recorder.requests.lock().unwrap().push(Message {
                        head,
                        body: all,
                        trailers: String::new(),
                    });
                    let mut stream = respond.send_response(hyper::Response::new(()), false).unwrap();
                    stream.send_data(text.into(), false).unwrap();
                    let mut trailers = hyper::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                });
            }
            *ended.lock().unwrap() += 1;
        }
    })
    .await;
    received
}

async fn post_h2(send: &mut h2::client::SendRequest<Bytes>, body: usize) -> (String, bool) {
    let request = hyper::Request::post("http://shop/rpc").header("te", "trailers").body(()).unwrap();
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(vec![b'x'; body]), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        all.extend_from_slice(&part.unwrap());
    }
    let trailers = body.trailers().await.unwrap();
    let status = trailers.is_some_and(|trailers| trailers.get("grpc-status").is_some());
    (String::from_utf8(all).unwrap(), status)
}

#[test]
fn http2_streams_share_one_connection_to_main_and_are_copied() {
    run_in_namespace(|| async {
        let (main, shadow) = (start_h2_server(MAIN, "main").await, start_h2_server(OTHER, "shadow").await);
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let streams = (0..10).map(|number| {
            let mut send = send.clone();
            async move {
                assert_eq!(
                    post_h2(&mut send, number * 1000).await,
                    (format!("main {}", number * 1000), true)
                );
            }
        });
        fail_if_stuck("all streams", futures_util::future::join_all(streams)).await;
        assert_eq!((main.count(), main.connections()), (10, 1));
        let counts = proxy.wait_until_settled().await;
        assert_eq!((counts.answered, shadow.count()), (10, 10), "{counts:?}");
        assert!(shadow.last().head.contains("x-shadow"), "{}", shadow.last().head);
        let stats = proxy.stats().await.services[0].clone();
        assert_eq!((stats.connections, stats.in_flight), (1, 0));
        proxy.configure(&build_config(ProxiedService { draining: true, ..build_mirrored_shop() })).await;
        drop(send);
        wait_until("the connection has ended", async || proxy.stats().await.services[0].connections == 0)
            .await;
    });
}

#[test]
fn idle_http2_connection_to_a_shadow_is_closed() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(0));
        let _main = start_h2_server(MAIN, "main").await;
        let shadow = start_h2_server_until(OTHER, "shadow", ended.clone()).await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for number in 1..=2 {
            post_h2(&mut send, 1).await;
            assert_eq!(proxy.wait_until_settled().await.answered, number);
        }
        assert_eq!(shadow.connections(), 1, "it is kept for a while");
        wait_until("it is closed", async || *ended.lock().unwrap() == 1).await;
    });
}

/// The client of a stream to the old main stays connected; the old main is not delayed by it.
#[test]
fn http2_client_reaches_the_new_main() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(0));
        let old = start_h2_server_until(MAIN, "old", ended.clone()).await;
        let _new = start_h2_server(OTHER, "new").await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(post_h2(&mut send, 1).await.0, "old 1");
        // The head of one more is with the old main while it is switched.
        let request = hyper::Request::post("http://shop/rpc").body(()).unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        wait_until("a second stream is there", async || proxy.stats().await.services[0].in_flight == 1).await;
        let switched = ProxiedService {
            main: build_upstream(OTHER),
            other_upstreams: vec![build_upstream(MAIN)],
            ..build_shop()
        };
        proxy.configure(&build_config(switched)).await;
        body.send_data(Bytes::from_static(b"ab"), true).unwrap();
        let mut answer = fail_if_stuck("an answer", answer).await.unwrap().into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "old 2");
        drop(answer);
        wait_until("the old main is left alone", async || *ended.lock().unwrap() == 1).await;
        assert_eq!((post_h2(&mut send, 3).await.0.as_str(), old.count()), ("new 3", 2));
    });
}

#[test]
fn idle_http2_client_gets_goaway_at_the_end() {
    run_in_namespace(|| async {
        let _main = start_h2_server(MAIN, "main").await;
        let mut proxy = Proxy::start_with_service(build_shop()).await;
        let client = async || {
            let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            let ended = tokio::spawn(connection);
            assert_eq!(post_h2(&mut send, 1).await.0, "main 1");
            (send, ended)
        };
        let (_send, ended) = client().await;
        proxy.configure(&build_config(ProxiedService { draining: true, ..build_shop() })).await;
        fail_if_stuck("the service is drained", ended).await.unwrap().unwrap();
        proxy.configure(&build_config(build_shop())).await;
        let (_send, ended) = client().await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        fail_if_stuck("the proxy ends", ended).await.unwrap().unwrap();
        assert_eq!(proxy.wait_for_exit().await, Some(0));
    });
}

/// Connections to the canary are neither accepted nor refused.
fn drop_packets_to_canary() {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = Command::new("iptables");
    let rule = "-w -A INPUT -p tcp --dport 9001 -j DROP";
    assert!(command.args(rule.split(' ')).status().unwrap().success());
}

/// How many packets that rule has met.
fn count_dropped_packets() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let listed = Command::new("iptables").args(["-w", "-nvxL", "INPUT"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().nth(2).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Each would have waited behind the one before.
#[test]
fn http2_streams_share_one_wait_for_an_absent_canary() {
    run_in_namespace(|| async {
        let main = start_h2_server(MAIN, "main").await;
        drop_packets_to_canary();
        let proxy = Proxy::start().await;
        let mut config = build_config(build_shop_with_canary(build_canary("100")));
        // Shorter than the kernel's patience with a SYN: one packet a try.
        config.proxy_limits.connect_timeout_ms = 800;
        proxy.configure(&config).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let streams = (0..16).map(|_| {
            let mut send = send.clone();
            async move { assert_eq!(post_h2(&mut send, 1).await.0, "main 1") }
        });
        fail_if_stuck("all streams", futures_util::future::join_all(streams)).await;
        assert_eq!((main.count(), proxy.upstream_stats(OTHER).await.fallbacks), (16, 16));
        let tried = count_dropped_packets();
        assert!((1..16).contains(&tried), "{tried} times");
    });
}

#[test]
fn http2_stream_to_main_does_not_wait_for_an_absent_canary() {
    run_in_namespace(|| async {
        let _main = start_h2_server(MAIN, "main").await;
        drop_packets_to_canary();
        let proxy = Proxy::start().await;
        let mark = Some(switchman::model::proxy::FieldMatch { name: "x-canary".to_owned(), value: None });
        let mut config =
            build_config(build_shop_with_canary(Canary { percent: None, header: mark, ..build_canary("0") }));
        // Longer than the test may take.
        config.proxy_limits.connect_timeout_ms = 600_000;
        proxy.configure(&config).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let marked = hyper::Request::get("http://shop/").header("x-canary", "1").body(()).unwrap();
        let _waiting = send.send_request(marked, true).unwrap();
        wait_until("the canary is being connected to", async || count_dropped_packets() > 0).await;
        assert_eq!(fail_if_stuck("an answer", post_h2(&mut send, 1)).await.0, "main 1");
    });
}
