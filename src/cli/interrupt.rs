//! Reactions to Ctrl-C, TERM and a closed terminal: what a command finishes first, and what a second signal does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::OptionFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use super::failure::fail_system;
use super::render::Renderer;
use crate::error::Failure;
use crate::world::stop::{StopHandle, StopToken};

/// The reaction of a command to the first signal. A second one ends every command at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterruptPolicy {
    /// A server ends by itself, and its log has the reason.
    Serve,
    /// The command changes nothing: it fails at once.
    Fail,
    /// The command shows changes until a signal, which is its normal end.
    Complete,
    /// The command finishes or undoes what it has begun. The notice names that, and the effect of a second signal.
    Finish { notice: &'static str, recovery: &'static str },
    /// The first signal changes nothing, the second one aborts, a third one ends the command at once.
    Refuse { notice: &'static str, abort_notice: &'static str, recovery: &'static str },
}

/// Whether the command waits for an answer of the operator, which a signal aborts.
#[derive(Debug, Clone, Default)]
pub(super) struct PromptState(Arc<AtomicBool>);

impl PromptState {
    pub(super) fn set(&self, is_prompting: bool) {
        self.0.store(is_prompting, Ordering::Relaxed);
    }

    fn is_prompting(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl InterruptPolicy {
    /// Returns when signals end the command, with its outcome.
    pub(super) async fn wait_for_end(self, stop: &StopToken) -> Result<(), Failure> {
        match self {
            Self::Fail => {
                stop.wait().await;
                Err(Failure::Interrupted)
            }
            Self::Complete => {
                stop.wait().await;
                Ok(())
            }
            Self::Serve => {
                stop.wait_immediate().await;
                Err(Failure::ForcedStop { recovery: "`switchman status` shows the host" })
            }
            Self::Finish { recovery, .. } | Self::Refuse { recovery, .. } => {
                stop.wait_immediate().await;
                Err(Failure::ForcedStop { recovery })
            }
        }
    }

    /// Returns the line that answers this signal.
    const fn find_notice(self, signals: u32) -> Option<&'static str> {
        match (self, signals) {
            (Self::Finish { notice, .. } | Self::Refuse { notice, .. }, 1) => Some(notice),
            (Self::Refuse { abort_notice, .. }, 2) => Some(abort_notice),
            _ => None,
        }
    }

    /// The number of signals that change nothing.
    const fn count_refused(self) -> u32 {
        if matches!(self, Self::Refuse { .. }) { 1 } else { 0 }
    }
}

/// Answers each signal with the notice of the policy, on a thread of its own: that of the command may be blocked by a file that
/// another process has locked. The request is passed on in the command's thread, between two steps of its work.
pub(super) fn handle_signals(
    policy: InterruptPolicy,
    stopper: StopHandle,
    prompt: PromptState,
    renderer: Arc<Renderer>,
) -> Result<(), Failure> {
    let failed = fail_system("listen for signals");
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (requests, mut received) = tokio::sync::mpsc::unbounded_channel();
    let answer = move || {
        let listened =
            tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                runtime.block_on(async {
                    let signals = Signals::listen()?;
                    // The receiver waits for this.
                    let _ = ready.send(Ok(()));
                    signals.answer_each(policy, &requests, &prompt, &renderer).await
                })
            });
        if let Err(error) = listened {
            let _ = ready.send(Err(error));
        }
    };
    std::thread::Builder::new().name("swm-signals".to_owned()).spawn(answer).map_err(&failed)?;
    is_ready.recv().unwrap_or_else(|ended| Err(io::Error::other(ended))).map_err(failed)?;
    tokio::spawn(async move {
        while let Some(request) = received.recv().await {
            match request {
                Request::Stop => stopper.stop(),
                Request::StopAtOnce => stopper.stop_at_once(),
            }
        }
    });
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Stop,
    StopAtOnce,
}

/// The signals that request a stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where the parent process set it to be ignored.
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let hangup =
            if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// Further hang-ups change nothing, for the kernel and the shell each send one.
    async fn answer_each(
        mut self,
        policy: InterruptPolicy,
        requests: &UnboundedSender<Request>,
        prompt: &PromptState,
        renderer: &Renderer,
    ) -> io::Result<()> {
        let mut signals = 0;
        loop {
            let before = signals;
            tokio::select! {
                _ = self.interrupt.recv() => signals += 1,
                _ = self.terminate.recv() => signals += 1,
                Some(_) = OptionFuture::from(self.hangup.as_mut().map(Signal::recv)) => signals = signals.max(1),
            }
            if signals > before {
                let print = |notice: &str| renderer.print_remark(notice);
                answer_signal(policy, signals, prompt.is_prompting(), print, |request| {
                    // Without a receiver the command has ended.
                    let _ = requests.send(request);
                });
            }
        }
    }
}

/// Prints the notice before the request is passed on: no work that the request starts or ends delays the answer.
fn answer_signal(
    policy: InterruptPolicy,
    signals: u32,
    is_prompting: bool,
    print: impl FnOnce(&str),
    pass_on: impl FnOnce(Request),
) {
    if let Some(notice) = policy.find_notice(signals).filter(|_| !is_prompting) {
        print(notice);
    }
    match signals - policy.count_refused().min(signals) {
        0 => {}
        1 => pass_on(Request::Stop),
        _ => pass_on(Request::StopAtOnce),
    }
}

/// Whether the parent process set the signal to be ignored, as nohup(1) does: proc(5), `SigIgn` of /proc/PID/status.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// What repairs a roll that a second signal stopped.
pub(super) const ROLL_RECOVERY: &str = "`switchman roll --status` shows how far it was, `switchman roll --abort` puts back every host it took out";

pub(super) const ROLL: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: hosts that are out are finished or put back, then the roll stops; a second Ctrl-C stops it at once \
             and leaves them out",
    recovery: ROLL_RECOVERY,
};

pub(super) const PROMOTE: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: main answers everything again, then the promotion stops; a second Ctrl-C stops it at once and may \
             leave its canary",
    recovery: "`switchman promote NAME --status` shows how far it was, `switchman promote NAME --abort` removes its canary",
};

pub(super) const ASSIGN: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: the change in progress is finished or undone; a second Ctrl-C stops at once and may leave hosts on \
             different versions",
    recovery: "`switchman status` shows main of every host, `switchman roll --status` whether a roll is unfinished",
};

pub(super) const SWITCH: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: the kernel's change is finished, the wait for HAProxy ends; a second Ctrl-C stops at once",
    recovery: "`switchman status` shows every host",
};

pub(super) const KILL: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: a version that has not drained stays, and so do the rest; a second Ctrl-C stops at once",
    recovery: "`switchman ls --wide` shows what is left",
};

pub(super) const UPDATE: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: the host at work keeps its old code unless the new one serves already, the others stay as they are; \
             a second Ctrl-C stops at once",
    recovery: "`switchman describe NAME VERSION` shows the build of every host; the same command again is safe",
};

/// Seed row D25 (docs/design/seed-systems.md#mvi-and-daeploy).
pub(super) const DEPLOY: InterruptPolicy = InterruptPolicy::Refuse {
    notice: "CTRL+C is disabled during deployment. Please be patient!\n next: a second Ctrl-C aborts the deployment and removes \
             what it placed",
    abort_notice: "interrupted: the deployment is removed from every host; a third Ctrl-C stops at once",
    recovery: "`switchman ls --wide` shows what was deployed, `switchman kill NAME VERSION` removes it",
};

/// `deploy --assign`.
pub(super) const DEPLOY_AND_ASSIGN: InterruptPolicy = InterruptPolicy::Refuse {
    notice: "CTRL+C is disabled during deployment. Please be patient!\n next: a second Ctrl-C removes a deployment in progress, \
             or stops the assign after it",
    abort_notice: "interrupted: a deployment in progress is removed from every host; an assign in progress is finished or \
                   undone on its hosts, and the version stays; a third Ctrl-C stops at once",
    recovery: "`switchman status` shows main of every host, `switchman roll --status` whether a roll is unfinished",
};

pub(super) const CHANGE: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: the change in progress is finished on every host, waits end; a second Ctrl-C stops at once",
    recovery: "`switchman ls --wide` shows every host; the same command again is safe",
};

pub(super) const LAB: InterruptPolicy = InterruptPolicy::Finish {
    notice: "interrupted: the lab is removed; a second Ctrl-C stops at once and leaves it",
    recovery: "`switchman lab down` removes what is left",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::stop;

    /// Each notice names the effect of the next signal.
    #[test]
    fn notices_name_the_next_signal() {
        for policy in [ROLL, PROMOTE, ASSIGN, SWITCH, KILL, UPDATE, CHANGE, LAB] {
            let notice = policy.find_notice(1).unwrap();
            assert!(notice.starts_with("interrupted: ") && notice.contains("a second Ctrl-C"), "{notice}");
            assert_eq!(policy.find_notice(2), None, "{notice}");
        }
        assert!(DEPLOY.find_notice(1).unwrap().contains("a second Ctrl-C aborts"));
        assert!(DEPLOY.find_notice(2).unwrap().contains("a third Ctrl-C"));
    }

    /// `make bench` measures the time; the order needs no clock.
    #[test]
    fn notice_is_printed_before_work_is_stopped() {
        for policy in [ROLL, PROMOTE, ASSIGN, SWITCH, KILL, UPDATE, CHANGE, LAB, DEPLOY, DEPLOY_AND_ASSIGN] {
            let log = std::cell::RefCell::new(Vec::new());
            for signals in 1..=3 {
                let pass_on = |request| log.borrow_mut().push(Some(request));
                answer_signal(policy, signals, false, |_| log.borrow_mut().push(None), pass_on);
            }
            let (first, rest) = ([None], [None, Some(Request::Stop), Some(Request::StopAtOnce)]);
            let expected = match policy.count_refused() {
                0 => [&rest[..], &[Some(Request::StopAtOnce)]].concat(),
                _ => [&first[..], &rest].concat(),
            };
            assert_eq!(log.into_inner(), expected, "{policy:?}");
            answer_signal(policy, 1, true, |_| panic!("a prompt is its own answer"), |_| {});
        }
    }

    #[tokio::test]
    async fn commands_without_changes_end_at_the_first_request() {
        let (stopper, stop) = stop::create_channel();
        stopper.stop();
        assert!(matches!(InterruptPolicy::Fail.wait_for_end(&stop).await, Err(Failure::Interrupted)));
        assert!(InterruptPolicy::Complete.wait_for_end(&stop).await.is_ok());
        for policy in [ROLL, DEPLOY, InterruptPolicy::Serve] {
            tokio::select! {
                biased;
                _ = policy.wait_for_end(&stop) => panic!("{policy:?} ended"),
                () = std::future::ready(()) => {}
            }
        }
        stopper.stop_at_once();
        assert!(matches!(ROLL.wait_for_end(&stop).await, Err(Failure::ForcedStop { .. })));
    }
}
