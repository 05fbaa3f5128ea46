//! Measures the effect of every kind of shadow on main's users: each run is paired with one without a shadow.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Failed;
use crate::contestants::{MAIN, Place, SINK, copies, service, used};
use crate::figures::{Figures, Unit, line};
use crate::load;
use crate::shadows;

const ROUNDS: usize = 3;
const LASTING: Duration = Duration::from_secs(2);
/// Without a shadow, with one: GETs, uploads.
const ALONE: [u16; 2] = [9301, 9302];
const SHADOWED: [u16; 2] = [9303, 9304];

/// The answers that a side's users got.
#[derive(Default)]
struct Users {
    rate: Figures,
    p99_ms: Figures,
    paced_p99_ms: Figures,
    upload_ms: Figures,
    bad: u64,
}

impl Users {
    async fn run(&mut self, [gets, uploads]: [u16; 2]) -> Result<(), Failed> {
        let seen = load::full(gets, LASTING).await?;
        self.rate.add(seen.per_second);
        self.p99_ms.add(seen.p99_ms);
        self.bad += seen.bad;
        self.paced_p99_ms.add(load::paced(gets, LASTING).await?);
        self.upload_ms.add(load::upload(uploads).await?);
        Ok(())
    }
}

pub async fn measure(place: &Place) -> Result<(), Failed> {
    shadows::dig_hole().await?;
    shadows::serve()?;
    let alone = place.switchman("alone", services(ALONE, None)?).await?;
    line(&format!(
        "\nMain's users beside a shadow of each kind, and without one, interleaved, {ROUNDS} rounds: GET of 64 B, {} kept\n\
         connections, {} s as fast as it goes and {} s at 1600 requests/s; one upload of {} MiB. Medians, with / without a\n\
         shadow. Shadows run on the core of main and its users.\n",
        load::CLIENTS,
        LASTING.as_secs(),
        LASTING.as_secs(),
        load::UPLOAD >> 20
    ));
    line(&row(&[
        "shadow",
        "requests/s",
        "p99 ms",
        "p99 ms, paced",
        "upload ms",
        "bad",
        "peak MiB",
        "copies",
    ]));
    for (name, _, address) in shadows::all() {
        against(place, name, address).await?;
    }
    alone.process.stop(Signal::SIGTERM).await?;
    Ok(())
}

fn services(
    [gets, uploads]: [u16; 2],
    shadow: Option<SocketAddr>,
) -> Result<Vec<switchman::model::proxy::ProxiedService>, Failed> {
    Ok(vec![service(gets, MAIN, shadow, false)?, service(uploads, SINK, shadow, false)?])
}

async fn against(place: &Place, name: &str, address: SocketAddr) -> Result<(), Failed> {
    let dir = name.replace(' ', "-");
    let shadowed = place.switchman(&dir, services(SHADOWED, Some(address))?).await?;
    let (mut without, mut with) = (Users::default(), Users::default());
    for _ in 0..ROUNDS {
        without.run(ALONE).await?;
        with.run(SHADOWED).await?;
    }
    let pair = |one: &Figures, other: &Figures, unit: Unit| {
        format!("{} / {}", unit.show(one.median()), unit.show(other.median()))
    };
    line(&row(&[
        name,
        &pair(&with.rate, &without.rate, Unit::Whole),
        &pair(&with.p99_ms, &without.p99_ms, Unit::Hundredths),
        &pair(&with.paced_p99_ms, &without.paced_p99_ms, Unit::Hundredths),
        &pair(&with.upload_ms, &without.upload_ms, Unit::Whole),
        &(with.bad + without.bad).to_string(),
        &(used(&shadowed.process)?.peak_kib >> 10).to_string(),
        &copies(&shadowed.control).await?,
    ]));
    shadowed.process.stop(Signal::SIGKILL).await?;
    Ok(())
}

fn row(cells: &[&str; 8]) -> String {
    let [shadow, rate, p99, paced, upload, bad, peak, copies] = cells;
    format!("{shadow:<18} {rate:>15} {p99:>13} {paced:>13} {upload:>11} {bad:>4} {peak:>8}  {copies}")
}
