//! The log of an instance: `log`, and as it fills up `log.1`, `log.2`, ...; a line is whole in one of them.
//!
//! The program writes into a FIFO that the keeper reads. A file of its own would need no reader, but its lines would have
//! no time, and truncating it under a writer loses lines. The program holds both ends of the FIFO, so the end of a keeper
//! is no SIGPIPE; until the next keeper reads on, what it writes waits in the pipe, and when that is full
//! ([`CAPACITY`]) so does the program.

use crate::model::plural::Count;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, fcntl};

use super::instance_dir::{InstanceDir, Tuning};

/// Capacity of the FIFO, bytes: the most that a plain user may have (pipe(7), pipe-max-size).
const FIFO_BYTES: i32 = 1024 * 1024;
/// A longer line is written in pieces.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Bytes of one read, and reads in a row before other work gets its turn.
const READ_BYTES: usize = 64 * 1024;
const MAX_READS: usize = 16;

pub struct LogWriter {
    dir: InstanceDir,
    max_bytes: u64,
    max_files: u32,
    file: Option<File>,
    length: u64,
    /// The line that has not ended yet.
    line: Vec<u8>,
    pending: Vec<u8>,
    /// Lines in `ready`.
    pending_lines: u64,
    buffer: Vec<u8>,
    /// Lines that could not be written.
    lost_lines: u64,
}

impl LogWriter {
    pub fn new(place: &InstanceDir, tuning: &Tuning) -> Self {
        Self {
            dir: place.clone(),
            max_bytes: tuning.log_bytes,
            max_files: tuning.log_files.max(1),
            file: None,
            length: 0,
            line: Vec::new(),
            pending: Vec::new(),
            pending_lines: 0,
            buffer: vec![0; READ_BYTES],
            lost_lines: 0,
        }
    }

    /// Makes room in the FIFO.
    pub fn widen_fifo(fifo: &File) {
        // Where a plain user has used up the pipe quota, 64 KiB have to do.
        let _ = fcntl(fifo, FcntlArg::F_SETPIPE_SZ(FIFO_BYTES));
    }

    /// Takes what is there; false when there may be more.
    pub fn read_available(&mut self, fifo: &mut File) -> bool {
        let mut empty = false;
        for _ in 0..MAX_READS {
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = fifo.read(&mut buffer);
            if let Ok(length) = read {
                self.add_bytes(&buffer[..length], &format_timestamp());
            }
            self.buffer = buffer;
            // One that was interrupted is read again when it is polled again.
            if !matches!(read, Ok(length) if length > 0) {
                empty = true;
                break;
            }
        }
        self.flush();
        empty
    }

    /// No more comes: what has no line's end is a line.
    pub fn end(&mut self) {
        if !self.line.is_empty() {
            self.end_line(&format_timestamp());
        }
        self.flush();
    }

    fn add_bytes(&mut self, mut bytes: &[u8], stamp: &str) {
        while !bytes.is_empty() {
            let room = &bytes[..bytes.len().min(MAX_LINE_BYTES - self.line.len())];
            let end = room.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(room.len());
            self.line.extend_from_slice(&room[..length]);
            bytes = &bytes[length + usize::from(end.is_some())..];
            if end.is_some() || self.line.len() >= MAX_LINE_BYTES {
                self.end_line(stamp);
            }
        }
    }

    fn end_line(&mut self, stamp: &str) {
        let start = self.pending.len();
        self.pending.extend_from_slice(stamp.as_bytes());
        self.pending.append(&mut self.line);
        self.pending.push(b'\n');
        let line = (self.pending.len() - start) as u64;
        if self.length + self.pending.len() as u64 > self.max_bytes && self.length + start as u64 > 0 {
            let last = self.pending.split_off(start);
            self.flush();
            self.rotate();
            self.pending = last;
        }
        self.pending_lines += 1;
        if self.pending.len() >= READ_BYTES || line >= self.max_bytes {
            self.flush();
        }
    }

    /// A disk that is full is no reason to hold the program up: lines are lost then, and their number is noted once there
    /// is room.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.pending_lines);
        if let Err(error) = self.append() {
            if self.lost_lines == 0 {
                log::warn!("cannot write `{}`: {error}", self.dir.file_path("log").display());
            }
            self.lost_lines += lines;
        }
        self.pending.clear();
    }

    fn append(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        let file = self.file.insert(file);
        if self.lost_lines > 0 {
            let note = format!("{}switchman: lost {}\n", format_timestamp(), Count(self.lost_lines, "line"));
            file.write_all(note.as_bytes())?;
            self.length += note.len() as u64;
            self.lost_lines = 0;
        }
        file.write_all(&self.pending)?;
        self.length += self.pending.len() as u64;
        Ok(())
    }

    fn open(&mut self) -> io::Result<File> {
        let path = self.dir.file_path("log");
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
        self.length = file.metadata()?.len();
        // A keeper that was killed, or a full disk, may have left half a line.
        if self.length > 0 && read_last_byte(&file, self.length)? != b'\n' {
            file.write_all(b"\n")?;
            self.length += 1;
        }
        Ok(file)
    }

    fn rotate(&mut self) {
        self.file = None;
        self.length = 0;
        for number in (1..self.max_files).rev() {
            let newer = if number == 1 { self.file_path(0) } else { self.file_path(number - 1) };
            // One that is not there yet has nothing to be moved.
            let _ = fs::rename(newer, self.file_path(number));
        }
        if self.max_files == 1 {
            let _ = fs::remove_file(self.file_path(0));
        }
    }

    fn file_path(&self, number: u32) -> PathBuf {
        build_log_path(&self.dir, number)
    }
}

/// Prefix of all lines that were read together.
fn format_timestamp() -> String {
    format!("{:.6} ", Timestamp::now())
}

fn read_last_byte(file: &File, length: u64) -> io::Result<u8> {
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut byte, length - 1)?;
    Ok(byte[0])
}

/// 0 is the newest.
pub fn build_log_path(place: &InstanceDir, number: u32) -> PathBuf {
    place.file_path(&if number == 0 { "log".to_owned() } else { format!("log.{number}") })
}
