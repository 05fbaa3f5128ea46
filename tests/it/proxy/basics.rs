//! Configuration, forwarding, the end of the proxy.

use super::*;

#[test]
fn what_main_answers_comes_back_on_one_connection() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        for number in 0..3 {
            assert_eq!(client.get("/a?b").await.text(), "main 0");
            assert_eq!(client.post("/a", b"12345").await.text(), "main 5");
            assert_eq!(main.count(), 2 * (number + 1));
        }
        assert_eq!(main.connections(), 1, "one upstream connection per client connection");
        let leg = proxy.leg(MAIN).await;
        assert_eq!(leg.answers["2"], 6);
        assert_eq!(leg.latency.0.values().sum::<u64>(), 6);
        let stats = proxy.stats().await;
        assert_eq!((stats.services[0].connections, stats.services[0].in_flight), (1, 0));
        assert!(stats.resident_bytes > 0 && !stats.is_suspended && stats.pid == proxy.child.id());
        drop(client);
        until("the connection is gone", async || proxy.stats().await.services[0].connections == 0).await;
    });
}

#[test]
fn nothing_listens_before_it_is_told_and_a_taken_port_keeps_nobody_else_waiting() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let proxy = Proxy::start().await;
        assert!(TcpStream::connect(("127.0.0.1", SHOP)).await.is_err());
        proxy.tell(&config(shop())).await;
        let taken = TcpListener::bind("127.0.0.1:8001").await.unwrap();
        let mut two = config(shop());
        two.services.push(ProxiedService {
            service: "other".parse().unwrap(),
            port: Port::new(8001).unwrap(),
            ..shop()
        });
        proxy.tell(&two).await;
        let told: ProxyConfig = serde_json::from_slice(&proxy.ask("GET", "/config", "").await.body).unwrap();
        assert_eq!(told, two);
        let health = async || proxy.ask("GET", "/health", "").await.text();
        let missing = r#"{"ports":[8000],"missing":{"8001":"cannot listen on port 8001: "#;
        assert!(health().await.starts_with(missing), "{}", health().await);
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        // As soon as it is free.
        drop(taken);
        until("both are served", async || health().await == r#"{"ports":[8000,8001],"missing":{}}"#).await;
        assert_eq!(Wire::to(8001).await.get("/").await.text(), "main 0");
    });
}

#[test]
fn what_is_not_understood_is_refused() {
    run_in_namespace(|| async {
        let proxy = Proxy::start().await;
        let refused = proxy.ask("PUT", "/config", "{").await;
        assert_eq!(refused.status(), 400);
        let mut wrong = mirrored();
        wrong.traffic_split.mirrors[0].paths = vec!["/a[".to_owned()];
        let refused = proxy.put(&config(wrong)).await;
        assert_eq!(refused.status(), 400);
        assert!(refused.text().contains("is not a path pattern"), "{}", refused.text());
        let other = ProxiedService { service: "other".parse().unwrap(), ..shop() };
        let twice = ProxyConfig { services: vec![shop(), other], ..ProxyConfig::default() };
        assert!(proxy.put(&twice).await.text().contains("port 8000 is configured twice"));
        assert_eq!(proxy.ask("GET", "/nothing", "").await.status(), 404);
    });
}

#[test]
fn a_second_proxy_is_refused_and_a_dead_ones_socket_is_replaced() {
    run_in_namespace(|| async {
        let mut proxy = Proxy::start().await;
        let mut second = spawn(&proxy.socket(), &[]);
        assert_eq!(second.wait().unwrap().code(), Some(1));
        kill(proxy.pid(), Signal::SIGKILL).unwrap();
        proxy.child.wait().unwrap();
        assert!(proxy.socket().exists());
        proxy.child = spawn(&proxy.socket(), &[]);
        until("the next one answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(proxy.socket()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn a_kept_control_connection_ends_with_the_process() {
    run_in_namespace(|| async {
        let proxy = Proxy::start().await;
        let mut held = Wire::new(UnixStream::connect(proxy.socket()).await.unwrap());
        held.say("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(held.hear().await.status(), 200);
        kill(proxy.pid(), Signal::SIGKILL).unwrap();
        assert!(held.ends().await);
    });
}

#[test]
fn workers_share_a_port() {
    run_in_namespace(|| async {
        let main = server(MAIN, "main").await;
        let proxy = Proxy::with(&["--workers", "3"]).await;
        assert_eq!(
            proxy.ask("GET", "/health", "").await.text(),
            r#"{"ports":[],"missing":{}}"#,
            "not told yet"
        );
        proxy.tell(&config(mirrored())).await;
        assert_eq!(proxy.ask("GET", "/health", "").await.text(), r#"{"ports":[8000],"missing":{}}"#);
        let shadow = server(OTHER, "shadow").await;
        for _ in 0..40 {
            assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
        }
        let mut v6 = Wire::new(TcpStream::connect("[::1]:8000").await.unwrap());
        assert_eq!(v6.get("/").await.text(), "main 0");
        assert_eq!((main.count(), proxy.settled().await.selected), (41, 41));
        until("every copy came", async || shadow.count() == 41).await;
        assert_eq!(proxy.leg(MAIN).await.answers["2"], 41);
        assert_eq!(proxy.ask("GET", "/health", "").await.status(), 200);
    });
}

#[test]
fn another_main_is_followed_at_the_next_request() {
    run_in_namespace(|| async {
        let (_main, _other) = (server(MAIN, "old").await, server(OTHER, "new").await);
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        assert_eq!(client.get("/").await.text(), "old 0");
        proxy
            .tell(&config(ProxiedService {
                main: upstream(OTHER),
                other_upstreams: vec![upstream(MAIN)],
                ..shop()
            }))
            .await;
        assert_eq!(client.get("/").await.text(), "new 0");
    });
}

#[test]
fn an_old_main_loses_its_idle_connections_at_once() {
    run_in_namespace(|| async {
        let (ended, told) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (noted, asked) = (ended.clone(), told.clone());
        listen(MAIN, move |mut wire| {
            let (noted, asked) = (noted.clone(), asked.clone());
            async move {
                while wire.try_hear().await.is_some() {
                    *asked.lock().unwrap() += 1;
                    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
                *noted.lock().unwrap() += 1;
            }
        })
        .await;
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.get("/").await;
        assert_eq!(*ended.lock().unwrap(), 0);
        proxy
            .tell(&config(ProxiedService { main: upstream(OTHER), other_upstreams: Vec::new(), ..shop() }))
            .await;
        until("it is closed", async || *ended.lock().unwrap() == 1).await;
    });
}

#[test]
fn a_main_that_is_not_there_is_a_502() {
    run_in_namespace(|| async {
        let proxy = Proxy::serving(shop()).await;
        let answer = Wire::to(SHOP).await.get("/").await;
        assert_eq!((answer.status(), answer.field("connection")), (502, Some("close")));
        let stats = proxy.stats().await;
        assert_eq!(stats.services[0].rejected["connect"], 1);
        assert_eq!(proxy.leg(MAIN).await.errors["connect"], 1);
    });
}

#[test]
fn a_draining_service_closes_each_connection_with_its_next_answer() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        assert_eq!(client.get("/").await.field("connection"), None);
        proxy.tell(&config(ProxiedService { draining: true, ..shop() })).await;
        assert_eq!(proxy.stats().await.services[0].connections, 1, "an idle one is left open");
        assert_eq!(client.get("/").await.field("connection"), Some("close"));
        assert!(client.ends().await);
    });
}

#[test]
fn told_to_end_it_finishes_what_is_in_flight() {
    run_in_namespace(|| async {
        let (go, wait) = tokio::sync::watch::channel(false);
        listen(MAIN, move |mut wire| {
            let mut wait = wait.clone();
            async move {
                wire.hear().await;
                wait.wait_for(|go| *go).await.unwrap();
                wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
                wire.ends().await;
            }
        })
        .await;
        let mut proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        until("it is in flight", async || proxy.stats().await.services[0].in_flight == 1).await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err()).await;
        go.send(true).unwrap();
        let answer = client.hear().await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("done", Some("close")));
        assert_eq!(proxy.ended().await, Some(0));
        assert!(!proxy.socket().exists());
    });
}

#[test]
fn told_to_end_it_waits_for_idle_connections_no_longer_than_its_limit() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let mut proxy = Proxy::with(&["--drain-limit", "1s"]).await;
        proxy.tell(&config(shop())).await;
        let mut client = Wire::to(SHOP).await;
        client.get("/").await;
        kill(proxy.pid(), Signal::SIGTERM).unwrap();
        assert!(client.ends().await);
        assert_eq!(proxy.ended().await, Some(0));
    });
}

#[test]
fn a_service_that_is_told_no_more_ends_with_its_next_answers() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let proxy = Proxy::serving(mirrored()).await;
        let mut client = Wire::to(SHOP).await;
        client.get("/").await;
        proxy.tell(&ProxyConfig::default()).await;
        until("nothing is accepted", async || TcpStream::connect(("127.0.0.1", SHOP)).await.is_err()).await;
        let answer = client.get("/").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("main 0", Some("close")));
        assert!(client.ends().await);
        proxy.tell(&config(shop())).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "main 0");
    });
}

#[test]
fn a_port_that_goes_to_another_service_stays_open() {
    run_in_namespace(|| async {
        let (_main, _other) = (server(MAIN, "main").await, server(OTHER, "other").await);
        let proxy = Proxy::serving(shop()).await;
        let mut before = Wire::to(SHOP).await;
        assert_eq!(before.get("/").await.text(), "main 0");
        let another = ProxiedService { service: "another".parse().unwrap(), main: upstream(OTHER), ..shop() };
        proxy.tell(&config(another)).await;
        assert_eq!(Wire::to(SHOP).await.get("/").await.text(), "other 0");
        assert_eq!(before.get("/").await.field("connection"), Some("close"));
    });
}

#[test]
fn nobody_who_was_let_in_is_reset_when_a_port_is_closed() {
    run_in_namespace(|| async {
        let _main = server(MAIN, "main").await;
        let proxy = Proxy::start().await;
        for _ in 0..10 {
            proxy.tell(&config(shop())).await;
            let clients: Vec<_> = (0..50).map(|_| Wire::to(SHOP)).collect();
            let clients = futures_util::future::join_all(clients).await;
            let told = ProxyConfig::default();
            let asked = clients.into_iter().map(|mut client| async move {
                assert_eq!(client.get("/").await.text(), "main 0");
            });
            tokio::join!(proxy.tell(&told), futures_util::future::join_all(asked));
        }
    });
}
