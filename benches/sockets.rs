//! Measures the count of busy and idle ones among many established sockets, against `ss`: figures and their ratio from one
//! run, interleaved, never a test. Needs no lab: `cargo bench --bench sockets`. Part of `make bench`.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use switchman::model::ports::Port;
use switchman::plan::drain::count_activities;
use switchman::sys::exec::Program;
use switchman::sys::sock_diag::SockDiag;
use switchman::world::sockets::SocketTable;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const SOCKETS: usize = 10_000;
const ROUNDS: usize = 11;

fn main() -> Result<(), Failed> {
    let number = SOCKETS.min(room_for_connections()?);
    // A namespace of its own, left by ending the thread.
    let thread = std::thread::spawn(move || -> Result<(), Failed> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|why| format!("cannot make a network namespace: {why}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(number))
    });
    thread.join().map_err(|_| "the measuring thread panicked")?
}

/// Raises the limit of open files as far as wanted or allowed. Both ends of a connection are ours; a few files are open
/// beside them.
fn room_for_connections() -> Result<usize, Failed> {
    let beside = 100;
    let wanted = u64::try_from(2 * SOCKETS)? + beside;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        wanted
    } else {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        hard
    };
    Ok(usize::try_from(most.saturating_sub(beside) / 2)?)
}

async fn measure(number: usize) -> Result<(), Failed> {
    run(&Program::new("ip").args(["link", "set", "lo", "up"])).await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut held = Vec::with_capacity(2 * number);
    for _ in 0..number {
        held.push(TcpStream::connect(address)?);
        held.push(listener.accept()?.0);
    }
    let port = Port::new(address.port()).ok_or("no port")?;
    let sport = format!(":{port}");
    let list = Program::new("ss").args(["-Htin", "state", "established", "sport", "=", &sport]);
    let (mut one, mut two, mut ss) = (vec![], vec![], vec![]);
    let mut before = vec![];
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let sockets = SockDiag.list_established(port).await?;
        let counted = count_activities(&sockets, &[]).0;
        one.push(began.elapsed());
        if counted.idle + counted.busy + counted.ambiguous != number as u64 {
            return Err(format!("{counted:?} of {number} sockets").into());
        }
        // As a drain does: each look is compared with the one before.
        let began = Instant::now();
        let sockets = SockDiag.list_established(port).await?;
        let _ = count_activities(&sockets, &before);
        two.push(began.elapsed());
        before = sockets;
        let began = Instant::now();
        run(&list).await?;
        ss.push(began.elapsed());
    }
    let (one, two, ss) = (median(one), median(two), median(ss));
    print(&format!("busy and idle among {number} sockets"), one, "(wanted: under 50 ms)");
    print("  compared with the look before, as a drain does", two, "");
    let ratio = one.as_secs_f64() / ss.as_secs_f64();
    print("ss -Htin of the same, as a whole process", ss, &format!("own/ss {ratio:.2}"));
    Ok(())
}

async fn run(program: &Program) -> Result<(), Failed> {
    let output = program.run(b"", Duration::from_secs(20)).await?;
    if output.status == 0 { Ok(()) } else { Err(format!("{program}: {}", output.stderr).into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print(what: &str, time: Duration, remark: &str) {
    use std::io::Write as _;
    let time = format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let _ = writeln!(std::io::stdout(), "{what:<78} {time:>12}  {remark}");
}
