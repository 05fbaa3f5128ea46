//! Programs that have to succeed.

use std::time::Duration;

use super::error::LabError;
use crate::sys::exec::Program;

/// Runs a program to its end; a status other than 0 is an error.
pub(super) async fn run_checked(program: &Program, input: &[u8], timeout: Duration) -> Result<(), LabError> {
    let output = program.run(input, timeout).await?;
    match output.status {
        0 => Ok(()),
        status => Err(LabError::Command { command: program.to_string(), status, stderr: output.stderr }),
    }
}
