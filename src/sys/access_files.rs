//! Keys, certificates and secrets of the clients of other servers: the files that the configuration names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::http_servers::TlsFiles;
use crate::model::journal_location::{AccessFiles, Secret};
use crate::model::private_file::find_exposure;

/// The certificates and the key of a client, PEM.
pub fn read_tls_files(files: &AccessFiles) -> Result<TlsFiles, String> {
    let ca = files.ca.as_deref().map(read_file).transpose()?;
    let identity = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => Some([read_file(certificate)?, read_private_file(key)?].concat()),
        _ => None,
    };
    Ok(TlsFiles { ca, identity })
}

/// The password or token: that of the environment, or the first line of its file.
pub fn read_secret(files: &AccessFiles) -> Result<Option<String>, String> {
    if let Some(Secret(secret)) = &files.secret {
        return Ok(Some(secret.clone()));
    }
    let Some(path) = &files.secret_file else { return Ok(None) };
    let text = String::from_utf8(read_private_file(path)?)
        .map_err(|_| format!("`{}` is no text", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(Some(secret.to_owned())),
        _ => Err(format!("`{}` is empty", path.display())),
    }
}

/// Reads a key or a secret, and refuses a file that other users may read, as ssh does. The error names the file.
///
/// A file of another user is readable for root alone, who obeys the configuration that names it.
pub fn read_private_file(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read `{}`: {error}", path.display());
    let metadata = fs::metadata(path).map_err(|error| cannot(&error))?;
    if let Some(exposure) = find_exposure(metadata.mode(), metadata.uid(), &[]) {
        return Err(format!("{}; `chmod 600 {}` closes it", cannot(&exposure), path.display()));
    }
    read_file(path)
}

/// Its error names the file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secret_and_key_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "hunter2\n").unwrap();
        let read = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (secret_file, certificate) = (Some(path.clone()), Some(path.clone()));
            let key = Some(path.clone());
            let files = AccessFiles { certificate, key, secret_file, ..AccessFiles::default() };
            (read_secret(&files), read_tls_files(&files).map(|tls| tls.identity))
        };
        let (secret, identity) = read(0o600);
        assert_eq!(
            (secret, identity),
            (Ok(Some("hunter2".into())), Ok(Some(b"hunter2\nhunter2\n".to_vec())))
        );
        for mode in [0o644, 0o640, 0o604] {
            let (secret, identity) = read(mode);
            let (secret, identity) = (secret.unwrap_err(), identity.unwrap_err());
            assert_eq!(secret, identity);
            assert!(
                secret.contains(&format!("its mode is 0{mode:o}")) && secret.contains("chmod 600"),
                "{secret}"
            );
            assert!(!secret.contains("hunter2"));
        }
    }
}
