//! The keeper: one small process for each instance, which outlives its caller. It starts the program, starts it
//! again, reads its outputs, and ends it with all that it has made.
//!
//! One thread, a poll loop and no runtime: it is there for every instance of a host for as long as the host is up.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as Caught};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::Signal;

use super::cgroup::Cgroup;
use super::instance_dir::{InstanceDir, MonitorState, SavedSpec, StartReport, StopOutcome};
use super::log::LogWriter;
use super::process::{InstanceProcesses, ProcessId};
use super::restart_backoff::RestartBackoff;
use crate::model::deployment::{ProcessState, StopSignal};
use crate::sys::exec::{OWN_EXE, Program};

/// How often it is looked whether processes that are no children of the keeper have ended.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(5);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A lock that is held for half a second is held by a keeper.
const MAX_LOCK_ATTEMPTS: u32 = 50;
const LOCK_POLL_MS: u8 = 10;

/// Keeps the instance of this directory until it is stopped. The report goes to standard output.
pub fn keep(dir: &Path) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("cannot {what}: {error}")
    };
    let signals = detach().map_err(failed("become a keeper"))?;
    let place = InstanceDir::new(dir);
    let Some(lock) = acquire_lock(&place).map_err(failed("take the lock"))? else {
        write_report(&StartReport::Started);
        return Ok(());
    };
    let kept = place.read_spec().map_err(failed("read how it is run"))?;
    let kept = kept.ok_or("how it is run is not recorded")?;
    // A state that cannot be read is no reason not to run it: what is left of it is found by its mark.
    let state = place.state().unwrap_or_default();
    let out = place.open_fifo("out").map_err(failed("open the pipe of its outputs"))?;
    let control = place.open_fifo("control").map_err(failed("open the pipe of its callers"))?;
    LogWriter::widen_fifo(&out);
    let keeper = Monitor {
        members: InstanceProcesses { mark: dir.to_owned(), cgroup: Cgroup::create(dir) },
        log: LogWriter::new(&place, &kept.tuning),
        main: None,
        phase: Phase::Running,
        restarts: RestartBackoff::default(),
        is_reported: false,
        dir: place,
        saved_spec: kept,
        state,
    };
    let kept = keeper.run(out, control, &signals);
    drop(lock);
    kept.map_err(failed("go on"))
}

/// `None`: there is a keeper. One that is being killed holds its lock until its very end, and one who only looks whether there
/// is a keeper holds it for a moment: neither is one.
fn acquire_lock(place: &InstanceDir) -> io::Result<Option<File>> {
    for _ in 0..MAX_LOCK_ATTEMPTS {
        if let Some(lock) = place.lock("keeper.lock")? {
            return Ok(Some(lock));
        }
        // Nothing to poll: only its timeout is wanted.
        let _ = poll(&mut [], LOCK_POLL_MS);
    }
    Ok(None)
}

/// Detaches from the caller: a session of its own, no files of others, and the parent of all that its descendants
/// leave behind (PR_SET_CHILD_SUBREAPER).
fn detach() -> io::Result<SignalFd> {
    // The names are all read, and with them the directory is closed: it is not to be closed twice.
    let names: Vec<_> = {
        let entries = std::fs::read_dir("/proc/self/fd")?;
        entries.flatten().map(|entry| entry.file_name()).collect()
    };
    for fd in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2) {
        // Nothing of ours is open yet.
        let _ = nix::unistd::close(fd);
    }
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    nix::sys::prctl::set_name(c"swm-keeper")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut mask = SigSet::empty();
    for signal in [Caught::SIGCHLD, Caught::SIGTERM, Caught::SIGINT, Caught::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Reports to the caller that waits; a caller that does not wait any more is no reason to end.
fn write_report(report: &StartReport) {
    if let Ok(text) = serde_json::to_vec(report) {
        let mut out = io::stdout();
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
    // The end of the pipe is what is waited for.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

struct Monitor {
    dir: InstanceDir,
    saved_spec: SavedSpec,
    state: MonitorState,
    members: InstanceProcesses,
    log: LogWriter,
    main: Option<MainProcess>,
    phase: Phase,
    restarts: RestartBackoff,
    is_reported: bool,
}

/// The program's first process.
struct MainProcess {
    process_id: ProcessId,
    /// Handle of a program that an earlier keeper has started; that of our own child is SIGCHLD, and how it ended.
    adopted_handle: Option<OwnedFd>,
    started_at: Instant,
}

enum Phase {
    Running,
    Stopping(StopProgress),
    Waiting { retry_at: Instant },
    Done,
}

struct StopProgress {
    /// Whether it is not to be started again.
    is_final: bool,
    /// Then it is started again.
    restart_at: Instant,
    deadline: Instant,
    signalled: BTreeSet<ProcessId>,
    poll_interval: Duration,
    outcome: StopOutcome,
}

impl Monitor {
    fn run(mut self, mut out: File, mut control: File, signals: &SignalFd) -> io::Result<()> {
        self.adopt_running();
        while !matches!(self.phase, Phase::Done) {
            let ready = self.wait_for_event(&out, &control, signals)?;
            if ready.out {
                self.log.read_available(&mut out);
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo == Caught::SIGTERM as u32 {
                    self.stop(self.saved_spec.spec.grace);
                }
            }
            if ready.control {
                let _ = control.read(&mut [0; 4096]);
                if let Ok(Some(stop)) = self.dir.stop() {
                    self.stop(stop.grace);
                }
            }
            self.reap();
            self.step();
        }
        while !self.log.read_available(&mut out) {}
        self.log.end();
        if let Some(cgroup) = &self.members.cgroup {
            cgroup.remove();
        }
        if !self.is_reported {
            write_report(&StartReport::Started);
        }
        self.write_state();
        Ok(())
    }

    /// Takes over what an earlier keeper has left running.
    fn adopt_running(&mut self) {
        self.state.is_stopping = false;
        self.state.ended = None;
        let earlier = self.state.main.clone();
        self.main = earlier.and_then(|alive| {
            let handle = alive.open_handle()?;
            Some(MainProcess { process_id: alive, adopted_handle: Some(handle), started_at: Instant::now() })
        });
        match self.dir.stop() {
            Ok(Some(stop)) => {
                self.stop(stop.grace);
                self.report_started();
            }
            _ if self.main.is_some() => self.report_started(),
            // First what is left of an earlier run, if anything is.
            _ => self.begin_stop(false, self.saved_spec.spec.grace, Duration::ZERO),
        }
    }

    fn report_started(&mut self) {
        if !std::mem::replace(&mut self.is_reported, true) {
            write_report(&StartReport::Started);
        }
    }

    fn wait_for_event(&self, out: &File, control: &File, signals: &SignalFd) -> io::Result<ReadyFds> {
        let until = match &self.phase {
            Phase::Running | Phase::Done => None,
            Phase::Waiting { retry_at: until } => Some(until.saturating_duration_since(Instant::now())),
            Phase::Stopping(ending) => Some(ending.poll_interval),
        };
        // Rounded up, or it would spin through the last part of a millisecond.
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            PollTimeout::try_from(until.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![
            PollFd::new(out.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(handle) = self.main.as_ref().and_then(|main| main.adopted_handle.as_ref()) {
            fds.push(PollFd::new(handle.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| fds[at].any().unwrap_or(false);
        Ok(ReadyFds { out: ready(0), control: ready(1) })
    }

    /// Children that have ended, adopted ones among them.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let last = match status {
                WaitStatus::Exited(_, status) => format!("status {status}"),
                WaitStatus::Signaled(_, signal, _) => format!("signal {}", signal as i32),
                WaitStatus::StillAlive => break,
                _ => continue,
            };
            let ended = status.pid().map(|pid| pid.as_raw().cast_unsigned());
            if self.main.as_ref().is_some_and(|main| Some(main.process_id.pid) == ended) {
                self.handle_main_exit(last);
            }
        }
        if self.main.as_ref().is_some_and(|main| main.adopted_handle.is_some() && !main.process_id.is_alive())
        {
            // Only its parent is notified, which is process 1 by now.
            self.handle_main_exit("exit status unknown".to_owned());
        }
    }

    fn handle_main_exit(&mut self, last: String) {
        let Some(main) = self.main.take() else { return };
        self.state.main = None;
        if matches!(self.phase, Phase::Running) {
            let pause = self.restarts.pause(Some(main.started_at.elapsed()), &self.saved_spec.tuning);
            self.set_waiting(last);
            self.begin_stop(false, self.saved_spec.spec.grace, pause);
        }
    }

    fn set_waiting(&mut self, last: String) {
        let restarts = self.restart_count();
        self.state.process = ProcessState::Waiting { since: Timestamp::now(), restarts, last_exit: last };
        self.write_state();
    }

    fn restart_count(&self) -> u32 {
        match self.state.process {
            ProcessState::Running { restarts, .. } | ProcessState::Waiting { restarts, .. } => restarts,
            ProcessState::Stopped { .. } | ProcessState::External => 0,
        }
    }

    fn stop(&mut self, grace: Duration) {
        if let Phase::Stopping(ending) = &mut self.phase
            && ending.is_final
        {
            // A second request: the shorter grace wins.
            ending.deadline = ending.deadline.min(Instant::now() + grace);
            return;
        }
        self.state.is_stopping = true;
        self.write_state();
        self.begin_stop(true, grace, Duration::ZERO);
    }

    fn begin_stop(&mut self, stop: bool, grace: Duration, pause: Duration) {
        let now = Instant::now();
        self.phase = Phase::Stopping(StopProgress {
            is_final: stop,
            restart_at: now + pause,
            deadline: now + grace,
            signalled: BTreeSet::new(),
            poll_interval: MIN_POLL_INTERVAL,
            outcome: StopOutcome::Already,
        });
    }

    fn step(&mut self) {
        match &mut self.phase {
            Phase::Running | Phase::Done => {}
            Phase::Waiting { retry_at: until } => {
                if *until <= Instant::now() {
                    self.launch();
                }
            }
            Phase::Stopping(ending) => {
                let members = self.members.find();
                if !members.is_empty() || self.main.is_some() {
                    let main = self.main.as_ref().map(|main| &main.process_id);
                    let signal =
                        if ending.is_final { self.saved_spec.spec.stop_signal } else { StopSignal::Term };
                    ending.signal_members(&members, main, signal);
                    return;
                }
                let (stop, again, how) = (ending.is_final, ending.restart_at, ending.outcome);
                if stop {
                    self.set_stopped(String::new(), Some(how));
                } else {
                    self.phase = Phase::Waiting { retry_at: again };
                    self.step();
                }
            }
        }
    }

    fn set_stopped(&mut self, last: String, ended: Option<StopOutcome>) {
        self.state.main = None;
        self.state.process = ProcessState::Stopped { since: Some(Timestamp::now()), last_exit: last };
        self.state.ended = ended;
        self.phase = Phase::Done;
    }

    fn launch(&mut self) {
        let restarts = match self.state.process {
            ProcessState::Waiting { restarts, .. } => restarts.saturating_add(1),
            _ => 0,
        };
        match spawn_program(self.dir.dir()) {
            Ok(main) => {
                self.state.main = Some(main.process_id.clone());
                self.state.process =
                    ProcessState::Running { pid: main.process_id.pid, since: Timestamp::now(), restarts };
                self.main = Some(main);
                self.phase = Phase::Running;
                self.write_state();
                self.report_started();
            }
            // The first start is the caller's, which gets a report; any other is ours.
            Err(why) if !self.is_reported => {
                write_report(&why);
                self.is_reported = true;
                self.set_stopped("it was not started".to_owned(), None);
            }
            Err(why) => {
                self.state.process =
                    ProcessState::Waiting { since: Timestamp::now(), restarts, last_exit: String::new() };
                self.set_waiting(describe_report(&why));
                let pause = self.restarts.pause(None, &self.saved_spec.tuning);
                self.phase = Phase::Waiting { retry_at: Instant::now() + pause };
            }
        }
    }

    /// Without it a caller sees an older state, and the next keeper may not find the program's first process: no reason to
    /// end the program now.
    fn write_state(&self) {
        if let Err(error) = self.dir.write_state(&self.state) {
            log::warn!("cannot write the state of `{}`: {error}", self.dir.dir().display());
        }
    }
}

impl StopProgress {
    /// Sends the signal once to each process that is there. A process that the program makes after its own signal is a part of
    /// its orderly end (a shell's trap runs programs) and gets TERM when the program has ended. After the grace all are killed.
    fn signal_members(
        &mut self,
        members: &BTreeSet<ProcessId>,
        main: Option<&ProcessId>,
        signal: StopSignal,
    ) {
        let kill = self.deadline <= Instant::now();
        self.outcome = if kill || self.outcome == StopOutcome::Killed {
            StopOutcome::Killed
        } else {
            StopOutcome::Gracefully
        };
        let is_program_ending = main.is_some_and(|main| self.signalled.contains(main));
        for alive in members {
            let signal = match signal {
                _ if kill => Signal::KILL,
                _ if is_program_ending && main != Some(alive) => continue,
                StopSignal::Term => Signal::TERM,
                // Its other processes are its own business, while it is there.
                _ if main.is_some_and(|main| main != alive) => continue,
                _ if main.is_none() => Signal::TERM,
                StopSignal::Quit => Signal::QUIT,
                StopSignal::Winch => Signal::WINCH,
            };
            if kill || self.signalled.insert(alive.clone()) {
                alive.signal(signal);
                // A stopped process gets the signal only when it goes on.
                alive.signal(Signal::CONT);
            }
        }
        self.poll_interval =
            if kill { MIN_POLL_INTERVAL } else { (self.poll_interval * 2).min(MAX_POLL_INTERVAL) };
    }
}

struct ReadyFds {
    out: bool,
    control: bool,
}

/// Returns when the program has begun or has failed to: the pipe that is closed by the one brings the reason of the other.
fn spawn_program(dir: &Path) -> Result<MainProcess, StartReport> {
    let failed = |error: io::Error| StartReport::Failed { why: format!("cannot start a process: {error}") };
    let (mut read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map(|(read, write)| (File::from(read), write))
        .map_err(|error| failed(error.into()))?;
    // The program's outputs block, where the keeper's end of the pipe does not: they are opened apart.
    let outputs = File::options()
        .read(true)
        .write(true)
        .open(InstanceDir::new(dir).file_path("out"))
        .map_err(failed)?;
    let program = Program::new(OWN_EXE).args(["supervise", "--role", "exec"]).arg(dir);
    let mut child = program.child(write, &outputs).map_err(failed)?;
    let mut text = Vec::new();
    read.read_to_end(&mut text).map_err(failed)?;
    if text.is_empty() {
        let alive = ProcessId::from_child(child.id());
        let alive = alive.ok_or_else(|| failed(io::Error::other("it cannot be seen in /proc")))?;
        return Ok(MainProcess { process_id: alive, adopted_handle: None, started_at: Instant::now() });
    }
    let _ = child.wait();
    let garbled = || StartReport::Failed { why: String::from_utf8_lossy(&text).into_owned() };
    Err(serde_json::from_slice(&text).unwrap_or_else(|_| garbled()))
}

fn describe_report(report: &StartReport) -> String {
    match report {
        StartReport::Started => String::new(),
        StartReport::Missing { program } => format!("`{program}` is not installed"),
        StartReport::NoUser { user } => format!("there is no user `{user}` on this host"),
        StartReport::Failed { why } => why.clone(),
    }
}
