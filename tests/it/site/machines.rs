//! Operator machines of the lab that can be thrown away: each has its own host name, processes and disk, which end with it. A machine
//! has the files of a checkout; its settings and its ssh key are in its environment.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Site;
use crate::journal_store::servers::Servers;

/// The limit of a command.
const LIMIT: Duration = Duration::from_mins(4);

/// Makes the disk, takes the checkout, and hides the place that it came from.
const SETUP: &str = "set -e; hostname \"$0\"; mount -t tmpfs none /mnt; cp -r \"$CHECKOUT\" /mnt/job; \
                     mount -t tmpfs none \"$CHECKOUT\"; mount -t tmpfs none \"$OPERATOR\"; mkdir /mnt/tmp; \
                     export TMPDIR=/mnt/tmp; cd /mnt/job; exec \"$@\"";

pub struct Machines<'a> {
    site: &'a Site,
    /// `SWITCHMAN_JOURNAL`.
    journal: String,
}

/// A command on a machine of its own.
pub struct RunningMachine {
    child: tokio::process::Child,
    log: PathBuf,
}

impl<'a> Machines<'a> {
    pub fn new(site: &'a Site, journal: &str) -> Self {
        let operator = site.operator.dir();
        let checkout = site.lab.dir().join("checkout");
        std::fs::create_dir(&checkout).unwrap();
        // The key and the known hosts come from the environment alone; no connection is shared between machines.
        let is_kept = |line: &&str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            !["IdentityFile", "IdentitiesOnly", "UserKnownHostsFile", "StrictHostKeyChecking"]
                .contains(&first)
                && !first.starts_with("Control")
        };
        let config = read(&operator.join("ssh_config"));
        let config: Vec<&str> = config.lines().filter(is_kept).collect();
        std::fs::write(checkout.join("ssh_config"), config.join("\n") + "\n").unwrap();
        let yaml = read(&operator.join("switchman.yaml"));
        let yaml = yaml.replace(&format!("{}/ssh_config", operator.display()), "/mnt/job/ssh_config");
        std::fs::write(checkout.join("switchman.yaml"), yaml).unwrap();
        Self { site, journal: journal.to_owned() }
    }

    pub fn start(&self, machine: &str, args: &[&str]) -> RunningMachine {
        self.start_with(machine, &[], args)
    }

    /// `env` is that of switchman alone: `NAME=VALUE`.
    pub fn start_with(&self, machine: &str, env: &[String], args: &[&str]) -> RunningMachine {
        let (lab, operator) = (self.site.lab.dir(), self.site.operator.dir());
        let program = self
            .site
            .lab
            .program("client", "unshare")
            .args(["--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SETUP])
            .args([machine, "env"])
            .args(env)
            .arg(env!("CARGO_BIN_EXE_switchman"))
            .args(["--no-color", "--state-dir", "/mnt/job/state"])
            .args(args)
            .env("CHECKOUT", lab.join("checkout"))
            .env("OPERATOR", operator)
            .env("SWITCHMAN_CONFIG", "/mnt/job/switchman.yaml")
            .env("SWITCHMAN_JOURNAL", &self.journal)
            .env("SWITCHMAN_SSH_KEY", read(&operator.join("id_ed25519")).trim_end())
            .env("SWITCHMAN_SSH_KNOWN_HOSTS", read(&operator.join("known_hosts")));
        let log = lab.join(format!("{machine}.log"));
        RunningMachine { child: program.start(std::fs::File::create(&log).unwrap()).unwrap(), log }
    }

    pub async fn run(&self, machine: &str, args: &[&str]) -> (Option<i32>, String) {
        self.start(machine, args).end().await
    }

    /// The command of a roll that replaces the main vhost of its host, by ssh as jobs do it.
    pub fn replace(&self, version: &str) -> String {
        format!(
            "ssh -n -F ssh_config -o BatchMode=yes -o ConnectTimeout=2 -i \"$SWITCHMAN_SSH_KEY_FILE\" \
             -o UserKnownHostsFile=\"$SWITCHMAN_SSH_KNOWN_HOSTS_FILE\" $SWITCHMAN_HOST \
             \"sh {}/$SWITCHMAN_HOST/replace-main.sh {version} </dev/null >/dev/null 2>&1\"",
            self.site.lab.dir().display()
        )
    }
}

impl RunningMachine {
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// A power cut of the machine: all that runs there ends.
    pub async fn cut_power(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// Stops the first process when its log has a text. A thread of its own looks, so that it is soon.
    pub async fn freeze_at(self, text: &str) -> Self {
        let text = text.to_owned();
        let freeze = move || {
            let deadline = Instant::now() + LIMIT;
            while !self.log().contains(&text) {
                assert!(Instant::now() < deadline, "no {text}: {}", self.log());
                assert!(!self.log().contains(r#""kind":"error""#), "no {text}: {}", self.log());
                #[allow(clippy::disallowed_methods, reason = "a test polls")]
                std::thread::sleep(Duration::from_millis(2));
            }
            self.signal(Signal::SIGSTOP);
            self
        };
        tokio::task::spawn_blocking(freeze).await.unwrap()
    }

    /// Sends a signal to switchman, the first process of the machine.
    pub fn signal(&self, signal: Signal) {
        let machine = self.child.id().unwrap();
        let first = read(Path::new(&format!("/proc/{machine}/task/{machine}/children")));
        kill(Pid::from_raw(first.trim().parse().unwrap()), signal).unwrap();
    }

    pub async fn end(mut self) -> (Option<i32>, String) {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", read(&self.log)));
        (status.unwrap().code(), read(&self.log))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Starts the servers of a store in the network namespace of the operator machines.
pub fn start_servers<F>(site: &Site, start: impl FnOnce() -> F + Send) -> Option<Servers>
where
    F: Future<Output = Option<Servers>>,
{
    run_beside(site, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(start())
    })
}

/// Runs something in the network namespace of the operator machines.
pub fn run_beside<T: Send>(site: &Site, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(site.lab.namespace_path("client")).unwrap();
    std::thread::scope(|scope| {
        let run = || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        scope.spawn(run).join().unwrap()
    })
}
