//! A link through ssh: HTTP over its standard input and output.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::connection::Connection;
use super::handshake::{TransportError, start_http};
use crate::model::api::{API_VERSION, GREETING, OLDEST_API_VERSION};
use crate::model::host::ConnectConfig;
use crate::model::name::HostName;
use crate::model::ssh::{SshAttempt, SshFailure};
use crate::sys::exec::ExecError;
use crate::sys::lines::text;
use crate::sys::ssh::build_remote_program;
use crate::sys::ssh::stderr::{SshStderr, shorten};

/// Timeout of the greeting; shorter than that of a connection, so that the error can show the output that came instead.
const GREETING_TIMEOUT: Duration = Duration::from_secs(18);
/// Bytes that a login shell may print before the agent's greeting.
const MAX_NOISE_BYTES: u64 = 64 * 1024;

/// Builds the command that starts switchman on the host, as its shell receives it.
pub(super) fn build_remote_command(host: &HostName, reach: &ConnectConfig) -> Vec<String> {
    let named = |word: &String| word.replace("{host}", host.as_str());
    let mut command: Vec<String> = reach.remote_switchman.iter().map(named).collect();
    if command.is_empty() {
        command.push("switchman".to_owned());
    }
    command.extend(["agent".to_owned(), "--stdio".to_owned()]);
    command
}

/// Never prompts: an operator without a usable key is refused at once.
pub(super) async fn open(
    destination: &str,
    options: &[String],
    command: &[String],
) -> Result<Connection, TransportError> {
    let failed = |failure: SshFailure, reason: String| TransportError::Ssh {
        reason,
        attempt: Box::new(SshAttempt {
            destination: destination.to_owned(),
            options: options.to_vec(),
            remote: command.to_vec(),
            failure,
        }),
    };
    let program = build_remote_program(destination, options, command);
    let child = program.spawn_piped_detached().map_err(|error| {
        let is_missing = matches!(error, ExecError::Missing { .. });
        failed(if is_missing { SshFailure::NoSsh } else { SshFailure::Other }, error.to_string())
    })?;
    let mut opening = PendingSsh(Some(child));
    let Some((mut stdout, stdin, stderr)) = opening.take_pipes() else {
        return Err(TransportError::Other("ssh has no standard input and output".to_owned()));
    };
    let stderr =
        SshStderr::start_reading(stderr).map_err(|error| TransportError::Other(error.to_string()))?;
    let mut noise = String::new();
    match tokio::time::timeout(GREETING_TIMEOUT, read_greeting(&mut stdout, &mut noise)).await {
        Ok(Ok(Greeting::Compatible)) => {
            // From now on ssh ends with its input. It is not killed: the operator's other sessions may go through it
            // (ssh_config(5), ControlMaster), and so it gives up a dead link by itself (ServerAliveInterval).
            opening.0 = None;
            stderr.clear();
            start_http(tokio::io::join(stdout, stdin), None, Some(stderr)).await
        }
        Ok(Ok(Greeting::Skew { version, api })) => {
            Err(TransportError::Skew { their_version: version, their_api: api })
        }
        Ok(Ok(Greeting::TooMuchNoise)) => {
            Err(failed(SshFailure::Other, format!("no switchman answers there, but: {}", shorten(&noise))))
        }
        Err(_) => {
            let waited = crate::model::duration::format(GREETING_TIMEOUT);
            let words = choose_output(&stderr.to_text(), &noise);
            let reason = format!("no switchman answers there within {waited} ({words})");
            Err(failed(SshFailure::classify(None, &words), reason))
        }
        Ok(Ok(Greeting::Ended) | Err(_)) => {
            let status = opening.wait().await;
            let words = choose_output(&stderr.wait_for_text().await, &noise);
            let failure = SshFailure::classify(Some(status), &words);
            Err(failed(failure, explain_exit(status, failure, &words)))
        }
    }
}

/// An ssh without an established connection yet: killed when the attempt is dropped.
struct PendingSsh(Option<Child>);

impl PendingSsh {
    fn take_pipes(&mut self) -> Option<(BufReader<ChildStdout>, ChildStdin, ChildStderr)> {
        let child = self.0.as_mut()?;
        Some((BufReader::new(child.stdout.take()?), child.stdin.take()?, child.stderr.take()?))
    }

    async fn wait(&mut self) -> i32 {
        match &mut self.0 {
            Some(child) => child.wait().await.map_or(-1, crate::sys::exec::to_exit_status),
            None => -1,
        }
    }
}

impl Drop for PendingSsh {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended already is what is wanted.
            let _ = child.start_kill();
        }
    }
}

enum Greeting {
    Compatible,
    Skew {
        version: String,
        api: String,
    },
    /// The end came first.
    Ended,
    /// The output exceeds the limit and holds no greeting of switchman.
    TooMuchNoise,
}

/// Bytes up to the end of the agent's greeting, `switchman agent api=2..2 version=0.1.0`; `noise` is what came before it.
async fn read_greeting(from: &mut (impl AsyncBufRead + Unpin), noise: &mut String) -> io::Result<Greeting> {
    loop {
        let mut line = Vec::new();
        let read = (&mut *from).take(MAX_NOISE_BYTES).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(Greeting::Ended);
        }
        let line = String::from_utf8_lossy(&line);
        // A login shell's last word may have no end of line.
        if let Some((before, greeting)) = line.split_once(&format!("{GREETING} api=")) {
            noise.push_str(&text(before.as_bytes()));
            return Ok(parse_greeting(greeting));
        }
        noise.push_str(text(line.as_bytes()).trim());
        noise.push(' ');
        if noise.len() as u64 > MAX_NOISE_BYTES {
            return Ok(Greeting::TooMuchNoise);
        }
    }
}

/// Parses the part of the greeting after `api=`.
fn parse_greeting(rest: &str) -> Greeting {
    let mut words = rest.split_whitespace();
    let api = words.next().unwrap_or("?").to_owned();
    let version = words.find_map(|word| word.strip_prefix("version=")).unwrap_or("?").to_owned();
    let (oldest, newest) = api.split_once("..").unwrap_or(("", ""));
    let (oldest, newest) = (oldest.parse::<u32>(), newest.parse::<u32>());
    let fits = oldest.is_ok_and(|oldest| oldest <= API_VERSION)
        && newest.is_ok_and(|newest| newest >= OLDEST_API_VERSION);
    if fits { Greeting::Compatible } else { Greeting::Skew { version, api } }
}

/// Reads the rest of a greeting: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub(super) fn fuzz_greeting(rest: &str) {
    let _ = parse_greeting(rest);
}

fn choose_output(stderr: &str, noise: &str) -> String {
    match shorten(if stderr.is_empty() { noise } else { stderr }) {
        words if words.is_empty() => "no output".to_owned(),
        words => words,
    }
}

fn explain_exit(status: i32, failure: SshFailure, words: &str) -> String {
    match failure {
        SshFailure::NotInstalled => format!(
            "switchman is not installed there, or not on the PATH of a non-interactive shell ({words})"
        ),
        SshFailure::SudoRefused => format!("sudo refuses to run switchman there: {words}"),
        SshFailure::NotExecutable => format!("switchman may not be run there: {words}"),
        SshFailure::TooOld => format!("the switchman there has no `agent --stdio`: {words}"),
        _ if status == 255 => format!("ssh reports: {words}"),
        _ => format!("the remote command ended with status {status}: {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ssh::stderr::MAX_SHOWN_CHARS;

    async fn greet(text: &str) -> (Greeting, String) {
        let mut noise = String::new();
        (read_greeting(&mut BufReader::new(text.as_bytes()), &mut noise).await.unwrap(), noise)
    }

    #[tokio::test]
    async fn greeting_is_found_after_shell_output() {
        for noise in ["", "Welcome to web1!\n\n", "no end of line> ", "the switchman agent is here\n\x1b[2J"]
        {
            let text =
                format!("{noise}{GREETING} api={OLDEST_API_VERSION}..{API_VERSION} version=9.9.9\nrest");
            assert!(matches!(greet(&text).await, (Greeting::Compatible, _)), "{noise}");
        }
        let newer = format!("{GREETING} api=90..99 version=9.9.9\n");
        assert!(
            matches!(greet(&newer).await.0, Greeting::Skew { version, api } if version == "9.9.9" && api == "90..99")
        );
        assert!(
            matches!(greet("no\nsu\x1b[2Jch\n").await, (Greeting::Ended, noise) if noise == "no su [2Jch ")
        );
        assert!(matches!(greet(&"y\n".repeat(100_000)).await.0, Greeting::TooMuchNoise));
        assert!(matches!(greet(&"y".repeat(200_000)).await.0, Greeting::TooMuchNoise));
    }

    #[test]
    fn long_ssh_output_is_shortened_to_its_end() {
        assert_eq!(choose_output(" no ", "yes"), "no");
        assert_eq!(choose_output("", ""), "no output");
        let many = choose_output("", &"öf".repeat(1000));
        assert!(many.starts_with("...öf") && many.chars().count() == MAX_SHOWN_CHARS + 3, "{many}");
        assert_eq!(shorten(&"x".repeat(MAX_SHOWN_CHARS)).len(), MAX_SHOWN_CHARS);
    }

    #[test]
    fn remote_command_is_that_of_the_configuration() {
        let reach = ConnectConfig {
            remote_switchman: ["sudo", "-n", "/opt/{host}/switchman"].map(str::to_owned).to_vec(),
            ..ConnectConfig::default()
        };
        let words = build_remote_command(&"web1".parse().unwrap(), &reach).join(" ");
        assert_eq!(words, "sudo -n /opt/web1/switchman agent --stdio");
        assert_eq!(
            build_remote_command(&"web1".parse().unwrap(), &ConnectConfig::default()).join(" "),
            "switchman agent --stdio"
        );
    }
}
