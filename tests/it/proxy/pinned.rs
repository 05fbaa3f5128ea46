//! The upstream connection of a client connection, and what is tried again on another.

use tokio::sync::watch;

use super::*;

#[test]
fn a_connection_that_main_closed_while_idle_is_replaced() {
    run_in_namespace(|| async {
        let (closed, served) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (noted, counted) = (closed.clone(), served.clone());
        listen(MAIN, move |mut wire| {
            let (noted, counted) = (noted.clone(), counted.clone());
            async move {
                wire.hear().await;
                *counted.lock().unwrap() += 1;
                wire.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                wire.stream.shutdown().await.unwrap();
                // The proxy closes too: it has noticed.
                assert!(wire.ends().await);
                *noted.lock().unwrap() += 1;
            }
        })
        .await;
        let _proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        for number in 1..=20 {
            let answer = client.post("/", b"once").await;
            assert_eq!((answer.status(), answer.field("connection")), (200, None));
            until("it is closed", async || *closed.lock().unwrap() == number).await;
        }
        assert_eq!(*served.lock().unwrap(), 20);
    });
}

#[test]
fn a_request_that_may_have_been_served_is_never_sent_again() {
    run_in_namespace(|| async {
        let served = Arc::new(Mutex::new(0));
        let counted = served.clone();
        listen(MAIN, move |mut wire| {
            let counted = counted.clone();
            async move {
                wire.hear().await;
                *counted.lock().unwrap() += 1;
            }
        })
        .await;
        let proxy = Proxy::serving(shop()).await;
        for number in 1..=5 {
            let mut client = Wire::to(SHOP).await;
            client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
            assert!(client.ends().await, "no answer is made up");
            assert_eq!(*served.lock().unwrap(), number);
        }
        assert_eq!(proxy.leg(MAIN).await.errors["reset"], 5);
    });
}

/// POSTs at the moment when main closes: each is answered, or ends without an answer as it would without the proxy.
#[test]
fn nothing_is_served_twice_when_main_closes_at_that_moment() {
    run_in_namespace(|| async {
        let served = ReceivedRequests::default();
        let noted = served.clone();
        listen(MAIN, move |mut wire| {
            let noted = noted.clone();
            async move {
                loop {
                    let idle = tokio::time::timeout(Duration::from_millis(20), wire.try_hear());
                    let Ok(Some(request)) = idle.await else { return };
                    noted.requests.lock().unwrap().push(request);
                    if !wire.try_say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await {
                        return;
                    }
                }
            }
        })
        .await;
        let proxy = Proxy::serving(shop()).await;
        let clients: Vec<_> = (0..8).map(|client| tokio::spawn(posts(client))).collect();
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

async fn posts(client: u32) -> (usize, usize) {
    let mut wire = Wire::to(SHOP).await;
    let (mut answered, mut cut) = (0, 0);
    for number in 0..25 {
        let body = format!("{client}-{number}");
        let length = body.len();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        wire.say(&request).await;
        if let Some(answer) = within("an answer or the end", wire.try_hear()).await {
            assert_eq!(answer.status(), 200);
            answered += 1;
        } else {
            cut += 1;
            wire = Wire::to(SHOP).await;
        }
        // The load, not a wait: as long as main's patience.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (answered, cut)
}

/// A server that answers once `may` is true; how many of its connections have ended.
async fn patient(
    port: u16,
    name: &'static str,
    may: watch::Receiver<bool>,
) -> (ReceivedRequests, Arc<Mutex<usize>>) {
    let (seen, ended) = (ReceivedRequests::default(), Arc::new(Mutex::new(0)));
    let (noted, over) = (seen.clone(), ended.clone());
    listen(port, move |mut wire| {
        let (noted, over, mut may) = (noted.clone(), over.clone(), may.clone());
        async move {
            while let Some(request) = wire.try_hear().await {
                noted.requests.lock().unwrap().push(request);
                may.wait_for(|may| *may).await.unwrap();
                let length = name.len();
                wire.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}")).await;
            }
            *over.lock().unwrap() += 1;
        }
    })
    .await;
    (seen, ended)
}

#[test]
fn a_request_in_flight_during_a_switch_leaves_no_connection_to_the_old_main() {
    run_in_namespace(|| async {
        let (may, told) = watch::channel(false);
        let (old, ended) = patient(MAIN, "old", told).await;
        let _new = server(OTHER, "new").await;
        let proxy = Proxy::serving(shop()).await;
        let mut client = Wire::to(SHOP).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        until("the old main has it", async || old.count() == 1).await;
        let switched =
            ProxiedService { main: upstream(OTHER), other_upstreams: vec![upstream(MAIN)], ..shop() };
        proxy.tell(&config(switched)).await;
        may.send_replace(true);
        assert_eq!(client.hear().await.text(), "old", "what it began it ends");
        until("the old main is left alone", async || *ended.lock().unwrap() == 1).await;
        assert_eq!(client.get("/").await.text(), "new 0", "on the same connection");
        assert_eq!(old.count(), 1);
    });
}
