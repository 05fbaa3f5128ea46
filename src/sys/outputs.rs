//! `world::outputs` as one file a host: `rolls/ROLL/HOST.log`.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::model::name::HostName;
use crate::model::roll::RollId;
use crate::world::outputs::OutputStore;

/// Limit of one host's output: the disk is the journal's too, and a command that prints without end is not to fill it.
const MAX_OUTPUT_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct FileOutputs {
    dir: PathBuf,
    max_bytes: u64,
    /// `None`: no more can be written, which was reported once.
    files: Mutex<BTreeMap<PathBuf, Option<OutputFile>>>,
}

#[derive(Debug)]
struct OutputFile {
    file: File,
    length: u64,
}

impl OutputFile {
    /// False when this is the end of what is kept.
    fn append(&mut self, line: &str, largest: u64) -> io::Result<bool> {
        self.length += line.len() as u64 + 1;
        if self.length > largest {
            writeln!(self.file, "(more than {largest} bytes: the rest is not kept)")?;
            return Ok(false);
        }
        writeln!(self.file, "{line}").map(|()| true)
    }
}

impl FileOutputs {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, max_bytes: MAX_OUTPUT_BYTES, files: Mutex::default() }
    }

    fn build_path(&self, roll: &RollId, host: Option<&HostName>) -> PathBuf {
        // A host named `roll` does not collide with this name: a host's file ends differently.
        let name = host.map_or_else(|| "roll.txt".to_owned(), |host| format!("{host}.log"));
        self.dir.join(roll.as_str()).join(name)
    }
}

impl OutputStore for FileOutputs {
    fn append_line(&self, roll: &RollId, host: Option<&HostName>, line: &str) {
        let path = self.build_path(roll, host);
        let mut open = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = open.entry(path.clone()).or_insert_with(|| match open_output_file(&path) {
            Ok(kept) => Some(kept),
            Err(error) => {
                log::warn!("cannot keep output in `{}`: {error}", path.display());
                None
            }
        });
        match slot.as_mut().map(|kept| kept.append(line, self.max_bytes)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => *slot = None,
            Some(Err(error)) => {
                log::warn!("no more output is kept in `{}`: {error}", path.display());
                *slot = None;
            }
        }
    }

    fn locate(&self, roll: &RollId, host: Option<&HostName>) -> Option<String> {
        let path = self.build_path(roll, host);
        path.exists().then(|| path.display().to_string())
    }
}

fn open_output_file(path: &Path) -> io::Result<OutputFile> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let length = file.metadata()?.len();
    Ok(OutputFile { file, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_stored_per_host_and_write_errors_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = FileOutputs::new(dir.path().join("rolls"));
        let (roll, web1) = (RollId::new(jiff::Timestamp::UNIX_EPOCH, 1), "web1".parse().unwrap());
        assert_eq!(outputs.locate(&roll, Some(&web1)), None);
        outputs.append_line(&roll, Some(&web1), "one");
        outputs.append_line(&roll, None, "whole");
        outputs.append_line(&roll, Some(&web1), "two");
        let place = outputs.locate(&roll, Some(&web1)).unwrap();
        assert!(place.ends_with("rolls/r19700101-000000-0001/web1.log"), "{place}");
        assert_eq!(std::fs::read_to_string(place).unwrap(), "one\ntwo\n");
        std::fs::write(dir.path().join("file"), "").unwrap();
        FileOutputs::new(dir.path().join("file/in/the/way")).append_line(&roll, None, "lost");
    }

    #[test]
    fn outputs_stop_at_size_limit() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileOutputs { max_bytes: 20, ..FileOutputs::new(dir.path().join("rolls")) };
        let roll = RollId::new(jiff::Timestamp::UNIX_EPOCH, 1);
        for number in 0..100 {
            first.append_line(&roll, None, &format!("line {number}"));
        }
        let text = std::fs::read_to_string(first.locate(&roll, None).unwrap()).unwrap();
        assert_eq!(text, "line 0\nline 1\n(more than 20 bytes: the rest is not kept)\n");
    }
}
