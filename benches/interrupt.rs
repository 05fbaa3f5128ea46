//! The time from Ctrl-C to its answer in every command that waits, each with a host that never answers. `make bench`.
//!
//! No test: a busy machine is slow. The limit of the product is 100 ms.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::sys::exec::Program;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::process::Child;

type Failed = Box<dyn std::error::Error>;

const ROUNDS: usize = 20;
/// Only ends a bench that would hang.
const BOUND: Duration = Duration::from_secs(30);

const COMMANDS: &[&[&str]] = &[
    &["roll", "--", "true"],
    &["deploy", "shop", "1.0.0", "release", "--", "sleep", "600"],
    &["assign", "shop", "1.0.0", "--yes"],
    &["promote", "shop", "1.0.0"],
    &["kill", "shop", "--yes"],
    &["update", "shop", "1.0.0", "release"],
    &["canary", "shop", "1.0.0", "--percent", "5"],
    &["mirror", "shop", "1.0.0"],
    &["enable-forward", "--all"],
    &["status", "--watch"],
    &["logs", "shop", "-f"],
];

fn main() -> Result<(), Failed> {
    let release =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/switchman"))?;
    if !release.exists() {
        return Err("build it first: cargo build --release".into());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&release))
}

async fn measure(switchman: &Path) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("agent.sock");
    let silent = UnixListener::bind(&socket)?;
    std::fs::create_dir(dir.path().join("release"))?;
    std::fs::write(dir.path().join("release/index.html"), "hello")?;
    let yaml = format!(
        "service: shop\nroll: {{min_up: 0}}\nhosts:\n  web1: {{address: 127.0.0.1, agent: 'unix://{}'}}\n",
        socket.display()
    );
    std::fs::write(dir.path().join("switchman.yaml"), yaml)?;
    let mut all: Vec<(Duration, &str)> = Vec::new();
    for _ in 0..ROUNDS {
        for args in COMMANDS {
            let program = Program::new(switchman).args(["--state-dir", "state"]).args(*args).dir(dir.path());
            let mut child = program.spawn_piped()?;
            let _connected = tokio::time::timeout(BOUND, silent.accept()).await??;
            all.push((time_answer(&mut child).await?, args[0]));
            child.start_kill()?;
            child.wait().await?;
        }
    }
    all.sort();
    let (max, slowest) = all[all.len() - 1];
    let _ = writeln!(
        std::io::stdout(),
        "Ctrl-C to its answer, {} commands x {ROUNDS}: p50 {:.1} ms, max {:.1} ms ({slowest})",
        COMMANDS.len(),
        all[all.len() / 2].0.as_secs_f64() * 1000.0,
        max.as_secs_f64() * 1000.0
    );
    Ok(())
}

/// The answer is a line on stderr, or the end of the command.
async fn time_answer(child: &mut Child) -> Result<Duration, Failed> {
    let mut stderr = child.stderr.take().ok_or("no stderr")?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("it has ended")?)?);
    let sent_at = Instant::now();
    kill(pid, Signal::SIGINT)?;
    tokio::time::timeout(BOUND, stderr.read(&mut [0; 64])).await??;
    Ok(sent_at.elapsed())
}
