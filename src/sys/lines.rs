//! Reads the output of other programs line by line, within the limits of what may be shown.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::world::link::SharedLineSink;

/// A background process may keep the outputs open after the program has ended; its output is not waited for. The
/// program's own last words are in the pipe by then, of which this many bytes is all there is (pipe(7), the capacity).
const TRAILING_OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);
const PIPE_BYTES: usize = 64 * 1024;
/// A longer line is handed on in pieces.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Up to the end of the bytes; or, once the program has ended, to the end of what it left in the pipe.
pub async fn read_lines(
    from: Option<impl AsyncRead + Unpin>,
    heard: &SharedLineSink,
    mut ended: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; MAX_LINE_BYTES];
    let mut lines = LineSplitter::default();
    let mut left = PIPE_BYTES;
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = wait_for_trailing_output(&mut ended) => break,
        };
        let length = match read {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if *ended.borrow() {
            left = left.saturating_sub(length);
        }
        for line in lines.push(&buffer[..length]) {
            heard.write_line(&line).await;
        }
    }
    if let Some(line) = lines.finish() {
        heard.write_line(&line).await;
    }
}

/// Splits bytes into lines, each cleaned by [`text`].
#[derive(Debug, Default)]
pub struct LineSplitter {
    line: Vec<u8>,
}

impl LineSplitter {
    /// Returns the lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= MAX_LINE_BYTES {
                lines.push(text(&self.line));
                self.line.clear();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
        lines
    }

    /// Returns the last line, which has no end.
    pub fn finish(self) -> Option<String> {
        (!self.line.is_empty()).then(|| text(&self.line))
    }
}

/// After the end of the program.
async fn wait_for_trailing_output(ended: &mut watch::Receiver<bool>) {
    if ended.wait_for(|ended| *ended).await.is_ok() {
        tokio::time::sleep(TRAILING_OUTPUT_TIMEOUT).await;
    }
}

/// Without what could move an operator's cursor.
pub fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}
