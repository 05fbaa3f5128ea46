//! Shadows of every kind, on a thread of their own.

use std::net::SocketAddr;
use std::time::Duration;

use switchman::sys::exec::Program;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::Failed;
use crate::contestants::SINK;

/// The behaviour of a shadow that receives a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shadow {
    Answers { after: Duration, answer: &'static str },
    Refuses,
    NeverReads,
    Resets,
    Trickles,
    Blackhole,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nshadow";
const BAD: &str = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";

/// Each with its name and where it is.
pub fn all() -> Vec<(&'static str, Shadow, SocketAddr)> {
    let after = |ms| Shadow::Answers { after: Duration::from_millis(ms), answer: OK };
    let shadows = [
        ("healthy", after(0)),
        ("+100 ms", after(100)),
        ("+2 s", after(2000)),
        ("refuses", Shadow::Refuses),
        ("never reads", Shadow::NeverReads),
        ("500s", Shadow::Answers { after: Duration::ZERO, answer: BAD }),
        ("resets mid-answer", Shadow::Resets),
        ("1 byte a second", Shadow::Trickles),
        ("blackholed", Shadow::Blackhole),
    ];
    let address = |shadow, port| {
        if shadow == Shadow::Blackhole { HOLE } else { SocketAddr::from(([127, 0, 0, 1], port)) }
    };
    let numbered = shadows.into_iter().zip(9100..);
    numbered.map(|((name, shadow), port)| (name, shadow, address(shadow, port))).collect()
}

/// An address without a host: packets sent there are neither answered nor refused.
const HOLE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 2)), 80);

pub async fn dig_hole() -> Result<(), Failed> {
    let lines = "link add swm-hole type veth peer name swm-bottom\nlink set swm-hole up\nlink set swm-bottom up\n\
                 address add 10.99.0.1/24 dev swm-hole\n\
                 neighbour add 10.99.0.2 lladdr 02:00:00:00:00:99 dev swm-hole\n";
    let output =
        Program::new("ip").args(["-batch", "-"]).run(lines.as_bytes(), Duration::from_secs(5)).await?;
    if output.status == 0 { Ok(()) } else { Err(output.stderr.into()) }
}

/// All of them, and the main that reads uploads, for as long as the process lives.
pub fn serve() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listeners = vec![(
        listener(SocketAddr::from(([127, 0, 0, 1], SINK)))?,
        Shadow::Answers { after: Duration::ZERO, answer: OK },
    )];
    for (_, shadow, address) in all() {
        if ![Shadow::Refuses, Shadow::Blackhole].contains(&shadow) {
            listeners.push((listener(address)?, shadow));
        }
    }
    // A new thread is where its parent is: on its core, in its namespace.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let all = listeners.into_iter().map(|(listener, shadow)| accept(listener, shadow));
            futures_util::future::join_all(all).await
        })
    });
    Ok(())
}

fn listener(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: std::net::TcpListener, shadow: Shadow) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut held = Vec::new();
    loop {
        let (stream, _) = listener.accept().await?;
        if shadow == Shadow::NeverReads {
            held.push(stream);
        } else {
            // How a connection ends is the proxy's affair.
            tokio::spawn(async move { converse(stream, shadow).await.ok() });
        }
    }
}

async fn converse(mut stream: TcpStream, shadow: Shadow) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    while read_request(&mut stream, &mut buffer).await? {
        match shadow {
            Shadow::Answers { after, answer } => {
                if !after.is_zero() {
                    sleep(after).await;
                }
                stream.write_all(answer.as_bytes()).await?;
            }
            Shadow::Resets => {
                stream.write_all(&OK.as_bytes()[..OK.len() - 3]).await?;
                return stream.set_zero_linger();
            }
            _ => {
                for byte in OK.as_bytes() {
                    stream.write_all(&[*byte]).await?;
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
    Ok(())
}

/// Reads a request to its last byte; false: there was none. The clients here send no request before the last was answered.
async fn read_request(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<bool> {
    let mut filled = 0;
    let head = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(false);
        }
        filled += read;
        if let Some(at) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    let mut left = length.saturating_sub(filled - head);
    while left > 0 {
        match stream.read(buffer).await? {
            0 => return Ok(false),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(true)
}
