//! `haproxy -c`: lets a HAProxy program read configuration files without starting them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exec::{ExecError, Program};
use crate::model::config_check::ConfigCheck;

/// Certificates of large sites take seconds to read.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Runs `haproxy -v` and `haproxy -c` with the files and directories in their order.
pub async fn check_config(program: &Path, files: &[PathBuf]) -> Result<ConfigCheck, ExecError> {
    let version = Program::new(program).arg("-v").run(b"", TIMEOUT).await?.stdout;
    let files = files.iter().flat_map(|file| ["-f".into(), file.clone().into_os_string()]);
    let output = Program::new(program).arg("-c").args(files).run(b"", TIMEOUT).await?;
    Ok(ConfigCheck {
        version: version.split_whitespace().nth(2).unwrap_or("of unknown version").to_owned(),
        is_accepted: output.status == 0,
        messages: output.stderr,
    })
}
