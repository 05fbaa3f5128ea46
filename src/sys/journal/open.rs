//! Opens the journal store that the configuration names.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::consul::{Consul, ConsulSettings};
use super::etcd::{Etcd, EtcdSettings};
use super::host::{Connect, HostJournal, HostJournalSettings};
use super::kv::KvJournal;
use super::no_client::client_or_failure;
use super::postgres::{PostgresJournal, PostgresSettings};
use super::sqlite::SqliteJournal;
use crate::model::host::Host;
use crate::model::journal_location::{ClusterLocation, JournalLocation, PostgresLocation};
use crate::model::name::ServiceName;
use crate::sys::access_files::{read_file, read_secret, read_tls_files};
use crate::world::journal_store::JournalStore;

/// The certificate authorities that the machine trusts (Debian's ca-certificates).
const MACHINE_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Opens the journal of a service's fleet; nothing is connected before the first call. `dir` holds a journal that is a file,
/// `connect` makes links to the machine that keeps one. What is wrong with the settings is the error of every call.
pub fn open_journal(
    location: &JournalLocation,
    dir: &Path,
    service: &ServiceName,
    connect: impl FnOnce(&Host) -> Connect,
) -> Arc<dyn JournalStore> {
    let kv = |client| Arc::new(KvJournal::new(client, service.as_str()));
    let label = |kind: &str| format!("{kind} of `journal`");
    match location {
        JournalLocation::Beside | JournalLocation::Directory(_) => {
            Arc::new(SqliteJournal::new(dir.join(format!("{service}.db"))))
        }
        JournalLocation::Host(location) => Arc::new(HostJournal::new(HostJournalSettings {
            machine: location.machine.clone(),
            service: service.clone(),
            directory: location.directory.clone(),
            connect: connect(&location.host),
        })),
        JournalLocation::Etcd(cluster) => kv(client_or_failure(build_etcd(cluster), label("etcd"))),
        JournalLocation::Consul(cluster) => kv(client_or_failure(build_consul(cluster), label("Consul"))),
        JournalLocation::Postgres(location) => match build_postgres(location) {
            Ok(settings) => Arc::new(PostgresJournal::new(settings, service.as_str())),
            Err(reason) => kv(client_or_failure(Err::<Etcd, _>(reason), label("PostgreSQL"))),
        },
    }
}

fn build_etcd(location: &ClusterLocation) -> Result<Etcd, String> {
    let secret = read_secret(&location.files)?;
    Etcd::new(EtcdSettings {
        endpoints: location.endpoints.clone(),
        tls: read_tls_files(&location.files)?,
        user: location.user.clone().zip(secret),
    })
}

fn build_consul(location: &ClusterLocation) -> Result<Consul, String> {
    Consul::new(ConsulSettings {
        endpoints: location.endpoints.clone(),
        tls: read_tls_files(&location.files)?,
        token: read_secret(&location.files)?,
    })
}

fn build_postgres(location: &PostgresLocation) -> Result<PostgresSettings, String> {
    // Without the text: it may hold a password.
    let config: Result<tokio_postgres::Config, _> = location.url.parse();
    let mut config =
        config.map_err(|error| format!("`journal.postgres` is no URL of PostgreSQL: {error}"))?;
    if let Some(secret) = read_secret(&location.files)? {
        config.password(secret);
    }
    let mut roots = rustls::RootCertStore::empty();
    let bundle = location.files.ca.as_deref().unwrap_or(Path::new(MACHINE_CA));
    match read_file(bundle) {
        Ok(text) => {
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate =
                    certificate.map_err(|error| format!("cannot read `{}`: {error}", bundle.display()))?;
                // One that this program cannot use is no reason to refuse the others.
                let _ = roots.add(certificate);
            }
        }
        // A machine without the bundle may connect without TLS.
        Err(reason) if location.files.ca.is_some() => return Err(reason),
        Err(_) => {}
    }
    PostgresSettings::new(config, roots)
}
