//! `switchman.yaml`, flags and environment -> one checked [`Fleet`]. Every error names file, line, key, what was found and
//! what is expected.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use env::JournalVariables;

use crate::model::discovery::DiscoverySource;
use crate::model::fleet::Fleet;
use crate::model::journal_location::{JournalLocation, Secret};

pub mod check;
pub mod env;
mod fields;
pub mod file;
pub mod host_edit;
mod hosts;
pub mod problem;
mod syntax;
pub mod trust;

pub use problem::{ConfigError, ConfigFault, ConfigProblem, UntrustedPath};
pub use trust::TrustedUsers;

/// The paths searched for a configuration when none is named.
pub const DEFAULT_PATHS: [&str; 2] = ["./switchman.yaml", "/etc/switchman/switchman.yaml"];

/// Reads and checks the named file, or the first of [`DEFAULT_PATHS`] that exists. `trusted`: refuses a configuration that a user
/// beside these could change.
pub fn load_config(
    named: Option<&Path>,
    trusted: Option<&TrustedUsers>,
) -> Result<(PathBuf, Fleet), ConfigError> {
    let first = || DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists());
    let file = named.map(Path::to_owned).or_else(first).ok_or(ConfigError::NotFound)?;
    let fail = |error: io::Error| ConfigError::ReadFailed { file: file.clone(), reason: error.to_string() };
    let mut opened = File::open(&file).map_err(fail)?;
    if let Some(trusted) = trusted {
        trust::check_file(&file, &opened.metadata().map_err(fail)?, trusted)?;
    }
    let mut text = String::new();
    opened.read_to_string(&mut text).map_err(fail)?;
    let fleet = build_config(&file, &text, env::read_journal_variables())?;
    if let Some(trusted) = trusted {
        trust::check_named_files(&file, &fleet, trusted)?;
    }
    Ok((file, fleet))
}

/// Text -> checked fleet. `file` is for messages, and keys lie relative to it.
pub fn parse_config(file: &Path, text: &str) -> Result<Fleet, ConfigError> {
    build_config(file, text, JournalVariables::default())
}

fn build_config(file: &Path, text: &str, variables: JournalVariables) -> Result<Fleet, ConfigError> {
    let mut shape = file::parse_file(text).map_err(|fault| fault.in_file(file))?;
    let variable = Path::new(env::JOURNAL_VARIABLE);
    let secret = variables.secret.map(Secret);
    if let Some(location) = &variables.location {
        let mut journal = file::parse_journal(location).map_err(|fault| fault.in_file(variable))?;
        journal.value.secret.clone_from(&secret);
        // Checked alone, so that a fault names the variable.
        check::check_journal(&journal).map_err(|fault| fault.in_file(variable))?;
        shape.journal = Some(journal);
    }
    if let Some(journal) = &mut shape.journal {
        journal.value.secret = secret;
    }
    let mut fleet = check::build_fleet(shape).map_err(|fault| fault.in_file(file))?;
    let beside = file.parent().unwrap_or(Path::new(""));
    let reach = &mut fleet.reach;
    for path in
        [&mut reach.ca, &mut reach.certificate, &mut reach.key, &mut reach.token_file].into_iter().flatten()
    {
        *path = beside.join(&path);
    }
    let sources = fleet.discovery.iter_mut();
    let named = sources.flat_map(DiscoverySource::list_paths);
    for path in fleet.journal.list_paths().into_iter().chain(named) {
        *path = beside.join(&path);
    }
    Ok(fleet)
}

/// Reads a place of the journal as the key `journal` names it, for a fleet of this configuration.
pub fn parse_journal(file: &Path, text: &str, fleet: &Fleet) -> Result<JournalLocation, ConfigError> {
    let in_argument = |fault: ConfigFault| fault.in_file(Path::new("--to"));
    let shape = file::parse_file(&format!("service: {}\njournal: {text}\n", fleet.service));
    let shape = shape.map_err(in_argument)?;
    let mut location = check::build_journal(shape.journal.as_ref(), &fleet.hosts).map_err(in_argument)?;
    let beside = file.parent().unwrap_or(Path::new(""));
    for path in location.list_paths() {
        *path = beside.join(&path);
    }
    Ok(location)
}

#[cfg(test)]
mod tests;
