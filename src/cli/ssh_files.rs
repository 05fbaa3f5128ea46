//! The key and the known hosts of ssh from the environment, for machines that have neither, such as a CI job's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::failure::{fail_file, fail_system};
use crate::config::env::SshVariables;
use crate::error::Failure;
use crate::model::ssh::SshFiles;

/// The files, and the private directory of those that hold a variable's text. It is removed with this value.
#[derive(Debug, Default)]
pub(super) struct SshEnvironment {
    pub(super) files: SshFiles,
    _dir: Option<TempDir>,
}

impl SshEnvironment {
    pub(super) fn create(variables: SshVariables) -> Result<Self, Failure> {
        let SshVariables { key, key_file, known_hosts, known_hosts_file } = variables;
        // A file comes first: a command that a roll starts gets the file of the text that this process got.
        let key_text = key.filter(|_| key_file.is_none());
        let known_hosts_text = known_hosts.filter(|_| known_hosts_file.is_none());
        if let Some(file) = &key_file {
            check_mode(file)?;
        }
        let dir = match (&key_text, &known_hosts_text) {
            (None, None) => None,
            _ => Some(create_dir().map_err(fail_system("create a private directory for the ssh key"))?),
        };
        let write = |name: &str, text: Option<String>| match (&dir, text) {
            (Some(dir), Some(text)) => write_private(&dir.path().join(name), &text).map(Some),
            _ => Ok(None),
        };
        let key = key_file.or(write("key", key_text)?);
        let known_hosts = known_hosts_file.or(write("known_hosts", known_hosts_text)?);
        Ok(Self { files: SshFiles { key, known_hosts }, _dir: dir })
    }
}

/// A directory that only this user may enter.
fn create_dir() -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("switchman-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
}

fn write_private(path: &Path, text: &str) -> Result<PathBuf, Failure> {
    let failed = fail_file("write", path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(&failed)?;
    file.write_all(text.as_bytes()).map_err(&failed)?;
    if !text.ends_with('\n') {
        // Secret stores cut the last end of line, and ssh does not read a key without it.
        file.write_all(b"\n").map_err(&failed)?;
    }
    Ok(path.to_owned())
}

/// ssh ignores a key that others may read, and reports only that no key was accepted.
fn check_mode(path: &Path) -> Result<(), Failure> {
    let file = std::fs::metadata(path).map_err(fail_file("read", path))?;
    let mode = file.permissions().mode() & 0o777;
    // Nothing for the group and others.
    if mode.trailing_zeros() >= 6 { Ok(()) } else { Err(Failure::LooseKey { path: path.to_owned(), mode }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn text_becomes_a_private_file_that_ends_with_the_command() {
        let variables = SshVariables {
            key: Some("-----BEGIN-----\nx".to_owned()),
            known_hosts: Some("web1 ssh-ed25519 AAAA\n".to_owned()),
            ..SshVariables::default()
        };
        let ssh = SshEnvironment::create(variables).unwrap();
        let (key, known_hosts) = (ssh.files.key.clone().unwrap(), ssh.files.known_hosts.clone().unwrap());
        let dir = key.parent().unwrap().to_owned();
        assert_eq!((mode_of(&key), mode_of(&dir)), (0o600, 0o700));
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "-----BEGIN-----\nx\n");
        assert_eq!(std::fs::read_to_string(&known_hosts).unwrap(), "web1 ssh-ed25519 AAAA\n");
        drop(ssh);
        assert!(!dir.exists());
    }

    #[test]
    fn file_comes_before_text_and_a_loose_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        std::fs::write(&file, "x").unwrap();
        let variables = || SshVariables {
            key: Some("text".to_owned()),
            key_file: Some(file.clone()),
            ..SshVariables::default()
        };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = SshEnvironment::create(variables()).unwrap_err();
        assert!(refused.to_string().contains("its mode is 0644"), "{refused}");
        assert!(refused.hint().contains("chmod 600"), "{}", refused.hint());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(SshEnvironment::create(variables()).unwrap().files.key, Some(file.clone()));
    }
}
