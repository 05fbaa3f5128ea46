//! The standard error of ssh, which explains why a link broke.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::ChildStderr;
use tokio::sync::watch;

use crate::sys::lines::read_lines;
use crate::world::link::SharedLineSink;

/// Timeout for reading the standard error of an ssh that has ended.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);
/// Limits of the standard error in an error text: lines, and characters of the whole.
const MAX_STDERR_LINES: usize = 3;
pub(super) const MAX_SHOWN_CHARS: usize = 300;

/// The last that ssh wrote to its standard error, which is read to its end: a full pipe would hold ssh up.
#[derive(Clone)]
pub(super) struct SshStderr {
    lines: Arc<Mutex<VecDeque<String>>>,
    is_finished: watch::Receiver<bool>,
}

impl SshStderr {
    pub fn start_reading(stderr: ChildStderr) -> Self {
        let (lines, (over, is_over)) = (Arc::<Mutex<VecDeque<String>>>::default(), watch::channel(false));
        let theirs = lines.clone();
        let heard: SharedLineSink = Arc::new(move |line: &str| {
            log::debug!("ssh: {line}");
            let mut lines = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.is_empty() {
                lines.push_back(shorten(line));
            }
            if lines.len() > MAX_STDERR_LINES {
                lines.pop_front();
            }
        });
        tokio::spawn(async move {
            let (_never, ended) = watch::channel(false);
            read_lines(Some(stderr), &heard, ended).await;
            over.send_replace(true);
        });
        Self { lines, is_finished: is_over }
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

/// Shortens a text to its end, where the reason is.
pub(super) fn shorten(words: &str) -> String {
    let words = words.trim();
    match words.char_indices().rev().nth(MAX_SHOWN_CHARS - 1) {
        Some((at, _)) if at > 0 => format!("...{}", &words[at..]),
        _ => words.to_owned(),
    }
}
