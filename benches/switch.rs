//! Costs of a switch and of the forward: ratios from one run, interleaved. `make bench`.
//!
//! Not tests: these machines are shared, so nothing here fails for being slow; a lost connection does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use switchman::lab::connect_load;
use switchman::lab::{Lab, LabOptions};
use switchman::sys::exec::Program;
use switchman::sys::packet_probe::TunProbe;
use switchman::world::packet_probe::PacketProbe;
use tokio::sync::watch;

type Failed = Box<dyn std::error::Error>;

const ROUNDS: usize = 41;
const SWITCHES: u32 = 1000;
const CLIENTS: usize = 50;

fn main() -> Result<(), Failed> {
    let release =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/switchman"))?;
    if !release.exists() {
        return Err("build it first: cargo build --release".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let lost = runtime.block_on(async {
        let options = LabOptions { hosts: 4, ..LabOptions::new("bench".parse()?, release) };
        let lab = Lab::start(options).await?;
        let measured = measure(&lab).await;
        lab.tear_down().await?;
        measured
    })?;
    if lost > 0 { Err(format!("{lost} connections were lost under switches").into()) } else { Ok(()) }
}

async fn measure(lab: &Lab) -> Result<u64, Failed> {
    // A host for each case: rules of both variants on one host would be read twice.
    for (host, variant) in [("web1", "nft"), ("web2", "legacy")] {
        whole_process(lab, host, variant, &["iptables", "ip6tables"]).await?;
    }
    // A host without IPv6 has one table to write.
    for (host, variant) in [("web3", "nft"), ("web4", "legacy")] {
        run(lab, host, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1").await?;
        whole_process(lab, host, variant, &["iptables"]).await?;
    }
    packet_proof()?;
    let lost = under_load(lab).await?;
    throughput(lab).await?;
    Ok(lost)
}

async fn run(lab: &Lab, host: &str, script: &str) -> Result<(), Failed> {
    let output = lab.program(host, "sh").args(["-c", script]).run(b"", Duration::from_secs(20)).await?;
    if output.status == 0 { Ok(()) } else { Err(format!("{script}: {}", output.stderr).into()) }
}

/// `enable-forward --no-wait` and `disable-forward --no-wait` against the bare restores of the same rules, one command a
/// family, as whole processes.
async fn whole_process(lab: &Lab, host: &str, variant: &str, families: &[&str]) -> Result<(), Failed> {
    let chains: String = families
        .iter()
        .map(|f| format!("{f}-{variant} -w 5 -t nat -F; {f}-{variant} -w 5 -t nat -X; {f}-{variant} -w 5 -t nat -N SWITCHMAN; "))
        .collect();
    run(lab, host, &chains).await?;
    let (mut bare, mut enable, mut disable) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        enable.push(
            timed(&lab.switchman_program(host, &["enable-forward", "--host", host, "--no-wait"]), b"")
                .await?,
        );
        let mut both = Duration::ZERO;
        for family in families {
            let restore =
                lab.program(host, format!("{family}-{variant}-restore")).args(["--noflush", "-w", "5"]);
            both += timed(&restore, RULES.as_bytes()).await?;
        }
        bare.push(both);
        // HAProxy has not seen the last switch yet, so --force: the cost is that of the switch.
        let off = ["disable-forward", "--host", host, "--no-wait", "--force"];
        disable.push(timed(&lab.switchman_program(host, &off), b"").await?);
    }
    let (bare, enable, disable) = (median(bare), median(enable), median(disable));
    let names: Vec<String> = families.iter().map(|family| format!("{family}-{variant}-restore")).collect();
    print(&format!("bare {}", names.join(" and ")), ms(bare), "");
    print("  enable-forward --no-wait", ms(enable), &ratio(enable, bare, "at most 2"));
    print("  disable-forward --no-wait", ms(disable), &ratio(disable, bare, "at most 2"));
    Ok(())
}

const RULES: &str = "*nat\n:SWITCHMAN - [0:0]\n-A SWITCHMAN -m conntrack --ctstate NEW -m comment --comment \"switchman:anchor\"\n\
    -A SWITCHMAN -p tcp -m tcp --dport 8888 -m comment --comment \"switchman:shop:forward\" -j REDIRECT --to-ports 8080\n\
    COMMIT\n";

/// The packet that proves a forward, from the device's creation to both answers; its removal goes on beside the command.
fn packet_proof() -> Result<(), Failed> {
    let measured = std::thread::spawn(|| -> Result<Duration, String> {
        let fail = |error: &dyn std::fmt::Display| error.to_string();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| fail(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fail(&error))?;
        runtime.block_on(async {
            let script = "ip link set lo up; ip link add swm-d0 type veth peer name swm-d1; ip link set swm-d1 up; \
                          ip addr add 10.9.0.5/24 dev swm-d0; ip addr add fd00:9::5/64 dev swm-d0 nodad; ip link set swm-d0 up";
            let set_up = Program::new("sh").args(["-ec", script]);
            timed(&set_up, b"").await.map_err(|error| fail(&error))?;
            // The check port and the data port, as for a switch.
            let addresses = [8888, 8080].map(|port| {
                [SocketAddr::from(([10, 9, 0, 5], port)), SocketAddr::from((V6_ADDRESS, port))]
            });
            let addresses = addresses.concat();
            let mut times = vec![];
            for _ in 0..ROUNDS {
                let began = Instant::now();
                let answers = TunProbe.connect(&addresses).await.map_err(|error| fail(&error))?;
                times.push(began.elapsed());
                for answer in answers {
                    answer.map_err(|error| fail(&error))?;
                }
            }
            Ok(median(times))
        })
    });
    let cost = measured.join().map_err(|_| "the measurement panicked")??;
    print("the packet proof of a switch: two ports, IPv4 and IPv6", ms(cost), "(wanted: under 5 ms)");
    Ok(())
}

const V6_ADDRESS: [u16; 8] = [0xfd00, 9, 0, 0, 0, 0, 0, 5];

async fn timed(program: &Program, input: &[u8]) -> Result<Duration, Failed> {
    let began = Instant::now();
    let output = program.run(input, Duration::from_secs(20)).await?;
    let took = began.elapsed();
    if output.status == 0 { Ok(took) } else { Err(format!("{program}: {}", output.stderr).into()) }
}

/// The target port of the forward swapped a thousand times by the same transaction switchman commits, under clients that
/// open a connection for each request.
async fn under_load(lab: &Lab) -> Result<u64, Failed> {
    let on = lab.run_switchman("web1", &["enable-forward", "--host", "web1", "--no-wait"]).await?;
    if on.status != 0 {
        return Err(on.stderr.into());
    }
    let (stop, stopped) = watch::channel(false);
    let address = SocketAddr::from(([10, 77, 0, 11], 8888));
    let pause = Duration::from_millis(10);
    let load =
        tokio::spawn(connect_load::run(lab.namespace_path("client"), address, CLIENTS, pause, stopped));
    let began = Instant::now();
    for number in 0..SWITCHES {
        let rules = if number % 2 == 0 { RULES.replace("8080", "80") } else { RULES.to_owned() };
        let restore = lab.program("web1", "iptables-restore").args(["--noflush", "-w", "5"]);
        timed(&restore, rules.as_bytes()).await?;
    }
    let took = began.elapsed();
    let _ = stop.send(true);
    let seen = load.await??;
    let lost = seen.refused + seen.reset + seen.other;
    print(
        &format!("{SWITCHES} switches of the target port under {CLIENTS} clients, a connection per request"),
        format!("{:.1} s", took.as_secs_f64()),
        &format!(
            "{} answered, {} refused, {} reset, {} other (wanted: 0)",
            seen.answered, seen.refused, seen.reset, seen.other
        ),
    );
    Ok(lost)
}

/// Requests a second through the forward and to the same port directly, in turn.
async fn throughput(lab: &Lab) -> Result<(), Failed> {
    let (mut forward, mut direct) = (vec![], vec![]);
    for _ in 0..7 {
        for (port, rates) in [(8888, &mut forward), (8080, &mut direct)] {
            let url = format!("http://10.77.0.11:{port}/");
            let wrk = lab.program("client", "wrk").args(["-t1", "-c16", "-d2s", &url]);
            let output = wrk.run(b"", Duration::from_secs(30)).await?;
            let rate = output.stdout.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
            rates.push(rate.and_then(|rate| rate.trim().parse::<f64>().ok()).ok_or("no rate from wrk")?);
        }
    }
    let (forward, direct) = (middle(forward), middle(direct));
    print("through the forward, keep-alive", format!("{forward:.0}/s"), "");
    print(
        "the same port directly",
        format!("{direct:.0}/s"),
        &format!("forward/direct {:.3} (wanted: at least 0.97)", forward / direct),
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn ratio(one: Duration, other: Duration, wanted: &str) -> String {
    format!("ratio {:.2} (wanted: {wanted})", one.as_secs_f64() / other.as_secs_f64())
}

fn print(what: &str, figure: impl std::fmt::Display, remark: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{what:<78} {:>12}  {remark}", figure.to_string());
}
