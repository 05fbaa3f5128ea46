//! The keeper: one small process for each instance, which outlives whoever started it. It starts the program, starts it
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
use super::instance_dir::{HowEnded, Kept, Place, Report, State};
use super::log::Writer;
use super::process::{Alive, Members};
use super::restarts::Restarts;
use crate::model::deployment::{Process, StopSignal};
use crate::sys::exec::{OURSELVES, Program};

/// How often it is looked whether processes that are no children of the keeper have ended.
const SHORTEST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// A lock that is held for half a second is held by a keeper.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: u8 = 10;

/// Keeps the instance of this directory until it is stopped. The report goes to standard output.
pub fn keep(dir: &Path) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("cannot {what}: {error}")
    };
    let signals = settle().map_err(failed("become a keeper"))?;
    let place = Place::new(dir);
    let Some(lock) = lock(&place).map_err(failed("take the lock"))? else {
        report(&Report::Started);
        return Ok(());
    };
    let kept = place.kept().map_err(failed("read how it is run"))?;
    let kept = kept.ok_or("how it is run is not recorded")?;
    // A state that cannot be read is no reason not to run it: what is left of it is found by its mark.
    let state = place.state().unwrap_or_default();
    let out = place.fifo("out").map_err(failed("open the pipe of its outputs"))?;
    let control = place.fifo("control").map_err(failed("open the pipe of its callers"))?;
    Writer::widen(&out);
    let keeper = Keeper {
        members: Members { mark: dir.to_owned(), cgroup: Cgroup::make(dir) },
        log: Writer::new(&place, &kept.tuning),
        main: None,
        phase: Phase::Up,
        restarts: Restarts::default(),
        reported: false,
        place,
        kept,
        state,
    };
    let kept = keeper.run(out, control, &signals);
    drop(lock);
    kept.map_err(failed("go on"))
}

/// `None`: there is a keeper. One that is being killed holds its lock until its very end, and one who only looks whether there
/// is a keeper holds it for a moment: neither is one.
fn lock(place: &Place) -> io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = place.lock("keeper.lock")? {
            return Ok(Some(lock));
        }
        // Nothing to poll: only its timeout is wanted.
        let _ = poll(&mut [], LOCK_PAUSE);
    }
    Ok(None)
}

/// Away from whoever started it: a session of its own, no files of others, and the parent of all that its descendants
/// leave behind (PR_SET_CHILD_SUBREAPER).
fn settle() -> io::Result<SignalFd> {
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

/// To whoever waits for it; one who does not wait any more is no reason to end.
fn report(report: &Report) {
    if let Ok(text) = serde_json::to_vec(report) {
        let mut out = io::stdout();
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
    // The end of the pipe is what is waited for.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

struct Keeper {
    place: Place,
    kept: Kept,
    state: State,
    members: Members,
    log: Writer,
    main: Option<Main>,
    phase: Phase,
    restarts: Restarts,
    reported: bool,
}

/// The program's first process.
struct Main {
    alive: Alive,
    /// Of one that an earlier keeper has started; that of our own child is SIGCHLD, and how it ended.
    adopted: Option<OwnedFd>,
    began: Instant,
}

enum Phase {
    Up,
    Ending(Ending),
    Waiting { until: Instant },
    Done,
}

struct Ending {
    /// Whether it is not to be started again.
    stop: bool,
    /// Then it is started again.
    again: Instant,
    deadline: Instant,
    told: BTreeSet<Alive>,
    look: Duration,
    how: HowEnded,
}

impl Keeper {
    fn run(mut self, mut out: File, mut control: File, signals: &SignalFd) -> io::Result<()> {
        self.begin();
        while !matches!(self.phase, Phase::Done) {
            let ready = self.wait(&out, &control, signals)?;
            if ready.out {
                self.log.pump(&mut out);
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo == Caught::SIGTERM as u32 {
                    self.stop(self.kept.spec.grace);
                }
            }
            if ready.control {
                let _ = control.read(&mut [0; 4096]);
                if let Ok(Some(stop)) = self.place.stop() {
                    self.stop(stop.grace);
                }
            }
            self.reap();
            self.step();
        }
        while !self.log.pump(&mut out) {}
        self.log.end();
        if let Some(cgroup) = &self.members.cgroup {
            cgroup.remove();
        }
        if !self.reported {
            report(&Report::Started);
        }
        self.put_state();
        Ok(())
    }

    /// Takes over what an earlier keeper has left running.
    fn begin(&mut self) {
        self.state.stopping = false;
        self.state.ended = None;
        let earlier = self.state.main.clone();
        self.main = earlier.and_then(|alive| {
            let handle = alive.handle()?;
            Some(Main { alive, adopted: Some(handle), began: Instant::now() })
        });
        match self.place.stop() {
            Ok(Some(stop)) => {
                self.stop(stop.grace);
                self.started();
            }
            _ if self.main.is_some() => self.started(),
            // First what is left of an earlier run, if anything is.
            _ => self.end(false, self.kept.spec.grace, Duration::ZERO),
        }
    }

    fn started(&mut self) {
        if !std::mem::replace(&mut self.reported, true) {
            report(&Report::Started);
        }
    }

    fn wait(&self, out: &File, control: &File, signals: &SignalFd) -> io::Result<Ready> {
        let until = match &self.phase {
            Phase::Up | Phase::Done => None,
            Phase::Waiting { until } => Some(until.saturating_duration_since(Instant::now())),
            Phase::Ending(ending) => Some(ending.look),
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
        if let Some(handle) = self.main.as_ref().and_then(|main| main.adopted.as_ref()) {
            fds.push(PollFd::new(handle.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| fds[at].any().unwrap_or(false);
        Ok(Ready { out: ready(0), control: ready(1) })
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
            if self.main.as_ref().is_some_and(|main| Some(main.alive.pid) == ended) {
                self.main_ended(last);
            }
        }
        if self.main.as_ref().is_some_and(|main| main.adopted.is_some() && !main.alive.is_there()) {
            // Only its parent is told, who is process 1 by now.
            self.main_ended("nobody knows how".to_owned());
        }
    }

    fn main_ended(&mut self, last: String) {
        let Some(main) = self.main.take() else { return };
        self.state.main = None;
        if matches!(self.phase, Phase::Up) {
            let pause = self.restarts.pause(Some(main.began.elapsed()), &self.kept.tuning);
            self.waits(last);
            self.end(false, self.kept.spec.grace, pause);
        }
    }

    fn waits(&mut self, last: String) {
        let restarts = self.count();
        self.state.process = Process::Waiting { since: Timestamp::now(), restarts, last };
        self.put_state();
    }

    fn count(&self) -> u32 {
        match self.state.process {
            Process::Running { restarts, .. } | Process::Waiting { restarts, .. } => restarts,
            Process::Stopped { .. } | Process::External => 0,
        }
    }

    fn stop(&mut self, grace: Duration) {
        if let Phase::Ending(ending) = &mut self.phase
            && ending.stop
        {
            // Asked again: whoever has less patience is right.
            ending.deadline = ending.deadline.min(Instant::now() + grace);
            return;
        }
        self.state.stopping = true;
        self.put_state();
        self.end(true, grace, Duration::ZERO);
    }

    fn end(&mut self, stop: bool, grace: Duration, pause: Duration) {
        let now = Instant::now();
        self.phase = Phase::Ending(Ending {
            stop,
            again: now + pause,
            deadline: now + grace,
            told: BTreeSet::new(),
            look: SHORTEST_LOOK,
            how: HowEnded::Already,
        });
    }

    fn step(&mut self) {
        match &mut self.phase {
            Phase::Up | Phase::Done => {}
            Phase::Waiting { until } => {
                if *until <= Instant::now() {
                    self.launch();
                }
            }
            Phase::Ending(ending) => {
                let members = self.members.find();
                if !members.is_empty() || self.main.is_some() {
                    let main = self.main.as_ref().map(|main| &main.alive);
                    let signal = if ending.stop { self.kept.spec.stop_signal } else { StopSignal::Term };
                    ending.go_on(&members, main, signal);
                    return;
                }
                let (stop, again, how) = (ending.stop, ending.again, ending.how);
                if stop {
                    self.stopped(String::new(), Some(how));
                } else {
                    self.phase = Phase::Waiting { until: again };
                    self.step();
                }
            }
        }
    }

    fn stopped(&mut self, last: String, ended: Option<HowEnded>) {
        self.state.main = None;
        self.state.process = Process::Stopped { since: Some(Timestamp::now()), last };
        self.state.ended = ended;
        self.phase = Phase::Done;
    }

    fn launch(&mut self) {
        let restarts = match self.state.process {
            Process::Waiting { restarts, .. } => restarts.saturating_add(1),
            _ => 0,
        };
        match spawn(self.place.dir()) {
            Ok(main) => {
                self.state.main = Some(main.alive.clone());
                self.state.process =
                    Process::Running { pid: main.alive.pid, since: Timestamp::now(), restarts };
                self.main = Some(main);
                self.phase = Phase::Up;
                self.put_state();
                self.started();
            }
            // The first start is the caller's, who is told; any other is ours.
            Err(why) if !self.reported => {
                report(&why);
                self.reported = true;
                self.stopped("it was not started".to_owned(), None);
            }
            Err(why) => {
                self.state.process =
                    Process::Waiting { since: Timestamp::now(), restarts, last: String::new() };
                self.waits(say(&why));
                let pause = self.restarts.pause(None, &self.kept.tuning);
                self.phase = Phase::Waiting { until: Instant::now() + pause };
            }
        }
    }

    /// Without it a caller sees an older state, and the next keeper may not find the program's first process: no reason to
    /// end the program now.
    fn put_state(&self) {
        if let Err(error) = self.place.put_state(&self.state) {
            log::warn!("cannot write the state of `{}`: {error}", self.place.dir().display());
        }
    }
}

impl Ending {
    /// Every process is told once, those too that were made meanwhile; after the grace all of them are killed.
    fn go_on(&mut self, members: &BTreeSet<Alive>, main: Option<&Alive>, signal: StopSignal) {
        let kill = self.deadline <= Instant::now();
        self.how = if kill || self.how == HowEnded::Killed { HowEnded::Killed } else { HowEnded::Gracefully };
        for alive in members {
            let signal = match signal {
                _ if kill => Signal::KILL,
                StopSignal::Term => Signal::TERM,
                // Its other processes are its own business, while it is there.
                _ if main.is_some_and(|main| main != alive) => continue,
                _ if main.is_none() => Signal::TERM,
                StopSignal::Quit => Signal::QUIT,
                StopSignal::Winch => Signal::WINCH,
            };
            if kill || self.told.insert(alive.clone()) {
                alive.signal(signal);
                // What is stopped hears it only when it goes on.
                alive.signal(Signal::CONT);
            }
        }
        self.look = if kill { SHORTEST_LOOK } else { (self.look * 2).min(LONGEST_LOOK) };
    }
}

struct Ready {
    out: bool,
    control: bool,
}

/// Returns when the program has begun or has failed to: the pipe that is closed by the one brings the reason of the other.
fn spawn(dir: &Path) -> Result<Main, Report> {
    let failed = |error: io::Error| Report::Failed { why: format!("cannot start a process: {error}") };
    let (mut read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map(|(read, write)| (File::from(read), write))
        .map_err(|error| failed(error.into()))?;
    // The program's outputs block, where the keeper's end of the pipe does not: they are opened apart.
    let outputs = File::options().read(true).write(true).open(Place::new(dir).file("out")).map_err(failed)?;
    let program = Program::new(OURSELVES).args(["supervise", "--part", "become"]).arg(dir);
    let mut child = program.child(write, &outputs).map_err(failed)?;
    let mut text = Vec::new();
    read.read_to_end(&mut text).map_err(failed)?;
    if text.is_empty() {
        let alive = Alive::of_child(child.id());
        let alive = alive.ok_or_else(|| failed(io::Error::other("it cannot be seen in /proc")))?;
        return Ok(Main { alive, adopted: None, began: Instant::now() });
    }
    let _ = child.wait();
    let garbled = || Report::Failed { why: String::from_utf8_lossy(&text).into_owned() };
    Err(serde_json::from_slice(&text).unwrap_or_else(|_| garbled()))
}

fn say(report: &Report) -> String {
    match report {
        Report::Started => String::new(),
        Report::Missing { program } => format!("`{program}` is not installed"),
        Report::NoUser { user } => format!("there is no user `{user}` on this host"),
        Report::Failed { why } => why.clone(),
    }
}
