//! The files of HAProxy that a command line names.

use std::path::{Path, PathBuf};

use super::failure::fail_file;
use crate::error::Failure;
use crate::lint::{CfgFile, HaproxyCfg, parse_hosts_file};

/// Reads the files as HAProxy does: each in the order given, of a directory those that end in `.cfg`, sorted by bytes.
pub(super) fn read_haproxy_cfg(paths: &[PathBuf]) -> Result<Option<HaproxyCfg>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        for file in list_cfg_files(path)? {
            let name = file.display().to_string();
            let bytes = std::fs::read(&file).map_err(fail_file("read", &file))?;
            files.push(CfgFile::decode(name, &bytes));
        }
    }
    // Names of server lines may be in the hosts file of this machine; they are looked up nowhere else.
    let addresses =
        std::fs::read_to_string("/etc/hosts").map(|text| parse_hosts_file(&text)).unwrap_or_default();
    Ok((!paths.is_empty()).then_some(HaproxyCfg { files, addresses }))
}

fn list_cfg_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail_file("read", path))? {
        let file = entry.map_err(fail_file("read", path))?.path();
        let is_hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if file.extension().is_some_and(|extension| extension == "cfg") && !is_hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
