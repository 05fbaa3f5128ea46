//! Configuration, forwarding, the end of the proxy.

use super::*;

#[test]
fn answers_of_main_come_back_on_one_upstream_connection() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        for number in 0..3 {
            assert_eq!(client.get("/a?b").await.text(), "main 0");
            assert_eq!(client.post("/a", b"12345").await.text(), "main 5");
            assert_eq!(main.count(), 2 * (number + 1));
        }
        assert_eq!(main.connections(), 1, "one upstream connection per client connection");
        let upstream = proxy.upstream_stats(MAIN).await;
        assert_eq!(upstream.answers["2"], 6);
        assert_eq!(upstream.latency.0.values().sum::<u64>(), 6);
        let stats = proxy.stats().await;
        assert_eq!((stats.services[0].connections, stats.services[0].in_flight), (1, 0));
        assert!(stats.resident_bytes > 0 && !stats.is_suspended && stats.pid == proxy.child.id());
        drop(client);
        wait_until("the connection has ended", async || proxy.stats().await.services[0].connections == 0)
            .await;
    });
}

#[test]
fn port_in_use_does_not_delay_other_services() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let proxy = Proxy::start().await;
        assert!(TcpStream::connect(("127.0.0.1", SHOP)).await.is_err());
        proxy.configure(&build_config(build_shop())).await;
        let taken = TcpListener::bind("127.0.0.1:8001").await.unwrap();
        let mut two = build_config(build_shop());
        two.services.push(ProxiedService {
            service: "other".parse().unwrap(),
            port: Port::new(8001).unwrap(),
            ..build_shop()
        });
        proxy.configure(&two).await;
        let current: ProxyConfig =
            serde_json::from_slice(&proxy.request("GET", "/config", "").await.body).unwrap();
        assert_eq!(current, two);
        let health = async || proxy.request("GET", "/health", "").await.text();
        let missing = r#"{"ports":[8000],"missing":{"8001":"cannot listen on port 8001: "#;
        assert!(health().await.starts_with(missing), "{}", health().await);
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        // As soon as it is free.
        drop(taken);
        wait_until("both are served", async || health().await == r#"{"ports":[8000,8001],"missing":{}}"#)
            .await;
        assert_eq!(Wire::connect(8001).await.get("/").await.text(), "main 0");
    });
}

#[test]
fn invalid_configuration_is_refused() {
    run_in_namespace(|| async {
        let proxy = Proxy::start().await;
        let refused = proxy.request("PUT", "/config", "{").await;
        assert_eq!(refused.status(), 400);
        let mut wrong = build_mirrored_shop();
        wrong.traffic_split.mirrors[0].paths = vec!["/a[".to_owned()];
        let refused = proxy.put(&build_config(wrong)).await;
        assert_eq!(refused.status(), 400);
        assert!(refused.text().contains("is not a path pattern"), "{}", refused.text());
        let other = ProxiedService { service: "other".parse().unwrap(), ..build_shop() };
        let twice = ProxyConfig { services: vec![build_shop(), other], ..ProxyConfig::default() };
        assert!(proxy.put(&twice).await.text().contains("port 8000 is configured twice"));
        assert_eq!(proxy.request("GET", "/nothing", "").await.status(), 404);
    });
}

#[test]
fn second_proxy_is_refused_and_socket_of_dead_proxy_is_replaced() {
    run_in_namespace(|| async {
        let mut proxy = Proxy::start().await;
        let mut second = spawn_proxy(&proxy.socket(), &[]);
        assert_eq!(second.wait().unwrap().code(), Some(1));
        kill(proxy.pid(), Signal::SIGKILL).unwrap();
        proxy.child.wait().unwrap();
        assert!(proxy.socket().exists());
        proxy.child = spawn_proxy(&proxy.socket(), &[]);
        wait_until("the next one answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(proxy.socket()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn control_connection_ends_with_the_process() {
    run_in_namespace(|| async {
        let proxy = Proxy::start().await;
        let mut kept = Wire::new(UnixStream::connect(proxy.socket()).await.unwrap());
        kept.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(kept.receive().await.status(), 200);
        kill(proxy.pid(), Signal::SIGKILL).unwrap();
        assert!(kept.is_closed().await);
    });
}

#[test]
fn workers_share_a_port() {
    run_in_namespace(|| async {
        let main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_flags(&["--workers", "3"]).await;
        assert_eq!(
            proxy.request("GET", "/health", "").await.text(),
            r#"{"ports":[],"missing":{}}"#,
            "there is no configuration yet"
        );
        proxy.configure(&build_config(build_mirrored_shop())).await;
        assert_eq!(proxy.request("GET", "/health", "").await.text(), r#"{"ports":[8000],"missing":{}}"#);
        let shadow = start_server(OTHER, "shadow").await;
        for _ in 0..40 {
            assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
        }
        let mut v6 = Wire::new(TcpStream::connect("[::1]:8000").await.unwrap());
        assert_eq!(v6.get("/").await.text(), "main 0");
        assert_eq!((main.count(), proxy.wait_until_settled().await.selected), (41, 41));
        wait_until("every copy came", async || shadow.count() == 41).await;
        assert_eq!(proxy.upstream_stats(MAIN).await.answers["2"], 41);
        assert_eq!(proxy.request("GET", "/health", "").await.status(), 200);
    });
}

#[test]
fn next_request_goes_to_the_new_main() {
    run_in_namespace(|| async {
        let (_main, _other) = (start_server(MAIN, "old").await, start_server(OTHER, "new").await);
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        assert_eq!(client.get("/").await.text(), "old 0");
        proxy
            .configure(&build_config(ProxiedService {
                main: build_upstream(OTHER),
                other_upstreams: vec![build_upstream(MAIN)],
                ..build_shop()
            }))
            .await;
        assert_eq!(client.get("/").await.text(), "new 0");
    });
}

#[test]
fn idle_connections_to_old_main_are_closed_at_once() {
    run_in_namespace(|| async {
        let (ended, requests) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (ended_counter, request_counter) = (ended.clone(), requests.clone());
        serve_connections(MAIN, move |mut wire| {
            let (ended_counter, request_counter) = (ended_counter.clone(), request_counter.clone());
            async move {
                while wire.try_receive().await.is_some() {
                    *request_counter.lock().unwrap() += 1;
                    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
                *ended_counter.lock().unwrap() += 1;
            }
        })
        .await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.get("/").await;
        assert_eq!(*ended.lock().unwrap(), 0);
        proxy
            .configure(&build_config(ProxiedService {
                main: build_upstream(OTHER),
                other_upstreams: Vec::new(),
                ..build_shop()
            }))
            .await;
        wait_until("it is closed", async || *ended.lock().unwrap() == 1).await;
    });
}

#[test]
fn absent_main_is_answered_with_502() {
    run_in_namespace(|| async {
        let proxy = Proxy::start_with_service(build_shop()).await;
        let answer = Wire::connect(SHOP).await.get("/").await;
        assert_eq!((answer.status(), answer.field("connection")), (502, Some("close")));
        let stats = proxy.stats().await;
        assert_eq!(stats.services[0].rejected["connect"], 1);
        assert_eq!(proxy.upstream_stats(MAIN).await.errors["connect"], 1);
    });
}

#[test]
fn draining_service_closes_each_connection_with_its_next_answer() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        assert_eq!(client.get("/").await.field("connection"), None);
        proxy.configure(&build_config(ProxiedService { draining: true, ..build_shop() })).await;
        assert_eq!(proxy.stats().await.services[0].connections, 1, "an idle one is left open");
        assert_eq!(client.get("/").await.field("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn sigterm_finishes_requests_in_flight() {
    run_in_namespace(|| async {
        let (go, wait) = tokio::sync::watch::channel(false);
        serve_connections(MAIN, move |mut wire| {
            let mut wait = wait.clone();
            async move {
                wire.receive().await;
                wait.wait_for(|go| *go).await.unwrap();
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
                wire.is_closed().await;
            }
        })
        .await;
        let mut proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        wait_until("it is in flight", async || proxy.stats().await.services[0].in_flight == 1).await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        wait_until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err())
            .await;
        go.send(true).unwrap();
        let answer = client.receive().await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("close")));
        assert_eq!(proxy.wait_for_exit().await, Some(0));
        assert!(!proxy.socket().exists());
    });
}

#[test]
fn sigterm_waits_for_idle_connections_until_the_drain_limit() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let mut proxy = Proxy::start_with_flags(&["--drain-limit", "1s"]).await;
        proxy.configure(&build_config(build_shop())).await;
        let mut client = Wire::connect(SHOP).await;
        client.get("/").await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        assert!(client.is_closed().await);
        assert_eq!(proxy.wait_for_exit().await, Some(0));
    });
}

#[test]
fn removed_service_closes_each_connection_with_its_next_answer() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let proxy = Proxy::start_with_service(build_mirrored_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.get("/").await;
        proxy.configure(&ProxyConfig::default()).await;
        wait_until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err())
            .await;
        let answer = client.get("/").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("main 0", Some("close")));
        assert!(client.is_closed().await);
        proxy.configure(&build_config(build_shop())).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "main 0");
    });
}

#[test]
fn port_that_moves_to_another_service_stays_open() {
    run_in_namespace(|| async {
        let (_main, _other) = (start_server(MAIN, "main").await, start_server(OTHER, "other").await);
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut before = Wire::connect(SHOP).await;
        assert_eq!(before.get("/").await.text(), "main 0");
        let another = ProxiedService {
            service: "another".parse().unwrap(),
            main: build_upstream(OTHER),
            ..build_shop()
        };
        proxy.configure(&build_config(another)).await;
        assert_eq!(Wire::connect(SHOP).await.get("/").await.text(), "other 0");
        assert_eq!(before.get("/").await.field("connection"), Some("close"));
    });
}

#[test]
fn closing_a_port_resets_no_accepted_connection() {
    run_in_namespace(|| async {
        let _main = start_server(MAIN, "main").await;
        let proxy = Proxy::start().await;
        for _ in 0..10 {
            proxy.configure(&build_config(build_shop())).await;
            let clients: Vec<_> = (0..50).map(|_| Wire::connect(SHOP)).collect();
            let clients = futures_util::future::join_all(clients).await;
            let empty = ProxyConfig::default();
            let requests = clients.into_iter().map(|mut client| async move {
                assert_eq!(client.get("/").await.text(), "main 0");
            });
            tokio::join!(proxy.configure(&empty), futures_util::future::join_all(requests));
        }
    });
}
