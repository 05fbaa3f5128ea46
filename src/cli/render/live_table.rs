//! What follows a roll: lines of JSON, or a table of the hosts that are out, redrawn in place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::model::duration::format;
use crate::model::name::{BalancerName, HostName};
use crate::model::roll::{RollId, Step};
use crate::model::terminal_text::clean_line;
use crate::world::reporter::{Event, RollEvent};

/// The output that follows a roll.
#[derive(Debug)]
pub(super) enum RollFollower {
    /// Writes a line of JSON for each event to stdout; the roll's id is known from its first event on.
    Json(Option<RollId>),
    /// Shows a line for each host that is out, redrawn in place.
    Live(LiveTable),
}

/// The live table.
#[derive(Debug)]
pub(super) struct LiveTable {
    pub(super) bars: MultiProgress,
    rows: BTreeMap<HostName, HostLine>,
}

/// The line of a host that is out.
#[derive(Debug)]
struct HostLine {
    bar: ProgressBar,
    step: Option<Step>,
    description: &'static str,
    limit: Option<Duration>,
    observed: BTreeMap<BalancerName, String>,
    in_flight: Option<u64>,
}

impl LiveTable {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), rows: BTreeMap::new() }
    }

    pub(super) fn handle_event(&mut self, event: &Event) -> bool {
        match event {
            Event::Observed { host, balancer, detail, .. } => {
                let Some(line) = self.rows.get_mut(host) else { return false };
                line.observed.insert(balancer.clone(), detail.clone());
                line.redraw(host);
                true
            }
            Event::Draining { host, in_flight, busy_sockets, .. } => {
                let Some(line) = self.rows.get_mut(host) else { return false };
                line.in_flight = Some((*in_flight).max(*busy_sockets));
                line.redraw(host);
                true
            }
            Event::Drained { .. } | Event::Committed { .. } | Event::Unchanged { .. } => true,
            Event::Roll { event, .. } => self.handle_roll_event(event),
            _ => false,
        }
    }

    fn handle_roll_event(&mut self, event: &RollEvent) -> bool {
        match event {
            RollEvent::StepBegan { host, step, description, timeout: at_most } => {
                let bars = &self.bars;
                let line = self.rows.entry(host.clone()).or_insert_with(|| HostLine::new(bars));
                (line.step, line.description, line.limit) = (Some(*step), description, *at_most);
                line.bar.reset_elapsed();
                line.redraw(host);
                true
            }
            RollEvent::StepDone { .. } => true,
            RollEvent::HostDone { host, .. } | RollEvent::Settled { host, .. } => {
                if let Some(line) = self.rows.remove(host) {
                    line.bar.finish_and_clear();
                }
                false
            }
            _ => false,
        }
    }
}

impl HostLine {
    fn new(bars: &MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, step: None, description: "", limit: None, observed: BTreeMap::new(), in_flight: None }
    }

    fn redraw(&self, host: &HostName) {
        self.bar.set_prefix(format!("{host:<16} {:<32}", self.description));
        let mut text = self.limit.map(|at_most| format!("of {:<6} ", format(at_most))).unwrap_or_default();
        for (balancer, state) in &self.observed {
            let _ = write!(text, " {balancer}: {state} ");
        }
        if let Some(in_flight) = self.in_flight.filter(|_| self.step == Some(Step::Drained)) {
            let _ = write!(text, " {in_flight} in flight");
        }
        self.bar.set_message(clean_line(&text).into_owned());
    }
}
