//! The place of a fleet's journals and its lock, as the configuration names it.

use std::path::PathBuf;

use serde::Serialize;

use super::host::Host;

/// Where the journals and the lock of a fleet are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub enum JournalLocation {
    /// A SQLite file in `.switchman` beside the configuration.
    #[default]
    Beside,
    /// A SQLite file in this directory.
    Directory(PathBuf),
    /// A SQLite file on another machine, which its switchman keeps.
    Host(HostLocation),
    Postgres(PostgresLocation),
    Etcd(ClusterLocation),
    Consul(ClusterLocation),
}

/// A machine that keeps the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostLocation {
    /// The machine as the configuration names it: a host, or a destination of ssh.
    pub machine: String,
    /// A host of the configuration, or another machine, which has no address.
    pub host: Host,
    /// A directory there. `None`: its default.
    pub directory: Option<PathBuf>,
}

/// A PostgreSQL database.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct PostgresLocation {
    /// It may hold a password.
    #[serde(skip)]
    pub url: String,
    pub files: AccessFiles,
}

/// The servers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterLocation {
    /// URLs without a path.
    pub endpoints: Vec<String>,
    /// Name of an etcd user, whose password is the secret.
    pub user: Option<String>,
    pub files: AccessFiles,
}

/// A password or a token: it is neither logged nor shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What a client shows and trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AccessFiles {
    /// Certificate authorities (PEM). Without it, those of the machine.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key (PEM).
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// A file with the password or the ACL token.
    pub secret_file: Option<PathBuf>,
    /// The same from the environment, which comes first.
    #[serde(skip)]
    pub secret: Option<Secret>,
}

impl std::fmt::Debug for PostgresLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLocation").field("files", &self.files).finish_non_exhaustive()
    }
}

impl AccessFiles {
    /// The paths, which are relative to the configuration at first.
    pub fn list_paths(&mut self) -> Vec<&mut PathBuf> {
        let Self { ca, certificate, key, secret_file, secret: _ } = self;
        [ca, certificate, key, secret_file].into_iter().flatten().collect()
    }
}

impl JournalLocation {
    /// The paths, which are relative to the configuration at first.
    pub fn list_paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            // A path on another machine is not relative to the configuration.
            Self::Beside | Self::Host(_) => vec![],
            Self::Directory(dir) => vec![dir],
            Self::Postgres(PostgresLocation { files, .. })
            | Self::Etcd(ClusterLocation { files, .. })
            | Self::Consul(ClusterLocation { files, .. }) => files.list_paths(),
        }
    }

    /// The files of keys and secrets, with the keys of the configuration.
    pub fn list_files(&self) -> Vec<(&'static str, &PathBuf)> {
        match self {
            Self::Beside | Self::Directory(_) | Self::Host(_) => vec![],
            Self::Postgres(PostgresLocation { files, .. })
            | Self::Etcd(ClusterLocation { files, .. })
            | Self::Consul(ClusterLocation { files, .. }) => {
                let named = [
                    ("journal.ca", &files.ca),
                    ("journal.certificate", &files.certificate),
                    ("journal.key", &files.key),
                    ("journal.secret_file", &files.secret_file),
                ];
                named.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?))).collect()
            }
        }
    }
}
