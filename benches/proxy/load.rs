//! The clients.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use switchman::sys::exec::Program;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};

use crate::Failed;

pub const CLIENTS: u64 = 16;
pub const UPLOAD: usize = 16 << 20;
/// Only ends a run that would hang.
pub const BOUND: Duration = Duration::from_secs(30);

/// The results of a run of load.
#[derive(Debug, Clone, Copy)]
pub struct LoadResult {
    pub requests: u64,
    pub per_second: f64,
    pub p99_ms: f64,
    /// Answers that were not 200, and connections that broke.
    pub bad: u64,
}

/// As many requests as it takes, over connections that are kept: wrk.
pub async fn full(port: u16, lasting: Duration) -> Result<LoadResult, Failed> {
    let wrk = Program::new("wrk").args(["-t1", "--latency", "--timeout", "10s"]);
    let wrk = wrk.arg(format!("-c{CLIENTS}")).arg(format!("-d{}s", lasting.as_secs()));
    let output = wrk.arg(format!("http://127.0.0.1:{port}/")).run(b"", lasting + BOUND).await?;
    if output.status != 0 {
        return Err(format!("wrk: {}", output.stderr).into());
    }
    read_wrk(&output.stdout).ok_or_else(|| format!("wrk says {}", output.stdout).into())
}

fn read_wrk(text: &str) -> Option<LoadResult> {
    let after = |word: &str| text.lines().find_map(|line| line.trim().strip_prefix(word)).map(str::trim);
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.parse().ok()?;
    let not_200 = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.parse::<u64>().ok())?;
    let broken = after("Socket errors:").unwrap_or_default().split([' ', ',']);
    let broken: u64 = broken.filter_map(|word| word.parse::<u64>().ok()).sum();
    let per_second = after("Requests/sec:")?.parse().ok()?;
    Some(LoadResult { requests, per_second, p99_ms: milliseconds(after("99%")?)?, bad: not_200 + broken })
}

/// wrk's `850.00us`, `1.07ms`, `2.00s`.
fn milliseconds(text: &str) -> Option<f64> {
    let at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let number: f64 = text[..at].parse().ok()?;
    Some(match &text[at..] {
        "us" => number / 1000.0,
        "ms" => number,
        "s" => number * 1000.0,
        _ => return None,
    })
}

/// Far fewer requests than could be answered: each client sends one request in this time, if its last answer has come.
const PACE: Duration = Duration::from_millis(10);

/// Returns the 99th percentile of the response times in milliseconds.
pub async fn paced(port: u16, lasting: Duration) -> Result<f64, Failed> {
    let clients = (0..CLIENTS).map(|number| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let begin = tokio::time::Instant::now();
        let shift = PACE * u32::try_from(number)? / u32::try_from(CLIENTS)?;
        let mut ticks = interval_at(begin + shift, PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut took, mut buffer) = (Vec::new(), [0; 1024]);
        while begin.elapsed() < lasting {
            ticks.tick().await;
            let began = Instant::now();
            stream.write_all(GET).await?;
            // 64 bytes are one read.
            let read = tokio::time::timeout(BOUND, stream.read(&mut buffer)).await??;
            if !buffer[..read].starts_with(b"HTTP/1.1 200") {
                return Err("main's answer is another".into());
            }
            took.push(began.elapsed());
        }
        sleep_until(begin + lasting).await;
        Ok::<_, Failed>(took)
    });
    let mut histogram = Histogram::<u64>::new(3)?;
    for took in futures_util::future::try_join_all(clients).await?.into_iter().flatten() {
        histogram.record(u64::try_from(took.as_micros())?)?;
    }
    Ok(Duration::from_micros(histogram.value_at_quantile(0.99)).as_secs_f64() * 1000.0)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// The beginning of an answer.
pub async fn get(port: u16) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(GET).await?;
    let mut buffer = [0; 1024];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await??;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

/// 16 MiB, until they are answered; milliseconds.
pub async fn upload(port: u16) -> Result<f64, Failed> {
    let began = Instant::now();
    let sent = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {UPLOAD}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..UPLOAD / chunk.len() {
            stream.write_all(&chunk).await?;
        }
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await?;
        if buffer[..read].starts_with(b"HTTP/1.1 200") {
            Ok(())
        } else {
            Err::<(), Failed>("another answer".into())
        }
    };
    tokio::time::timeout(BOUND, sent).await??;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}
