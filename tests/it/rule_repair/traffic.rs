//! Traffic through the rules while they are taken away and put back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A target that sends back every byte.
async fn echo(address: IpAddr) {
    let listener = TcpListener::bind((address, 8080)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
}

/// Sends and receives a byte, again and again, until `ended` is set or a byte is lost.
async fn client(address: IpAddr, exchanged: Arc<AtomicU64>, ended: Arc<AtomicBool>) -> Result<(), String> {
    let mut stream =
        TcpStream::connect((address, 8888)).await.map_err(|error| format!("connect: {error}"))?;
    while !ended.load(Ordering::Relaxed) {
        let exchange = async {
            stream.write_all(b"x").await?;
            stream.read_exact(&mut [0]).await
        };
        let exchange = tokio::time::timeout(BOUND, exchange).await.map_err(|_| "no answer".to_owned())?;
        exchange.map_err(|error| format!("after {} bytes: {error}", exchanged.load(Ordering::Relaxed)))?;
        exchanged.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// `harm` comes while connections send bytes through the forward, on a host where nothing but our rules needs connection
/// tracking.
fn nothing_is_lost(harm: &'static str) {
    for variant in BOTH {
        run_in_namespace(move || async move {
            let infix = variant.infix();
            // The service's own ports are taken by an echo instead of a vhost, so the record is made without a look at it.
            for (iptables, address) in [("iptables", "127.0.0.1"), ("ip6tables", "::1")] {
                sh(&format!("{iptables}-{infix} -t nat -A POSTROUTING -p udp -j ACCEPT"));
                echo(address.parse().unwrap()).await;
            }
            let mut stage = Stage { dir: tempfile::tempdir().unwrap(), agent: None, on: true };
            // Both ends are on this host: by way of the jump from OUTPUT.
            stage.configure("service: shop\nload_balancers: [{name: lb1, backend: b, on_host: true}]\n");
            stage.run(&["enable-forward", "--no-wait", "--force", "--host", "web1"]);
            stage.start().await;
            let held = async || sh("nft list tables").contains("inet switchman_hold");
            stage.until("held", held).await;
            let (exchanged, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let clients: Vec<_> = (0..20)
                .map(|at| if at % 2 == 0 { "127.0.0.1" } else { "::1" }.parse().unwrap())
                .map(|address| tokio::spawn(client(address, exchanged.clone(), ended.clone())))
                .collect();
            let more = async |than: u64| {
                let wanted = exchanged.load(Ordering::Relaxed) + than;
                stage.until("traffic", async || exchanged.load(Ordering::Relaxed) >= wanted).await;
            };
            more(1000).await;
            let script = harm.replace("{4}", &format!("iptables-{infix}"));
            sh(&script.replace("{6}", &format!("ip6tables-{infix}")));
            let hooked = async || {
                let rules = sh(&format!("iptables-{infix}-save -t nat; ip6tables-{infix}-save -t nat"));
                rules.matches("-A OUTPUT -m addrtype").count() == 2
                    && rules.matches("--dport 8888").count() == 2
            };
            stage.until("put back", hooked).await;
            stage.until("told", async || !stage.repairs().is_empty()).await;
            more(1000).await;
            ended.store(true, Ordering::Relaxed);
            for client in clients {
                assert_eq!(client.await.unwrap(), Ok(()), "{harm} ({variant})");
            }
        });
    }
}

#[test]
fn flush_closes_no_open_connection() {
    nothing_is_lost("{4} -t nat -F OUTPUT; {4} -t nat -F; {6} -t nat -F");
}

#[test]
fn iptables_restore_closes_no_open_connection() {
    let file = "*nat\\n-A POSTROUTING -p udp -j ACCEPT\\nCOMMIT\\n";
    let harm = format!("printf '{file}' | {{4}}-restore; printf '{file}' | {{6}}-restore");
    nothing_is_lost(Box::leak(harm.into_boxed_str()));
}
