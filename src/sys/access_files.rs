//! Keys, certificates and secrets of the clients of other servers: the files that the configuration names.

use std::fs;
use std::path::Path;

use super::http_servers::TlsFiles;
use crate::model::journal_location::{AccessFiles, Secret};

/// The certificates and the key of a client, PEM.
pub fn read_tls_files(files: &AccessFiles) -> Result<TlsFiles, String> {
    let ca = files.ca.as_deref().map(read_file).transpose()?;
    let identity = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => Some([read_file(certificate)?, read_file(key)?].concat()),
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
    let text = String::from_utf8(read_file(path)?).map_err(|_| format!("`{}` is no text", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(Some(secret.to_owned())),
        _ => Err(format!("`{}` is empty", path.display())),
    }
}

/// Its error names the file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}
