//! A call of ssh that failed: the call as a person would repeat it, and the kind of its failure.

use std::path::PathBuf;

use serde::Serialize;

use super::shell::{join_words, quote_word};

/// A call of ssh without a usable connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshAttempt {
    pub destination: String,
    /// The operator's options, put before the destination.
    pub options: Vec<String>,
    /// The words of the remote command.
    pub remote: Vec<String>,
    pub failure: SshFailure,
}

/// The key and the known hosts that the environment names for ssh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SshFiles {
    pub key: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
}

impl SshFiles {
    /// The options that make ssh use these files and no others of their kind.
    pub fn to_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(key) = &self.key {
            options.extend(["-i".to_owned(), key.display().to_string()]);
            options.extend(["-o", "IdentitiesOnly=yes"].map(str::to_owned));
        }
        if let Some(known_hosts) = &self.known_hosts {
            options.extend(
                ["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
                    .map(str::to_owned),
            );
            // ssh_config(5): arguments with blanks are put into double quotes.
            options.extend(["-o".to_owned(), format!("UserKnownHostsFile=\"{}\"", known_hosts.display())]);
        }
        options
    }

    /// The variables for a command on this machine, which may use ssh by itself.
    pub fn to_env(&self) -> Vec<(String, String)> {
        let named =
            [("SWITCHMAN_SSH_KEY_FILE", &self.key), ("SWITCHMAN_SSH_KNOWN_HOSTS_FILE", &self.known_hosts)];
        let pair = |(name, path): (&str, &Option<PathBuf>)| {
            Some((name.to_owned(), path.as_ref()?.display().to_string()))
        };
        named.into_iter().filter_map(pair).collect()
    }
}

/// The causes that need different actions of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SshFailure {
    /// Nothing answers at the address.
    TimedOut,
    /// The host answers, and has no sshd at the port.
    Refused,
    NameUnknown,
    HostKeyUnknown,
    HostKeyChanged,
    AuthDenied,
    /// ssh itself is not installed here.
    NoSsh,
    SudoRefused,
    NotInstalled,
    NotExecutable,
    /// A switchman that has no `agent --stdio`.
    TooOld,
    Other,
}

impl SshFailure {
    /// Classifies the end of ssh by its exit status, which is that of the remote command or 255, and by its standard error.
    /// `None`: ssh has not ended.
    pub fn classify(status: Option<i32>, stderr: &str) -> Self {
        let has = |text: &str| stderr.contains(text);
        let has_any = |texts: &[&str]| texts.iter().any(|text| has(text));
        if has_any(&["has changed and you have requested strict checking", "HOST IDENTIFICATION HAS CHANGED"])
        {
            Self::HostKeyChanged
        } else if has("Host key verification failed") {
            Self::HostKeyUnknown
        } else if has("Could not resolve hostname") {
            Self::NameUnknown
        } else if has("sudo: ") && !has("command not found") {
            Self::SudoRefused
        } else if status == Some(127) || has("sudo: ") {
            Self::NotInstalled
        } else if status == Some(126) {
            Self::NotExecutable
        } else if status == Some(2) {
            Self::TooOld
        } else if status.is_some_and(|status| status != 255) {
            Self::Other
        } else if has_any(&["Permission denied", "Too many authentication failures"]) {
            Self::AuthDenied
        } else if has("Connection refused") {
            Self::Refused
        } else if has_any(&["timed out", "No route to host", "Network is unreachable"]) {
            Self::TimedOut
        } else {
            Self::Other
        }
    }
}

impl SshAttempt {
    /// Returns the command that logs in with the same options.
    pub fn login_command(&self) -> String {
        let words = ["ssh"].into_iter().chain(self.options.iter().map(String::as_str));
        join_words(words.chain([self.destination.as_str()]))
    }

    /// Returns the command that shows whether the connection works: it never prompts, as switchman does not.
    pub fn test_command(&self) -> String {
        let words = ["ssh", "-o", "BatchMode=yes"].into_iter().chain(self.options.iter().map(String::as_str));
        let ssh = join_words(words.chain([self.destination.as_str()]));
        let remote = join_words(&self.remote);
        // ssh joins its words with blanks, and the remote shell splits them again.
        let is_plain = self.remote.iter().all(|word| quote_word(word) == *word);
        let remote = if is_plain { remote } else { quote_word(&remote) };
        format!("{ssh} {remote} </dev/null")
    }
}

impl SshAttempt {
    /// Returns the next action of an operator for this cause, with the command to try.
    pub fn advice(&self) -> String {
        let test = self.test_command();
        match self.failure {
            SshFailure::TimedOut => format!(
                "check that the host is up, its address, and the firewalls between; this must connect: `{test}`"
            ),
            SshFailure::Refused => format!(
                "start sshd there, or correct its port (`Port` in your ssh configuration); this must connect: `{test}`"
            ),
            SshFailure::NameUnknown => format!(
                "correct the name in switchman.yaml, or add a `Host` with `HostName` to your ssh configuration; this must connect: `{test}`"
            ),
            SshFailure::HostKeyUnknown => format!(
                "connect once by hand, and compare the fingerprint of the host key: `{}`",
                self.login_command()
            ),
            SshFailure::HostKeyChanged => format!(
                "find out why the host has another key before you connect again; `{}` prints the command that removes the old key",
                self.login_command()
            ),
            SshFailure::AuthDenied => format!(
                "let the host accept a key of yours: ssh never prompts for a password or a passphrase here; this must connect: `{test}`"
            ),
            SshFailure::NoSsh => "install the ssh client here: `apt-get install openssh-client`".to_owned(),
            SshFailure::SudoRefused => format!(
                "allow the command in sudoers there, with `NOPASSWD`; this must answer, without a password: `{test}`"
            ),
            SshFailure::NotInstalled => format!(
                "install switchman there, or write its path, `ssh: {{switchman: /PATH/switchman}}` in switchman.yaml; this must answer: `{test}`"
            ),
            SshFailure::NotExecutable => {
                format!("correct the path and the mode of the program there; this must answer: `{test}`")
            }
            SshFailure::TooOld => {
                format!("install this version of switchman there; this must answer: `{test}`")
            }
            SshFailure::Other => format!("this must answer, without a password: `{test}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(options: &[&str], remote: &[&str]) -> SshAttempt {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        SshAttempt {
            destination: "deploy@web1".into(),
            options: owned(options),
            remote: owned(remote),
            failure: SshFailure::Other,
        }
    }

    #[test]
    fn commands_have_the_options_that_were_used_and_can_be_pasted() {
        let plain = attempt(&[], &["sudo", "-n", "switchman", "agent", "--stdio"]);
        assert_eq!(
            plain.test_command(),
            "ssh -o BatchMode=yes deploy@web1 sudo -n switchman agent --stdio </dev/null"
        );
        assert_eq!(plain.login_command(), "ssh deploy@web1");
        let odd = attempt(&["-F", "/home/my ops/fleet"], &["/opt/my apps/switchman", "agent"]);
        assert_eq!(
            odd.test_command(),
            r"ssh -o BatchMode=yes -F '/home/my ops/fleet' deploy@web1 ''\''/opt/my apps/switchman'\'' agent' </dev/null"
        );
        assert_eq!(odd.login_command(), "ssh -F '/home/my ops/fleet' deploy@web1");
    }

    #[test]
    fn failure_is_classified_by_the_words_of_openssh_9_2() {
        use SshFailure::{
            AuthDenied, HostKeyChanged, HostKeyUnknown, NameUnknown, NotExecutable, NotInstalled, Other,
            Refused, SudoRefused, TimedOut, TooOld,
        };
        for (status, stderr, failure) in [
            (Some(255), "ssh: connect to host 10.0.0.9 port 22: Connection timed out", TimedOut),
            (
                Some(255),
                "Connection timed out during banner exchange; Connection to 10.0.0.9 port 22 timed out",
                TimedOut,
            ),
            (Some(255), "ssh: connect to host 10.0.0.9 port 22: No route to host", TimedOut),
            (Some(255), "ssh: connect to host 10.0.0.9 port 22: Connection refused", Refused),
            (Some(255), "ssh: Could not resolve hostname web9: Name or service not known", NameUnknown),
            (
                Some(255),
                "No ED25519 host key is known for web1 and you have requested strict checking.; Host key verification failed.",
                HostKeyUnknown,
            ),
            (
                Some(255),
                "Host key for web1 has changed and you have requested strict checking.; Host key verification failed.",
                HostKeyChanged,
            ),
            (Some(255), "deploy@web1: Permission denied (publickey).", AuthDenied),
            (
                Some(255),
                "Received disconnect from 10.0.0.9 port 22:2: Too many authentication failures",
                AuthDenied,
            ),
            (Some(1), "sudo: a password is required", SudoRefused),
            (Some(1), "Sorry, user deploy is not allowed to execute; sudo: no", SudoRefused),
            (Some(1), "sudo: switchman: command not found", NotInstalled),
            (Some(127), "bash: line 1: switchman: command not found", NotInstalled),
            (Some(126), "bash: line 1: /opt/switchman: Permission denied", NotExecutable),
            (Some(2), "error: unrecognized subcommand 'agent'", TooOld),
            (Some(9), "no room", Other),
            (Some(255), "", Other),
            (None, "", Other),
        ] {
            assert_eq!(SshFailure::classify(status, stderr), failure, "{stderr}");
        }
    }
}
