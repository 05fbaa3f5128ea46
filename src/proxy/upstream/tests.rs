use std::sync::Arc;

use hyper::body::SizeHint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::proxy::tee::{MirrorBudget, Queue};

/// Answers each connection's requests with nothing, as long as they come.
async fn start_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut read = [0; 4096];
                while stream.read(&mut read).await.is_ok_and(|read| read > 0) {
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    address
}

async fn send_request(pool: &Pool, address: SocketAddr) {
    let queue = Queue::new(&Arc::<MirrorBudget>::default(), 0, 0, true);
    let body = CopyBody { queue, size: SizeHint::with_exact(0) };
    let request = Request::get("/").header("host", "a").body(body).unwrap();
    let sent = pool.send(address, Protocol::Http1, Duration::from_secs(10), request).await;
    let (_, connection) = sent.unwrap_or_else(|_| panic!("an answer"));
    pool.put_back(connection, 8).await;
}

#[tokio::test]
async fn pool_drops_connections_to_unused_addresses() {
    LocalSet::new()
        .run_until(async {
            let (before, now, pool) = (start_server().await, start_server().await, Pool::default());
            send_request(&pool, before).await;
            send_request(&pool, now).await;
            assert_eq!(pool.idle.borrow().len(), 2, "instances of a version share a pool");
            pool.keep_only(|address| address == now);
            assert_eq!(pool.idle.borrow().len(), 1);
            pool.keep_only(|address| address == before);
            assert!(pool.idle.borrow().is_empty());
        })
        .await;
}
