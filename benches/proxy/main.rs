//! Costs of the proxy compared with similar proxies, and costs of a bad shadow for main. Figures of one run, rounds
//! interleaved: `make bench-proxy`; `-- costs` or `-- harm` after `cargo bench --bench proxy` for one half.
//!
//! Client and server share a core, the proxy between them has another one. Not a test: these machines are shared, so
//! nothing here fails for being slow.

use std::path::Path;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::unistd::Pid;
use switchman::sys::exec::Program;

use contestants::{Cores, Place};

mod contestants;
mod costs;
mod figures;
mod harm;
mod load;
mod shadows;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let root = std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    if !root.join("target/bench-proxy/switchman").exists() {
        return Err("build it first: make bench-proxy".into());
    }
    let wanted = |half: &str| std::env::args().all(|arg| !["costs", "harm"].contains(&&*arg) || arg == half);
    let (costs, harm) = (wanted("costs"), wanted("harm"));
    let dir = tempfile::tempdir()?;
    let place = Place { dir: dir.path().to_owned(), root, cores: cores()? };
    // A namespace of its own, left by ending the thread; everybody who was started ends then too.
    let thread = std::thread::spawn(move || -> Result<(), Failed> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|why| format!("no network namespace: {why}"))?;
        let mut own = CpuSet::new();
        own.set(place.cores.ends)?;
        sched_setaffinity(Pid::from_raw(0), &own)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            Program::new("ip").args(["link", "set", "lo", "up"]).run(b"", load::BOUND).await?;
            let _ends = place.ends().await?;
            if costs {
                costs::measure(&place).await?;
            }
            if harm {
                harm::measure(&place).await?;
            }
            Ok(())
        })
    });
    thread.join().map_err(|_| "the measuring thread panicked")?
}

/// The first and the last that are ours to use.
fn cores() -> Result<Cores, Failed> {
    let ours = sched_getaffinity(Pid::from_raw(0))?;
    let ours: Vec<usize> = (0..CpuSet::count()).filter(|core| ours.is_set(*core) == Ok(true)).collect();
    match ours[..] {
        [ends, .., proxy] => Ok(Cores { ends, proxy }),
        _ => Err("two processor cores are needed: one for who asks and answers, one for the proxy".into()),
    }
}
