//! Processor time of one request, without and with a shadow.

use std::time::Duration;

use switchman::lab::process::Process;
use switchman::sys::proxy::ProxyProcess;

use crate::Failed;
use crate::contestants::{MAIN, Place, SHADOW, copies, service, used};
use crate::figures::{Figures, Unit, line, verdict};
use crate::load;

const ROUNDS: usize = 5;
const LASTING: Duration = Duration::from_secs(4);

struct Contestant {
    name: &'static str,
    /// `None`: no proxy is between client and server.
    process: Option<Process>,
    port: u16,
    figures: Measured,
}

#[derive(Default)]
struct Measured {
    /// Microseconds of processor time a request.
    cpu: Figures,
    rate: Figures,
    p99_ms: Figures,
    peak_mib: Figures,
    bad: u64,
}

impl Contestant {
    fn new(name: &'static str, process: impl Into<Option<Process>>, port: u16) -> Self {
        Self { name, process: process.into(), port, figures: Measured::default() }
    }

    async fn run(&mut self) -> Result<(), Failed> {
        let before = self.process.as_ref().map(used).transpose()?;
        let seen = load::full(self.port, LASTING).await?;
        let figures = &mut self.figures;
        if let (Some(process), Some(before)) = (&self.process, before) {
            let after = used(process)?;
            figures.cpu.add((after.cpu - before.cpu) * 1e6 / number(seen.requests));
            figures.peak_mib.add(number(after.peak_kib) / 1024.0);
        }
        figures.rate.add(seen.per_second);
        figures.p99_ms.add(seen.p99_ms);
        figures.bad += seen.bad;
        Ok(())
    }

    fn print(&self) {
        let Measured { cpu, rate, p99_ms, peak_mib, bad } = &self.figures;
        let bad = if *bad > 0 { format!("  {bad} answers missing or wrong") } else { String::new() };
        line(&format!(
            "{:<34} {:>20} {:>26} {:>18} {:>8}{bad}",
            self.name,
            cpu.shown(Unit::Tenths),
            rate.shown(Unit::Whole),
            p99_ms.shown(Unit::Hundredths),
            if self.process.is_some() { Unit::Tenths.show(peak_mib.median()) } else { "-".to_owned() }
        ));
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}

pub async fn measure(place: &Place) -> Result<(), Failed> {
    let (mut all, copying) = contestants(place).await?;
    for contestant in &all {
        // Connections and caches are warm then.
        load::full(contestant.port, Duration::from_secs(1)).await?;
    }
    for round in 0..ROUNDS {
        for contestant in &mut all {
            contestant.run().await?;
        }
        log_round(round);
    }
    print(place, &all);
    line("\nCopies, of all runs:");
    for (name, control) in copying {
        line(&format!("{name:<34} {}", copies(&control).await?));
    }
    for process in all.into_iter().filter_map(|contestant| contestant.process) {
        process.stop(nix::sys::signal::Signal::SIGTERM).await?;
    }
    Ok(())
}

fn log_round(round: usize) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "round {} of {ROUNDS}", round + 1);
}

type Copying = Vec<(&'static str, ProxyProcess)>;

async fn contestants(place: &Place) -> Result<(Vec<Contestant>, Copying), Failed> {
    let shadow = Some(([127, 0, 0, 1], SHADOW).into());
    let mut all = vec![Contestant::new("direct", None, MAIN)];
    all.push(Contestant::new("HAProxy", place.haproxy(9201).await?, 9201));
    all.push(Contestant::new("nginx", place.nginx_proxy(9202, false).await?, 9202));
    if let Some(envoy) = place.envoy() {
        all.push(Contestant::new("Envoy", place.envoy_proxy(&envoy, 9203, false).await?, 9203));
    }
    let plain = place.switchman("plain", vec![service(9204, MAIN, None, false)?]).await?;
    all.push(Contestant::new("switchman", plain.process, 9204));
    all.push(Contestant::new(NGINX_COPIES, place.nginx_proxy(9205, true).await?, 9205));
    if let Some(envoy) = place.envoy() {
        all.push(Contestant::new(ENVOY_COPIES, place.envoy_proxy(&envoy, 9206, true).await?, 9206));
    }
    let copying = place.switchman("copying", vec![service(9207, MAIN, shadow, false)?]).await?;
    all.push(Contestant::new(COPIES, copying.process, 9207));
    let comparing = place.switchman("comparing", vec![service(9208, MAIN, shadow, true)?]).await?;
    all.push(Contestant::new(COMPARES, comparing.process, 9208));
    Ok((all, vec![(COPIES, copying.control), (COMPARES, comparing.control)]))
}

const NGINX_COPIES: &str = "nginx, one shadow (mirror)";
const ENVOY_COPIES: &str = "Envoy, one shadow";
const COPIES: &str = "switchman, one shadow";
const COMPARES: &str = "switchman, one shadow, compared";

fn print(place: &Place, all: &[Contestant]) {
    line(&format!(
        "\nGET of 64 B, {} kept connections, {ROUNDS} interleaved rounds of {} s, proxies on core {}, the rest on core {}:\n\
         median (least..most)\n",
        load::CLIENTS,
        LASTING.as_secs(),
        place.cores.proxy,
        place.cores.ends
    ));
    line(&format!(
        "{:<34} {:>20} {:>26} {:>18} {:>8}",
        "", "CPU µs/request", "requests/s", "p99 ms", "peak MiB"
    ));
    all.iter().for_each(Contestant::print);
    if place.envoy().is_none() {
        line("Envoy: not to be had here (sh benches/proxy/envoy.sh)");
    }
    line("\nCPU per request, round by round:");
    ratio(all, "switchman", "HAProxy", 1.1);
    ratio(all, COPIES, ENVOY_COPIES, 0.7);
    ratio(all, COPIES, NGINX_COPIES, 0.5);
}

fn ratio(all: &[Contestant], one: &str, other: &str, wanted: f64) {
    let find = |name| all.iter().find(|contestant| contestant.name == name).map(|found| &found.figures.cpu);
    if let (Some(ours), Some(theirs)) = (find(one), find(other)) {
        line(&format!("{:<60} {}", format!("{one} / {other}"), verdict(&ours.over(theirs), wanted)));
    }
}
