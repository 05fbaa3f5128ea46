//! The system's ssh with the operator's own configuration, keys and ControlMaster: HTTP over its standard input and output.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::Connection;
use super::pipe::{PipeError, talk};
use crate::model::api::{API, GREETING, OLDEST_API};
use crate::model::host::Reach;
use crate::model::name::HostName;
use crate::sys::exec::Program;

/// What a login shell may print before the agent speaks.
const NOISE: u64 = 64 * 1024;

/// switchman on the host, as its shell is told.
pub(super) fn command(host: &HostName, reach: &Reach) -> Vec<String> {
    let named = |word: &String| word.replace("{host}", host.as_str());
    let mut command: Vec<String> = reach.remote_switchman.iter().map(named).collect();
    if command.is_empty() {
        command.push("switchman".to_owned());
    }
    command.extend(["agent".to_owned(), "--stdio".to_owned()]);
    command
}

/// Never a prompt: whoever has no key at hand is refused at once. A connection that is dead is noticed after 15 s.
pub(super) async fn open(
    destination: &str,
    options: &[String],
    command: &[String],
) -> Result<Connection, PipeError> {
    let program = Program::new("ssh")
        .args(["-T", "-o", "BatchMode=yes"])
        // Of an option given twice ssh takes the first (ssh_config(5)): the operator's own win over these.
        .args(options)
        .args(["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"])
        .args(["--", destination])
        .arg(command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    let mut child = program.dialogue().map_err(|error| PipeError::Other(error.to_string()))?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(PipeError::Other("ssh has no standard input and output".to_owned()));
    };
    let complaints = Arc::new(Mutex::new(String::new()));
    let theirs = complaints.clone();
    let listen = tokio::spawn(async move {
        let mut lines = BufReader::new(stderr.take(NOISE)).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            log::debug!("ssh: {line}");
            let mut all = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            all.push_str(line.trim());
            all.push_str("; ");
        }
    });
    let mut stdout = BufReader::new(stdout);
    let greeted = greeting(&mut stdout).await;
    let noise = match greeted {
        Ok(Greeted::Understood) => {
            let carrier = async move {
                // Reaped by tokio once it is killed on drop.
                drop(child);
                listen.abort();
            };
            return talk(tokio::io::join(stdout, stdin), None, carrier).await;
        }
        Ok(Greeted::Skew { version, api }) => {
            return Err(PipeError::Skew { theirs: version, their_api: api });
        }
        Ok(Greeted::Not { noise }) => noise,
        Err(error) => error.to_string(),
    };
    let status = child.wait().await.map_or(-1, crate::sys::exec::status_of);
    // The end of its output comes with the end of the program.
    let _ = listen.await;
    let said = complaints.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.trim_end_matches("; ").to_owned();
    Err(PipeError::Other(explain(status, &said, &noise)))
}

enum Greeted {
    Understood,
    Skew {
        version: String,
        api: String,
    },
    /// The end came first; this is what was said instead.
    Not {
        noise: String,
    },
}

/// Lines up to the agent's greeting: `switchman agent api=1..1 version=0.1.0`.
async fn greeting(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> std::io::Result<Greeted> {
    let mut noise = String::new();
    loop {
        let mut line = Vec::new();
        let read = from.take(NOISE).read_until(b'\n', &mut line).await?;
        if read == 0 || noise.len() as u64 > NOISE {
            return Ok(Greeted::Not { noise });
        }
        let line = String::from_utf8_lossy(&line);
        if let Some(rest) = line.trim().strip_prefix(GREETING) {
            let field = |key: &str| rest.split_whitespace().find_map(|word| word.strip_prefix(key));
            let api = field("api=").unwrap_or("?").to_owned();
            let (oldest, newest) = api.split_once("..").unwrap_or(("", ""));
            let (oldest, newest) = (oldest.parse::<u32>(), newest.parse::<u32>());
            let fits =
                oldest.is_ok_and(|oldest| oldest <= API) && newest.is_ok_and(|newest| newest >= OLDEST_API);
            let version = field("version=").unwrap_or("?").to_owned();
            return Ok(if fits { Greeted::Understood } else { Greeted::Skew { version, api } });
        }
        noise.push_str(line.trim());
        noise.push(' ');
    }
}

fn explain(status: i32, said: &str, noise: &str) -> String {
    let words = if said.is_empty() { noise.trim() } else { said };
    match status {
        255 => format!("ssh says: {words}"),
        127 => format!(
            "switchman is not installed there, or not on the PATH of a non-interactive shell ({words})"
        ),
        126 => format!("switchman may not be run there: {words}"),
        // An older switchman has no such command.
        2 => format!("the switchman there has no `agent --stdio`: {words}"),
        status => format!("the remote command ended with status {status}: {words}"),
    }
}

/// One word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn greeted(text: &str) -> Greeted {
        greeting(&mut BufReader::new(text.as_bytes())).await.unwrap()
    }

    #[tokio::test]
    async fn a_greeting_is_found_behind_what_a_shell_prints() {
        let text = format!("Welcome to web1!\n\n{GREETING} api={OLDEST_API}..{API} version=9.9.9\nrest");
        assert!(matches!(greeted(&text).await, Greeted::Understood));
        let newer = format!("{GREETING} api=90..99 version=9.9.9\n");
        assert!(
            matches!(greeted(&newer).await, Greeted::Skew { version, api } if version == "9.9.9" && api == "90..99")
        );
        assert!(matches!(greeted("no\nsuch\n").await, Greeted::Not { noise } if noise == "no such "));
    }

    #[test]
    fn words_reach_the_remote_shell_as_they_are() {
        assert_eq!(quoted("/usr/sbin/switchman"), "/usr/sbin/switchman");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        let reach = Reach {
            remote_switchman: ["sudo", "-n", "/opt/{host}/switchman"].map(str::to_owned).to_vec(),
            ..Reach::default()
        };
        let words = command(&"web1".parse().unwrap(), &reach).join(" ");
        assert_eq!(words, "sudo -n /opt/web1/switchman agent --stdio");
        assert_eq!(command(&"web1".parse().unwrap(), &Reach::default()).join(" "), "switchman agent --stdio");
    }
}
