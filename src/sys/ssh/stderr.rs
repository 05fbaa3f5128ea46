//! The standard error of ssh, which explains why a link broke.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::ChildStderr;
use tokio::sync::watch;

use crate::sys::lines::LineSplitter;

/// Timeout for reading the standard error of an ssh that has ended.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);
/// Limits of the standard error in an error text: lines, and characters of the whole.
const MAX_STDERR_LINES: usize = 3;
pub const MAX_SHOWN_CHARS: usize = 300;
/// More than a host prints at a login, and less than ssh takes from it before it is read (2 MiB, `CHAN_SES_WINDOW_DEFAULT` of
/// OpenSSH's channels.h).
const NOISY_BYTES: usize = 64 * 1024;

/// The number of noisy ssh processes that have not ended, and the signal that there are fewer.
static NOISY: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The last that ssh wrote to its standard error, which is read to its end: a full pipe would hold ssh up.
#[derive(Clone)]
pub struct SshStderr {
    lines: Arc<Mutex<VecDeque<String>>>,
    is_finished: watch::Receiver<bool>,
}

/// Waits for every ssh whose host has written much to its standard error, at most this long. An ssh whose standard error is
/// closed keeps what comes from the host; when no more fits, the host's sshd cannot end the session, and neither process
/// ever ends. Call this after the links were dropped, and before the process ends.
pub fn wait_for_noisy_ssh(limit: Duration) {
    let (count, fewer) = &NOISY;
    let count = count.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = fewer.wait_timeout_while(count, limit, |count| *count > 0);
}

/// Counts one ssh as noisy until it is dropped.
struct NoisySsh;

impl NoisySsh {
    fn new() -> Self {
        *NOISY.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for NoisySsh {
    fn drop(&mut self) {
        *NOISY.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        NOISY.1.notify_all();
    }
}

impl SshStderr {
    /// Reads in a thread of its own, which goes on after the runtime has ended.
    pub fn start_reading(stderr: ChildStderr) -> std::io::Result<Self> {
        let (lines, (over, is_over)) = (Arc::<Mutex<VecDeque<String>>>::default(), watch::channel(false));
        let (file, theirs) = (File::from(stderr.into_owned_fd()?), lines.clone());
        std::thread::Builder::new().name("ssh-stderr".to_owned()).spawn(move || {
            read_to_end(file, &theirs);
            over.send_replace(true);
        })?;
        Ok(Self { lines, is_finished: is_over })
    }

    pub fn to_text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    pub fn clear(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// After the end of ssh, or a moment: one that stays as the master of a connection may keep its outputs open.
    pub async fn wait_for_text(&self) -> String {
        let mut over = self.is_finished.clone();
        let _ = tokio::time::timeout(STDERR_TIMEOUT, over.wait_for(|over| *over)).await;
        self.to_text()
    }
}

fn read_to_end(mut from: File, lines: &Mutex<VecDeque<String>>) {
    let mut buffer = vec![0; 8 * 1024];
    let (mut splitter, mut bytes, mut noisy) = (LineSplitter::default(), 0, None);
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        bytes += length;
        if bytes > NOISY_BYTES && noisy.is_none() {
            noisy = Some(NoisySsh::new());
        }
        for line in splitter.push(&buffer[..length]) {
            keep_line(lines, &line);
        }
    }
    if let Some(line) = splitter.finish() {
        keep_line(lines, &line);
    }
}

fn keep_line(lines: &Mutex<VecDeque<String>>, line: &str) {
    if line.is_empty() {
        return;
    }
    log::debug!("ssh: {line}");
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push_back(shorten(to_clause(line)));
    if lines.len() > MAX_STDERR_LINES {
        lines.pop_front();
    }
}

/// Turns a sentence of another program into a part of an error text.
fn to_clause(line: &str) -> &str {
    let line = line.trim();
    line.strip_prefix("error: ").unwrap_or(line).trim_end_matches('.')
}

/// Shortens a text to its end, where the reason is.
pub fn shorten(words: &str) -> String {
    let words = words.trim();
    match words.char_indices().rev().nth(MAX_SHOWN_CHARS - 1) {
        Some((at, _)) if at > 0 => format!("...{}", &words[at..]),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parts_of_an_error_text() {
        assert_eq!(to_clause("Host key verification failed.\r"), "Host key verification failed");
        assert_eq!(to_clause("error: unrecognized subcommand 'agent'"), "unrecognized subcommand 'agent'");
        assert_eq!(to_clause("..."), "");
    }
}
