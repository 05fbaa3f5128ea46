//! Runs every shell block of `docs/quick-start.md`, in order, on four machines made of namespaces, with real HAProxy and
//! nginx. Users send requests all the time, and none may fail. Blocks of output are compared with the real output.
//!
//! The differences from real machines:
//! - `make deb` packs the program that the tests are built with: see [`SUBSTITUTED`].
//! - `systemctl` is `quick_start/systemctl.sh`.
//! - `quick_start/machine.sh` installs the ssh keys, which the page requires.
//! - The Debian packages that a block installs are installed already, by `tests/setup.sh`.
//! - The load starts when HAProxy has a vhost of each host that is UP: a reader types more slowly than this test.
//! - The kernel forgets closed connections after 1 s instead of 10 s, as in every lab.
//!
//! `UPDATE_DOCS=1` rewrites the blocks of output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchman::lab::hosts::run_in_namespace;
use switchman::lab::namespaces::Namespaces;

use crate::docs::{repository_root, update_requested};
use crate::testing::can_make_namespaces;

pub mod blocks;
mod users;

use blocks::{Block, Page};
use users::Users;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
/// Lines that are replaced, each with its replacement.
const SUBSTITUTED: [(&str, &str); 1] = [
    // A build of its own takes minutes; the package is made by the same script.
    ("make deb", "COMPRESSION=none SOURCE_DATE_EPOCH=0 sh packaging/deb.sh target/switchman"),
];
/// The machines of the page: name, namespace of the lab, address.
const MACHINES: [(&str, &str, &str); 4] = [
    ("ops", "client", "10.0.0.100"),
    ("lb1", "lb1", "10.0.0.2"),
    ("web1", "web1", "10.0.0.11"),
    ("web2", "web2", "10.0.0.12"),
];
/// The load starts at the first block that begins with this.
const FIRST_RESPONSE: &str = "curl";
const BALANCER: &str = "10.0.0.2:80";
const START_TIMEOUT: Duration = Duration::from_mins(1);

#[test]
fn shell_blocks_run_without_a_failed_request() {
    if !can_make_namespaces() {
        return;
    }
    let path = repository_root().join("docs/quick-start.md");
    let mut page = Page::read(&std::fs::read_to_string(&path).unwrap());
    let site = Site::up();
    let mut users = None;
    let mut differs = Vec::new();
    for block in page.blocks.clone() {
        if users.is_none() && block.script.starts_with(FIRST_RESPONSE) {
            users = Some(site.users());
        }
        if let Some(users) = &users {
            users.phase(&format!("line {}", block.line));
        }
        let printed = site.run(&block);
        if let Some(why) = page.check_output(&block, &printed, update_requested()) {
            differs.push(why);
        }
    }
    let account = users.expect("no block starts the load").end();
    drop(site);
    assert!(account.requests > 1000, "{} requests are too few to mean anything", account.requests);
    assert_eq!(account.failures, BTreeMap::new(), "of {} requests", account.requests);
    if update_requested() {
        std::fs::write(&path, page.text()).unwrap();
    }
    assert!(
        differs.is_empty(),
        "{}\nnext: UPDATE_DOCS=1 cargo nextest run --test it -E 'test(/^quick_start::/)'",
        differs.join("\n")
    );
}

/// The four machines. Dropping the value removes them.
struct Site {
    name: String,
    net: Namespaces,
    machines: BTreeMap<&'static str, Machine>,
    /// Holds keys, logs and the mount points of the machines.
    dir: tempfile::TempDir,
}

struct Machine {
    /// `unshare`; the machine ends with it.
    process: Child,
    log: PathBuf,
    /// The first process of the machine, in the namespace of the test.
    first_pid: u32,
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

fn run_command(program: &str, args: &[&str]) {
    let output = command(program, args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Site {
    fn up() -> Self {
        let name = format!("itquick{}", std::process::id());
        let net = Namespaces::new(&name.parse().unwrap(), 2, 1);
        let dir = tempfile::tempdir().unwrap();
        let mut site = Self { name, net, machines: BTreeMap::new(), dir };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(site.net.create()).unwrap();
        site.make_keys();
        for (name, namespace, address) in MACHINES {
            let namespace = format!("swm-{}-{namespace}", site.name);
            run_command("ip", &["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
            let machine = Machine::start(name, &namespace, site.dir.path());
            site.machines.insert(name, machine);
        }
        site
    }

    fn make_keys(&self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        for key in ["operator", "host"] {
            run_command("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
        }
        let public = std::fs::read_to_string(path("host.pub")).unwrap();
        let known: String = MACHINES.iter().map(|(_, _, address)| format!("{address} {public}")).collect();
        std::fs::write(path("known_hosts"), known).unwrap();
    }

    /// Starts the load once HAProxy has a vhost of each host that is UP.
    fn users(&self) -> Users {
        for (name, namespace, _) in MACHINES {
            if !namespace.starts_with("web") {
                continue;
            }
            // HAProxy sends the user of a cookie to another host while this one is DOWN.
            let script = format!(
                "until curl -si --cookie SERVER_ID={name} http://{BALANCER}/ | grep -q '^x-switchman-vhost: {name} '; do sleep 0.1; done"
            );
            let (status, printed) = self.machines["ops"].run_script("/root", &script);
            assert!(status.success(), "no vhost of {name} is UP: {printed:?}");
        }
        Users::start(self.net.path("client"))
    }

    /// Runs a block on each of its machines and returns the output.
    fn run(&self, block: &Block) -> String {
        block.machines.iter().map(|name| self.machines[name.as_str()].run(name, block)).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for machine in self.machines.values_mut() {
            let _ = machine.process.kill();
            let _ = machine.process.wait();
        }
        let _ = command(SWITCHMAN, &["lab", "down", "--name", &self.name]).output();
    }
}

impl Machine {
    fn start(name: &str, namespace: &str, keys: &Path) -> Self {
        let (dir, log) = (keys.join(name), keys.join(format!("{name}.log")));
        std::fs::create_dir(&dir).unwrap();
        let script = repository_root().join("tests/it/quick_start/machine.sh");
        let file = std::fs::File::create(&log).unwrap();
        // `--kill-child` ends the machine when `unshare` is killed.
        let own = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--", "sh"];
        let process = command("ip", &["netns", "exec", namespace, "unshare"])
            .args(own)
            .arg(script)
            .args([name, &dir.display().to_string(), &keys.display().to_string(), SWITCHMAN])
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut machine = Self { process, log, first_pid: 0 };
        machine.until_it_listens();
        machine
    }

    #[allow(clippy::disallowed_methods, reason = "a test without a runtime of its own")]
    fn until_it_listens(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let log = || std::fs::read_to_string(&self.log).unwrap();
        while !log().contains("Server listening") {
            assert!(self.process.try_wait().unwrap().is_none(), "the machine ended: {}", log());
            assert!(Instant::now() < deadline, "the machine does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        self.first_pid = children.trim().parse().unwrap();
    }

    /// Runs a block in a shell of root and returns its standard output.
    fn run(&self, name: &str, block: &Block) -> String {
        let mut script = block.script.clone();
        for (line, instead) in SUBSTITUTED {
            script = script.replace(&format!("{line}\n"), &format!("{instead}\n"));
        }
        let dir = if block.in_checkout { "/root/switchman" } else { "/root" };
        let (status, printed) = self.run_script(dir, &script);
        let line = block.line;
        assert!(
            status.success(),
            "docs/quick-start.md:{line}: the block failed on {name} ({status})\n{}{}",
            printed.out,
            printed.err
        );
        printed.out
    }

    /// Runs a script in a shell of root on the machine.
    fn run_script(&self, dir: &str, script: &str) -> (ExitStatus, Printed) {
        let target = self.first_pid.to_string();
        let output =
            command("nsenter", &["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid"])
                .args([
                    &format!("--root=/proc/{target}/root"),
                    "--wd=/",
                    "--",
                    "env",
                    "-i",
                    "HOME=/root",
                    "USER=root",
                ])
                .args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"])
                .args(["timeout", "120", "sh", "-euc", &format!("cd {dir}\n{script}")])
                .output()
                .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status, Printed { out: text(&output.stdout), err: text(&output.stderr) })
    }
}

/// The output of a script: results, and progress with errors.
#[derive(Debug)]
struct Printed {
    out: String,
    err: String,
}
