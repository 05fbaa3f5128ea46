//! Releases that the rehearsals deploy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::lab::Lab;
use crate::lab::error::LabError;
use crate::lab::files::{make_dir, write};

/// The first managed version, newer than what the vhosts of the acts before serve.
pub const FIRST_VERSION: &str = "4.0.0";

/// Writes a release whose program reports its version.
pub fn write_release(lab: &Lab, version: &str) -> Result<PathBuf, LabError> {
    write_faulty_release(lab, version, "")
}

/// Writes such a release with more flags for the program, such as `--fault deaf`.
pub fn write_faulty_release(lab: &Lab, version: &str, flags: &str) -> Result<PathBuf, LabError> {
    let dir = lab.dir().join("releases").join(version);
    make_dir(&dir)?;
    let script = format!(
        "#!/bin/sh\n# The code of {version}.\n# Which host of the lab this is, by the place of its releases.\nhost=${{SWITCHMAN_RELEASE%%/releases/*}}\n\
         exec {} lab app --listen 0.0.0.0:$PORT --host ${{host##*/}} --vhost main --version $SWITCHMAN_VERSION {flags}\n",
        find_program(lab)?.display()
    );
    write(&dir.join("serve.sh"), &script)?;
    Ok(dir)
}

/// Returns a path of switchman that programs of releases may run: they are not root, and a directory above it may be closed.
fn find_program(lab: &Lab) -> Result<PathBuf, LabError> {
    let program = &lab.options.switchman;
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if program.ancestors().all(is_open) {
        return Ok(program.clone());
    }
    let copy = lab.dir().join("switchman");
    if !copy.exists() {
        fs::copy(program, &copy).map_err(|source| LabError::Files {
            verb: "write",
            path: copy.clone(),
            source,
        })?;
    }
    Ok(copy)
}
