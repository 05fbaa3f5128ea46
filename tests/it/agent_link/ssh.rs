//! A real sshd, reached by the system's ssh as an operator has configured it.

use super::*;

const SSHD: &str = "127.0.0.9:2222";

impl Place {
    pub(super) fn script(&self, name: &str, text: &str) -> String {
        let path = self.write(name, &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// A real sshd with one key that it admits; `more` is added to its configuration.
    pub async fn sshd(&mut self, more: &str) {
        self.sshd_by(&[], more).await;
    }

    /// Started by setpriv(1) with these flags.
    pub(super) async fn sshd_by(&mut self, privileges: &[&str], more: &str) {
        // sshd's place for its unprivileged half; Debian's unit makes it.
        std::fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "user"] {
            let file = self.text(key);
            let made = command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file]).status();
            assert!(made.unwrap().success());
        }
        let public = std::fs::read_to_string(self.path("host.pub")).unwrap();
        self.write("known", &format!("[127.0.0.9]:2222 {public}"));
        let dir = self.dir.path().display();
        let (address, port) = SSHD.split_once(':').unwrap();
        // bash reads `~/.bashrc` in a session of sshd: what the user of this machine has there is not part of a test.
        let text = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nPidFile none\n\
             UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n\
             SetEnv HOME={dir}\n{more}\n"
        );
        let file = self.write("sshd_config", &text).display().to_string();
        let words = [privileges, &["--", "/usr/sbin/sshd", "-D", "-e", "-f", &file]].concat();
        self.start("sshd", "setpriv", &words);
        until(async || TcpStream::connect(SSHD).await.is_ok()).await;
    }

    /// The operator's own ssh: `config` comes before the rest of its configuration, where ssh takes the first.
    pub fn ssh_options(&self, config: &str) -> Vec<String> {
        let dir = self.dir.path().display();
        let text = format!(
            "Host *\n{config}\n HostName 127.0.0.9\n Port 2222\n User root\n IdentityFile {dir}/user\n IdentitiesOnly yes\n \
             UserKnownHostsFile {dir}/known\n GlobalKnownHostsFile /dev/null\n ControlPath {dir}/%C\n"
        );
        let file = self.write(&format!("ssh_config{}", config.len()), &text).display().to_string();
        // The last is noticed sooner than by default.
        ["-F", &file, "-o", "ServerAliveInterval=1"].map(str::to_owned).to_vec()
    }

    pub(super) fn over_ssh(&self, config: &str, remote: &[&str]) -> Arc<dyn HostLink> {
        let reach = ConnectConfig {
            ssh_options: self.ssh_options(config),
            remote_switchman: remote.iter().map(|word| (*word).to_owned()).collect(),
            ..ConnectConfig::default()
        };
        connect(&"web1".parse().unwrap(), &Transport::Ssh("web1".to_owned()), &reach)
    }

    pub(super) fn remote(&self) -> [String; 3] {
        [SWITCHMAN.to_owned(), "--state-dir".to_owned(), self.text("state")]
    }

    fn over_plain_ssh(&self, config: &str) -> Arc<dyn HostLink> {
        let remote = self.remote();
        self.over_ssh(config, &remote.each_ref().map(String::as_str))
    }
}

/// ssh prompts for nothing, and no call waits.
#[test]
fn every_ssh_refusal_names_its_cause() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let nobody = refusal(&*place.over_plain_ssh("")).await;
        assert!(
            nobody.contains("ssh reports: ssh: connect to host 127.0.0.9 port 2222: Connection refused"),
            "{nobody}"
        );
        place.sshd("").await;
        let cases = [
            (" UserKnownHostsFile /dev/null", SWITCHMAN, "ssh reports: Host key verification failed"),
            (" User swm-nobody", SWITCHMAN, "Permission denied (publickey)"),
            (
                "",
                "/no/such/switchman",
                "switchman is not installed there, or not on the PATH of a non-interactive shell (",
            ),
            ("", "/etc/passwd", "switchman may not be run there: "),
            (
                "",
                &place.script("old", "echo \"error: unrecognized subcommand 'agent'\" >&2; exit 2"),
                "the switchman there has no `agent --stdio`: unrecognized subcommand 'agent'",
            ),
            (
                "",
                &place.script("broken", "printf 'no \\033[2Jroom\\n' >&2; exit 9"),
                "the remote command ended with status 9: no  [2Jroom",
            ),
            (
                "",
                &place.script("new", "echo switchman agent api=90..99 version=9.9.9; cat"),
                "its switchman 9.9.9 speaks API 90..99, this one (",
            ),
            ("", &place.script("yes", "exec yes no"), "no switchman answers there, but: ..."),
        ];
        for (config, remote, text) in cases {
            let why = refusal(&*place.over_ssh(config, &[remote])).await;
            assert!(why.contains(text), "{text}: {why}");
        }
    });
}

#[test]
fn login_shell_noise_is_skipped() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        // To stdout with no end of line before the agent speaks; to stderr without end.
        let noisy = place.script(
            "noisy",
            "while :; do echo noise on stderr; done >&2 &\nprintf 'Welcome!\\n> '\n\"$@\"\nkill $!",
        );
        place.sshd("").await;
        let remote = place.remote();
        let remote: Vec<&str> = [&noisy].into_iter().chain(&remote).map(String::as_str).collect();
        let link = place.over_ssh("", &remote);
        let (heard, lines) = listener();
        let end = link.run(&sh("seq 1 5000"), heard).await;
        assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
        assert_eq!(lines.lock().unwrap().len(), 5000);
        assert!(link.greet().await.is_ok());
        drop(link);
        let wait = || switchman::sys::ssh::stderr::wait_for_noisy_ssh(Duration::from_secs(30));
        tokio::task::spawn_blocking(wait).await.unwrap();
        let needle = noisy.as_bytes();
        let holds = |pid: &std::path::Path| {
            let words = std::fs::read(pid.join("cmdline")).unwrap_or_default();
            words.starts_with(b"ssh") && words.windows(needle.len()).any(|part| part == needle)
        };
        let left = std::fs::read_dir("/proc").unwrap().filter(|entry| holds(&entry.as_ref().unwrap().path()));
        assert_eq!(left.count(), 0, "an ssh has not ended");
    });
}

/// An operator's configuration may name a command, a terminal, forwardings for the same host.
#[test]
fn interactive_ssh_configuration_works() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let people = " RemoteCommand tmux attach\n RequestTTY force\n LocalForward 2222 127.0.0.1:1\n ForwardAgent yes";
        assert!(place.over_plain_ssh(people).greet().await.is_ok());
    });
}

#[test]
fn shared_ssh_master_is_not_killed() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        // The first becomes the master of all (ssh_config(5)); without ControlPersist it is no process of its own.
        let shared = " ControlMaster auto";
        let (first, second) = (place.over_plain_ssh(shared), place.over_plain_ssh(shared));
        first.greet().await.unwrap();
        second.greet().await.unwrap();
        let (heard, lines) = listener();
        let wait = sh("echo up; read line < $FIFO; echo $line");
        let fifo = place.path("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let wait =
            RunRequest { env: BTreeMap::from([("FIFO".to_owned(), fifo.display().to_string())]), ..wait };
        let leave = async {
            until(async || lines.lock().unwrap().len() == 1).await;
            drop(first);
            tokio::fs::write(&fifo, "on\n").await.unwrap();
        };
        let (end, ()) = tokio::join!(second.run(&wait, heard), leave);
        assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
        assert_eq!(*lines.lock().unwrap(), ["up", "on"]);
        // Another call over a master that is there already: without clients it ends by itself.
        second.greet().await.unwrap();
        drop(second);
        let sockets = || {
            std::fs::read_dir(place.dir.path())
                .unwrap()
                .flatten()
                .filter(|file| std::os::unix::fs::FileTypeExt::is_socket(&file.file_type().unwrap()))
                .count()
        };
        until(async || sockets() == 0).await;
    });
}

#[test]
fn killed_agent_breaks_link_and_next_call_succeeds() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let link = place.over_plain_ssh("");
        link.greet().await.unwrap();
        let (heard, _) = listener();
        // The agent is the parent of what it runs.
        let broken = link.run(&sh("kill -9 $PPID; sleep 60"), heard).await.unwrap_err();
        assert!(matches!(&broken, LinkError::Broken { .. }), "{broken}");
        let (heard, lines) = listener();
        let elsewhere = RunRequest { key: "another".to_owned(), ..sh("echo $PPID") };
        link.run(&elsewhere, heard).await.unwrap();
        let agent: i32 = lines.lock().unwrap()[0].parse().unwrap();
        kill(Pid::from_raw(agent), Signal::SIGKILL).unwrap();
        until(async || gone(&agent.to_string())).await;
        assert!(link.greet().await.is_ok());
    });
}

/// Packets are dropped; ssh detects and reports that by itself.
#[test]
fn cut_link_is_reported_and_reconnected() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let link = place.over_plain_ssh("");
        link.greet().await.unwrap();
        let rule = |what: &str| {
            let args = [what, "INPUT", "-p", "tcp", "--dport", "2222", "-j", "DROP"];
            assert!(command("iptables").args(args).status().unwrap().success());
        };
        rule("-A");
        let error = link.greet().await.unwrap_err();
        assert!(matches!(error, LinkError::Broken { .. }), "{error}");
        assert!(
            error.to_string().contains("ssh reports: Timeout, server 127.0.0.9 not responding"),
            "{error}"
        );
        rule("-D");
        assert!(link.greet().await.is_ok());
    });
}

#[test]
fn remote_command_ends_when_caller_disconnects() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let link = place.over_plain_ssh("");
        let pids = cut_off(&*link, async || {}).await;
        drop(link);
        all_gone(&pids).await;
    });
}
