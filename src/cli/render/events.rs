//! Events, line by line.

use std::time::Duration;

use owo_colors::OwoColorize;

use super::renderer::Renderer;
use super::roll::format_roll_event;
use crate::error::Failure;
use crate::model::duration::format;
use crate::model::lock::LockView;
use crate::model::plural::Count;
use crate::model::roll::Step;
use crate::ops::fleet::lock::LockError;
use crate::world::reporter::{Event, Reporter, RollEvent};

impl Reporter for Renderer {
    fn report(&self, event: &Event) {
        if self.follow_event(event) {
            return;
        }
        if let Event::Committed { transactions, .. } = event {
            for transaction in transactions {
                log::info!("committed:\n{transaction}");
            }
        }
        if !is_repeated(event) {
            self.write_stderr_line(&format_event(event));
        }
        match event {
            Event::Observed { balancer, server, detail, .. } => {
                self.show_spinner(&format!("waiting for {balancer}: {server} is {detail}"));
            }
            Event::WaitingForTimeout { balancer, timeout: bound, .. } => {
                self.show_spinner(&format!(
                    "waiting {} for {balancer}, whose state cannot be read",
                    format(*bound)
                ));
            }
            Event::Draining { in_flight, .. } => {
                self.show_spinner(&format!("draining: {in_flight} in flight"));
            }
            _ => {}
        }
    }
}

/// Whether the step of a roll repeats the event of its own action, which was printed before.
fn is_repeated(event: &Event) -> bool {
    let Event::Roll { event: RollEvent::StepDone { step, detail, .. }, .. } = event else { return false };
    match step {
        Step::ForwardOff | Step::ForwardOn => true,
        // With `--force` it may not be drained.
        Step::Drained => detail.starts_with("drained after "),
        _ => false,
    }
}

fn format_event(event: &Event) -> String {
    match event {
        Event::Committed { host, switch, elapsed: took, .. } => {
            format!("{host}: forward {switch} ({})", format(*took))
        }
        Event::Unchanged { host, switch } => format!("{host}: forward already {switch}"),
        Event::Overridden { refusal } => format!("{} overridden by --force: {refusal}", "warning:".yellow()),
        Event::Healthy { host, .. } => format!("{host}: main vhost healthy"),
        Event::Observed { balancer, server, detail, after, .. } => {
            format!("{balancer}: {server} is {detail} (after {})", format(*after))
        }
        Event::WaitingForTimeout { balancer, timeout: bound, .. } => format!(
            "{balancer}: state cannot be read (no `haproxy:` in the configuration); waiting {}, the limit of its check settings",
            format(*bound)
        ),
        Event::Draining { host, in_flight, busy_sockets, after } => format!(
            "{host}: draining, {in_flight} in flight on HAProxy, {} on the host (after {})",
            Count(busy_sockets, "busy connection"),
            format(*after)
        ),
        Event::Drained { host, after } => format!("{host}: drained (after {})", format(*after)),
        Event::Warning { text } => format!("{} {text}", "warning:".yellow()),
        Event::WaitingForLock { lock, timeout } => format_lock_wait(lock, *timeout),
        Event::Roll { event, .. } => format_roll_event(event),
        Event::DeploymentProgress { host: Some(host), text } => format!("{host}: {text}"),
        Event::DeploymentProgress { host: None, text } => text.clone(),
    }
}

/// The holder and what to do about it, as in the refusal that the command would end with.
fn format_lock_wait(lock: &LockView, timeout: Duration) -> String {
    let (lock, waited) = (Box::new(lock.clone()), Duration::ZERO);
    let refusal = LockError::Locked { lock, waited };
    let text = format!("{refusal}; waiting for it, {} at most", format(timeout));
    format!("{text}\n {} {}", "next:".bold(), Failure::Lock(refusal).hint())
}
