//! The other ways in: health checks, the gateway, HTTP/2.

use hyper::body::Bytes;
use switchman::model::deployment::Access;

use super::*;

fn iptables(program: &str) {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let mut command = Command::new(program);
    let rule = "-w -t nat -A OUTPUT -p tcp --dport 8888 -j REDIRECT --to-ports 8000";
    assert!(command.args(rule.split(' ')).status().unwrap().success());
}

#[test]
fn a_health_check_is_mains_alone_and_not_counted() {
    run_in_namespace(|| async {
        iptables("iptables");
        iptables("ip6tables");
        let (main, shadow) = (server(MAIN, "main").await, server(OTHER, "other").await);
        let mut service = mirrored();
        service.traffic_split.canary = Some(canary("100"));
        let proxy = Proxy::serving(service).await;
        for address in ["127.0.0.1:8888", "[::1]:8888"] {
            let mut check = Wire::new(TcpStream::connect(address).await.unwrap());
            assert_eq!(check.get("/health").await.text(), "main 0", "{address}");
            let stats = proxy.stats().await.services[0].clone();
            assert_eq!((stats.connections, stats.shadows[0].selected), (0, 0));
            assert!(stats.upstreams.iter().all(|leg| leg.answers.is_empty()), "{stats:?}");
        }
        assert_eq!((main.count(), shadow.count()), (2, 0));
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "other 0", "others go to the canary");
    });
}
/// Seed rows D7, D33, R27 (docs/design/seed-systems.md).

#[test]
fn the_gateway_knows_services_and_versions() {
    run_in_namespace(|| async {
        let (main, other) = (server(MAIN, "main").await, server(OTHER, "other").await);
        let proxy = Proxy::start().await;
        proxy.tell(&ProxyConfig { gateway: Port::new(8080), ..config(mirrored()) }).await;
        let mut client = Wire::to(8080).await;
        for path in ["/services/shop", "/services/shop/", "/services/shop_1.0.0/"] {
            assert_eq!(client.get(path).await.text(), "main 0");
            assert!(main.last().head.starts_with("GET / HTTP/1.1\r\n"), "{}", main.last().head);
        }
        let copied = proxy.settled().await.selected;
        assert_eq!((copied, other.count()), (2, 2), "a version alone is not copied");
        assert_eq!(client.get("/services/shop_1.0.1/a/b?c=d").await.text(), "other 0");
        assert!(other.last().head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"));
        assert_eq!(other.last().field("x-shadow"), None);
        for (path, text) in [
            ("/services/none/", "No service matching none"),
            ("/services/shopping/", "No service matching shopping"),
            ("/services/shop_9.9.9/", "No service matching shop 9.9.9"),
        ] {
            let answer = Wire::to(8080).await.get(path).await;
            assert_eq!((answer.status(), answer.text().as_str()), (404, text));
        }
        let private = ProxiedService { access: Access::Private, ..mirrored() };
        proxy.tell(&ProxyConfig { gateway: Port::new(8080), ..config(private) }).await;
        for path in ["/services/shop/", "/services/shop_1.0.1/"] {
            let answer = Wire::to(8080).await.get(path).await;
            assert_eq!((answer.status(), answer.text().as_str()), (400, "the invoked service is not public"));
        }
        assert_eq!(proxy.stats().await.services[0].rejected["private"], 2);
    });
}

async fn no_gateway(proxy: &Proxy) -> Option<String> {
    let stats: serde_json::Value =
        serde_json::from_slice(&proxy.ask("GET", "/stats", "").await.body).unwrap();
    stats["gateway"].as_str().map(str::to_owned)
}

#[test]
fn services_are_served_without_the_gateway_whose_port_is_taken_until_it_is_free() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let taken = TcpListener::bind("127.0.0.1:8080").await.unwrap();
        let proxy = Proxy::start().await;
        proxy.tell(&ProxyConfig { gateway: Port::new(8080), ..config(shop()) }).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        let why = no_gateway(&proxy).await.unwrap();
        assert!(why.contains("cannot listen on port 8080: "), "{why}");
        drop(taken);
        until("there is a gateway", async || no_gateway(&proxy).await.is_none()).await;
        assert_eq!(Wire::to(8080).await.get("/services/shop/").await.text(), "main 0");
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        proxy.tell(&ProxyConfig { gateway: Port::new(SHOP), ..config(shop()) }).await;
        assert!(no_gateway(&proxy).await.unwrap().contains("port 8000"), "the service has it");
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
    });
}

/// An HTTP/2 server that answers with its name and what it was sent.
async fn h2_server(port: u16, name: &'static str) -> ReceivedRequests {
    h2_server_until(port, name, Arc::default()).await
}

/// Counts its connections that have ended as well.
async fn h2_server_until(port: u16, name: &'static str, ended: Arc<Mutex<usize>>) -> ReceivedRequests {
    let seen = ReceivedRequests::default();
    let noted = seen.clone();
    listen(port, move |wire| {
        let (noted, ended) = (noted.clone(), ended.clone());
        async move {
            *noted.connections.lock().unwrap() += 1;
            let mut connection = h2::server::handshake(wire.stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let noted = noted.clone();
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
                    noted.requests.lock().unwrap().push(Message { head, body: all, trailers: String::new() });
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
    seen
}

async fn h2_post(send: &mut h2::client::SendRequest<Bytes>, body: usize) -> (String, bool) {
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
        let (main, shadow) = (h2_server(MAIN, "main").await, h2_server(OTHER, "shadow").await);
        let proxy = Proxy::serving(mirrored()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let streams = (0..10).map(|number| {
            let mut send = send.clone();
            async move {
                assert_eq!(
                    h2_post(&mut send, number * 1000).await,
                    (format!("main {}", number * 1000), true)
                );
            }
        });
        within("all streams", futures_util::future::join_all(streams)).await;
        assert_eq!((main.count(), main.connections()), (10, 1));
        let counts = proxy.settled().await;
        assert_eq!((counts.answered, shadow.count()), (10, 10), "{counts:?}");
        assert!(shadow.last().head.contains("x-shadow"), "{}", shadow.last().head);
        let stats = proxy.stats().await.services[0].clone();
        assert_eq!((stats.connections, stats.in_flight), (1, 0));
        proxy.tell(&config(ProxiedService { draining: true, ..mirrored() })).await;
        drop(send);
        until("it is gone", async || proxy.stats().await.services[0].connections == 0).await;
    });
}

#[test]
fn an_idle_http2_connection_to_a_shadow_is_closed() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(0));
        let _main = h2_server(MAIN, "main").await;
        let shadow = h2_server_until(OTHER, "shadow", ended.clone()).await;
        let proxy = Proxy::serving(mirrored()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for number in 1..=2 {
            h2_post(&mut send, 1).await;
            assert_eq!(proxy.settled().await.answered, number);
        }
        assert_eq!(shadow.connections(), 1, "it is kept for a while");
        until("it is closed", async || *ended.lock().unwrap() == 1).await;
    });
}

/// The client of a stream to the old main stays connected; the old main is not delayed by it.
#[test]
fn an_http2_client_is_led_to_the_new_main() {
    run_in_namespace(|| async {
        let ended = Arc::new(Mutex::new(0));
        let old = h2_server_until(MAIN, "old", ended.clone()).await;
        let _new = h2_server(OTHER, "new").await;
        let proxy = Proxy::serving(shop()).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(h2_post(&mut send, 1).await.0, "old 1");
        // The head of one more is with the old main while it is switched.
        let request = hyper::Request::post("http://shop/rpc").body(()).unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        until("a second stream is there", async || proxy.stats().await.services[0].in_flight == 1).await;
        let switched =
            ProxiedService { main: upstream(OTHER), other_upstreams: vec![upstream(MAIN)], ..shop() };
        proxy.tell(&config(switched)).await;
        body.send_data(Bytes::from_static(b"ab"), true).unwrap();
        let mut answer = within("an answer", answer).await.unwrap().into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "old 2");
        drop(answer);
        until("the old main is left alone", async || *ended.lock().unwrap() == 1).await;
        assert_eq!((h2_post(&mut send, 3).await.0.as_str(), old.count()), ("new 3", 2));
    });
}

#[test]
fn an_idle_http2_client_is_told_that_it_is_the_end() {
    run_in_namespace(|| async {
        let _main = h2_server(MAIN, "main").await;
        let mut proxy = Proxy::serving(shop()).await;
        let client = async || {
            let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            let ended = tokio::spawn(connection);
            assert_eq!(h2_post(&mut send, 1).await.0, "main 1");
            (send, ended)
        };
        let (_send, ended) = client().await;
        proxy.tell(&config(ProxiedService { draining: true, ..shop() })).await;
        within("the service is drained", ended).await.unwrap().unwrap();
        proxy.tell(&config(shop())).await;
        let (_send, ended) = client().await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        within("the proxy ends", ended).await.unwrap().unwrap();
        assert_eq!(proxy.ended().await, Some(0));
    });
}

/// Connections to the canary are neither accepted nor refused.
fn nobody_is_at_the_canary() {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let mut command = Command::new("iptables");
    let rule = "-w -A INPUT -p tcp --dport 9001 -j DROP";
    assert!(command.args(rule.split(' ')).status().unwrap().success());
}

/// How many packets that rule has met.
fn met() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let listed = Command::new("iptables").args(["-w", "-nvxL", "INPUT"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().nth(2).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Each would have waited behind the one before.
#[test]
fn http2_streams_wait_together_for_a_canary_that_is_not_there() {
    run_in_namespace(|| async {
        let main = h2_server(MAIN, "main").await;
        nobody_is_at_the_canary();
        let proxy = Proxy::start().await;
        let mut told = config(with_canary(canary("100")));
        // Shorter than the kernel's patience with a SYN: one packet a try.
        told.proxy_limits.connect_timeout_ms = 800;
        proxy.tell(&told).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let streams = (0..16).map(|_| {
            let mut send = send.clone();
            async move { assert_eq!(h2_post(&mut send, 1).await.0, "main 1") }
        });
        within("all streams", futures_util::future::join_all(streams)).await;
        assert_eq!((main.count(), proxy.leg(OTHER).await.fallbacks), (16, 16));
        let tried = met();
        assert!((1..16).contains(&tried), "{tried} times");
    });
}

#[test]
fn an_http2_stream_to_main_does_not_wait_for_one_to_a_canary_that_is_not_there() {
    run_in_namespace(|| async {
        let _main = h2_server(MAIN, "main").await;
        nobody_is_at_the_canary();
        let proxy = Proxy::start().await;
        let mark = Some(switchman::model::proxy::FieldMatch { name: "x-canary".to_owned(), value: None });
        let mut told = config(with_canary(Canary { percent: None, header: mark, ..canary("0") }));
        // Longer than the test may take.
        told.proxy_limits.connect_timeout_ms = 600_000;
        proxy.tell(&told).await;
        let stream = TcpStream::connect(("127.0.0.1", SHOP)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let marked = hyper::Request::get("http://shop/").header("x-canary", "1").body(()).unwrap();
        let _waiting = send.send_request(marked, true).unwrap();
        until("the canary is being connected to", async || met() > 0).await;
        assert_eq!(within("an answer", h2_post(&mut send, 1)).await.0, "main 1");
    });
}
