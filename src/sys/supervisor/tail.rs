//! Reading the log of an instance while its keeper writes it and turns it over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use super::instance_dir::InstanceDir;
use super::log::build_log_path;
use crate::sys::lines::text;
use crate::world::link::SharedLineSink;

/// How often a log that is followed is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const BLOCK_BYTES: u64 = 64 * 1024;

/// A file of the log, under its present name or another. Open, so that no other file is given its inode.
struct LogFile {
    inode: u64,
    file: File,
    /// The first byte that was not handed on.
    offset: u64,
    /// Length of the file when it was opened.
    length: u64,
}

/// Hands on the last lines as they are now, and with `follow` those that come, until the callback
/// reports that no more will come.
pub async fn read(
    place: &InstanceDir,
    tail: Option<u32>,
    follow: bool,
    gone: impl Fn() -> bool + Send + Sync,
    heard: &SharedLineSink,
) -> io::Result<()> {
    let mut last = None;
    for mut part in seek_last_lines(open_log_files(place)?, tail)? {
        // What is added from here on is not of the last lines: a writer without end would never be caught up with.
        let length = part.length;
        forward_lines(&mut part, Some(length), heard).await?;
        last = Some(part);
    }
    if !follow {
        return Ok(());
    }
    loop {
        // Checked first: what was written before the end is read after the answer.
        let ends = gone();
        last = forward_new_lines(place, last, heard).await?;
        if ends {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Oldest first. Opened from the newest on, so that one that is turned over in between is met twice and never missed.
fn open_log_files(place: &InstanceDir) -> io::Result<Vec<LogFile>> {
    let mut parts: Vec<LogFile> = Vec::new();
    let mut absent = 0;
    for number in 0.. {
        let file = match File::open(build_log_path(place, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                absent += 1;
                // Between two renames of a turn-over one is absent, and older ones are there.
                if absent == 2 {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let (inode, length) = file.metadata().map(|file| (file.ino(), file.len()))?;
        if parts.iter().all(|part| part.inode != inode) {
            parts.push(LogFile { inode, file, offset: 0, length });
        }
    }
    parts.reverse();
    Ok(parts)
}

/// Returns the files that hold the last lines, oldest first, each from where they begin in it. The newest is always among
/// them.
fn seek_last_lines(parts: Vec<LogFile>, tail: Option<u32>) -> io::Result<Vec<LogFile>> {
    let Some(mut left) = tail.map(u64::from) else { return Ok(parts) };
    let mut found = Vec::new();
    for mut part in parts.into_iter().rev() {
        let (lines, at) = find_last_lines(&part.file, part.length, left)?;
        part.offset = at;
        left -= lines;
        found.push(part);
        if left == 0 {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// How many of this number of last lines a file has, and where the first of them begins.
fn find_last_lines(file: &File, length: u64, wanted: u64) -> io::Result<(u64, u64)> {
    if wanted == 0 || length == 0 {
        return Ok((0, length));
    }
    // The very last byte ends the last line and begins none.
    let (mut lines, mut end) = (1, length - 1);
    let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let bytes = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(bytes, start)?;
        for (at, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if lines == wanted {
                return Ok((lines, start + at as u64 + 1));
            }
            lines += 1;
        }
        end = start;
    }
    Ok((lines, 0))
}

/// Hands on all that is there by now, and returns where it goes on.
async fn forward_new_lines(
    place: &InstanceDir,
    part: Option<LogFile>,
    heard: &SharedLineSink,
) -> io::Result<Option<LogFile>> {
    let Some(mut part) = part else { return Ok(open_log_files(place)?.into_iter().next()) };
    loop {
        forward_lines(&mut part, None, heard).await?;
        let parts = open_log_files(place)?;
        let here = parts.iter().position(|other| other.inode == part.inode);
        // Not among them: enough was written since that it was turned out, and the oldest of them is the next one.
        let Some(next) = parts.into_iter().nth(here.map_or(0, |here| here + 1)) else {
            return Ok(Some(part));
        };
        // Nothing is added to it any more, but something was before it was turned over.
        forward_lines(&mut part, None, heard).await?;
        part = next;
        // One who writes without end is not to keep everybody else from their turn.
        tokio::task::yield_now().await;
    }
}

/// Reads the file's lines, up to this length of it; one that has not ended yet is left for the next time.
async fn forward_lines(part: &mut LogFile, until: Option<u64>, heard: &SharedLineSink) -> io::Result<()> {
    let mut reader = BufReader::new(&part.file);
    reader.seek(SeekFrom::Start(part.offset))?;
    let mut line = Vec::new();
    while until.is_none_or(|until| part.offset < until) {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        part.offset += length as u64;
        heard.write_line(&text(&line)).await;
    }
    Ok(())
}
