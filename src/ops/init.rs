//! `init`: writes a working set, all of it or nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::templates::vhost::{VhostError, check_path};
use crate::templates::vhost_unit::{format_unit_file_name, render_vhost_unit};
use crate::templates::working_set::{FileContent, NewFile, TemplateError, VhostRole, WorkingSet};
use crate::world::files::{FileSystem, FilesError};

/// The files that were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    pub dir: PathBuf,
    /// Relative to the directory.
    pub files: Vec<PathBuf>,
}

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    #[error("cannot write the configuration: files exist already: {}", .paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", "))]
    AlreadyExists { paths: Vec<PathBuf> },
    #[error("cannot write the configuration: {0}")]
    Template(#[from] TemplateError),
    #[error("cannot write the configuration: {0}")]
    Directory(#[from] VhostError),
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// Writes the set into a directory (absolute). Nothing that is there already is replaced, unless `force`.
pub fn init(
    files: &dyn FileSystem,
    dir: &Path,
    site: &WorkingSet,
    force: bool,
) -> Result<InitReport, InitError> {
    check_path("the directory", dir)?;
    let mut set = site.render_files(&dir.to_string_lossy())?;
    let (folder, ending) = site.vhost_folder();
    for role in [VhostRole::Backup, VhostRole::Main] {
        let file = format!("{}/{folder}/{}{ending}", dir.display(), role.as_str());
        let path = Path::new("systemd").join(format_unit_file_name(site.project.as_str(), role));
        set.push(NewFile { path, content: FileContent::Text(render_vhost_unit(site, role, &file)?) });
    }
    write_all(files, dir, &set, force)
}

/// Writes files into a directory, all of them or none.
pub fn write_all(
    files: &dyn FileSystem,
    dir: &Path,
    set: &[NewFile],
    force: bool,
) -> Result<InitReport, InitError> {
    let there: Vec<PathBuf> =
        set.iter().map(|file| dir.join(&file.path)).filter(|path| files.exists(path)).collect();
    if !there.is_empty() && !force {
        return Err(InitError::AlreadyExists { paths: there });
    }
    let mut written: Vec<PathBuf> = Vec::new();
    for file in set {
        let path = dir.join(&file.path);
        let done = match &file.content {
            FileContent::Text(text) => files.write(&path, text),
            FileContent::Link(target) => files.link(&path, target),
        };
        if let Err(error) = done {
            // Only what this run made: a replaced file cannot be brought back by removing it.
            for path in written.iter().filter(|path| !there.contains(path)) {
                if let Err(left) = files.remove(path) {
                    log::warn!("{left}");
                }
            }
            return Err(error.into());
        }
        written.push(path);
    }
    Ok(InitReport { dir: dir.to_owned(), files: set.iter().map(|file| file.path.clone()).collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::model::deployment::WebServer;
    use crate::templates::working_set::tests::make_working_set;

    #[derive(Default)]
    struct FakeFiles {
        files: Mutex<BTreeMap<PathBuf, String>>,
        fails_at: Option<&'static str>,
    }

    impl FileSystem for FakeFiles {
        fn exists(&self, path: &Path) -> bool {
            self.files.lock().unwrap().contains_key(path)
        }

        fn write(&self, path: &Path, text: &str) -> Result<(), FilesError> {
            if self.fails_at.is_some_and(|name| path.ends_with(name)) {
                return Err(FilesError {
                    action: "write",
                    path: path.to_owned(),
                    reason: "disk full".into(),
                });
            }
            self.files.lock().unwrap().insert(path.to_owned(), text.to_owned());
            Ok(())
        }

        fn link(&self, path: &Path, target: &str) -> Result<(), FilesError> {
            self.write(path, target)
        }

        fn remove(&self, path: &Path) -> Result<(), FilesError> {
            self.files.lock().unwrap().remove(path);
            Ok(())
        }
    }

    fn site() -> WorkingSet {
        make_working_set(WebServer::Nginx, &[])
    }

    #[test]
    fn init_writes_all_files_or_none() {
        let files = FakeFiles { fails_at: Some("nginx/backup.conf"), ..FakeFiles::default() };
        let error = init(&files, Path::new("/d"), &site(), false).unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/d/nginx/backup.conf`: disk full");
        assert_eq!(*files.files.lock().unwrap(), BTreeMap::new());
    }

    #[test]
    fn init_refuses_to_replace_files_without_force() {
        let files = FakeFiles::default();
        files.write(Path::new("/d/haproxy.cfg"), "mine").unwrap();
        let error = init(&files, Path::new("/d"), &site(), false).unwrap_err();
        assert_eq!(error, InitError::AlreadyExists { paths: vec!["/d/haproxy.cfg".into()] });
        assert_eq!(files.files.lock().unwrap().len(), 1);
        let written = init(&files, Path::new("/d"), &site(), true).unwrap();
        assert_eq!(files.files.lock().unwrap().len(), written.files.len());
    }
}
