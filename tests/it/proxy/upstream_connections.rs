//! The upstream connection of a client connection, and what is tried again on another.

use tokio::sync::watch;

use super::*;

#[test]
fn upstream_connection_closed_while_idle_is_replaced() {
    run_in_namespace(|| async {
        let (closed, served) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (recorder, counted) = (closed.clone(), served.clone());
        serve_connections(MAIN, move |mut wire| {
            let (recorder, counted) = (recorder.clone(), counted.clone());
            async move {
                wire.receive().await;
                *counted.lock().unwrap() += 1;
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                wire.stream.shutdown().await.unwrap();
                // The proxy closes too: it has noticed.
                assert!(wire.is_closed().await);
                *recorder.lock().unwrap() += 1;
            }
        })
        .await;
        let _proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        for number in 1..=20 {
            let answer = client.post("/", b"once").await;
            assert_eq!((answer.status(), answer.field("connection")), (200, None));
            wait_until("it is closed", async || *closed.lock().unwrap() == number).await;
        }
        assert_eq!(*served.lock().unwrap(), 20);
    });
}

#[test]
fn request_that_may_have_been_served_is_never_sent_again() {
    run_in_namespace(|| async {
        let served = Arc::new(Mutex::new(0));
        let counted = served.clone();
        serve_connections(MAIN, move |mut wire| {
            let counted = counted.clone();
            async move {
                wire.receive().await;
                *counted.lock().unwrap() += 1;
            }
        })
        .await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        for number in 1..=5 {
            let mut client = Wire::connect(SHOP).await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
            assert!(client.is_closed().await, "no answer is made up");
            assert_eq!(*served.lock().unwrap(), number);
        }
        assert_eq!(proxy.upstream_stats(MAIN).await.errors["reset"], 5);
    });
}

/// POSTs at the moment when main closes: each is answered, or ends without an answer as it would without the proxy.
#[test]
fn no_request_is_served_twice_when_main_closes_at_that_moment() {
    run_in_namespace(|| async {
        let served = ReceivedRequests::default();
        let recorder = served.clone();
        serve_connections(MAIN, move |mut wire| {
            let recorder = recorder.clone();
            async move {
                loop {
                    let idle = tokio::time::timeout(Duration::from_millis(20), wire.try_receive());
                    let Ok(Some(request)) = idle.await else { return };
                    recorder.requests.lock().unwrap().push(request);
                    if !wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await {
                        return;
                    }
                }
            }
        })
        .await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let clients: Vec<_> = (0..8).map(|client| tokio::spawn(send_posts(client))).collect();
        let (mut answered, mut cut) = (0, 0);
        for client in clients {
            let (ok, none) = client.await.unwrap();
            (answered, cut) = (answered + ok, cut + none);
        }
        assert_eq!(answered + cut, 8 * 25);
        let mut bodies: Vec<_> = served.requests.lock().unwrap().iter().map(Message::text).collect();
        bodies.sort();
        let all = bodies.len();
        bodies.dedup();
        assert_eq!(bodies.len(), all, "something was served twice");
        assert!(answered <= all && all <= answered + cut);
        // The first on a connection of its own has a connection of its own to main, which that is not closing.
        assert!(answered > 0 && cut < 8 * 25 / 2, "{answered} answered, {cut} cut");
        assert!(proxy.stats().await.services[0].rejected.is_empty(), "no answer is made up");
    });
}

async fn send_posts(client: u32) -> (usize, usize) {
    let mut wire = Wire::connect(SHOP).await;
    let (mut answered, mut cut) = (0, 0);
    for number in 0..25 {
        let body = format!("{client}-{number}");
        let length = body.len();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        wire.send(&request).await;
        if let Some(answer) = fail_if_stuck("an answer or the end", wire.try_receive()).await {
            assert_eq!(answer.status(), 200);
            answered += 1;
        } else {
            cut += 1;
            wire = Wire::connect(SHOP).await;
        }
        // The load, not a wait: as long as main's patience.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (answered, cut)
}

/// A server that answers once `may` is true; how many of its connections have ended.
async fn start_delayed_server(
    port: u16,
    name: &'static str,
    may: watch::Receiver<bool>,
) -> (ReceivedRequests, Arc<Mutex<usize>>) {
    let (received, ended) = (ReceivedRequests::default(), Arc::new(Mutex::new(0)));
    let (recorder, over) = (received.clone(), ended.clone());
    serve_connections(port, move |mut wire| {
        let (recorder, over, mut may) = (recorder.clone(), over.clone(), may.clone());
        async move {
            while let Some(request) = wire.try_receive().await {
                recorder.requests.lock().unwrap().push(request);
                may.wait_for(|may| *may).await.unwrap();
                let length = name.len();
                wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}")).await;
            }
            *over.lock().unwrap() += 1;
        }
    })
    .await;
    (received, ended)
}

#[test]
fn request_in_flight_during_a_switch_leaves_no_connection_to_the_old_main() {
    run_in_namespace(|| async {
        let (may, permit) = watch::channel(false);
        let (old, ended) = start_delayed_server(MAIN, "old", permit).await;
        let _new = start_server(OTHER, "new").await;
        let proxy = Proxy::start_with_service(build_shop()).await;
        let mut client = Wire::connect(SHOP).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wait_until("the old main has it", async || old.count() == 1).await;
        let switched = ProxiedService {
            main: build_upstream(OTHER),
            other_upstreams: vec![build_upstream(MAIN)],
            ..build_shop()
        };
        proxy.configure(&build_config(switched)).await;
        may.send_replace(true);
        assert_eq!(client.receive().await.text(), "old", "a request in flight is finished");
        wait_until("the old main is left alone", async || *ended.lock().unwrap() == 1).await;
        assert_eq!(client.get("/").await.text(), "new 0", "on the same connection");
        assert_eq!(old.count(), 1);
    });
}
