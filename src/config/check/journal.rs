//! The key `journal`: one place, and what its kind needs.

use serde_yaml::Spanned;

use super::values::{build_other_problem, build_wrong_value, is_ssh_destination, line_number, quote};
use crate::config::file::Endpoints;
use crate::config::file::Journal;
use crate::config::problem::ConfigFault;
use crate::model::host::{Host, Transport};
use crate::model::journal_location::{
    AccessFiles, ClusterLocation, HostLocation, JournalLocation, PostgresLocation,
};

pub fn build_journal(
    entry: Option<&Spanned<Journal>>,
    hosts: &[Host],
) -> Result<JournalLocation, ConfigFault> {
    let Some(entry) = entry else { return Ok(JournalLocation::Beside) };
    let journal = &entry.value;
    let problem = |reason: &str| build_other_problem(line_number(entry), "journal", reason);
    let places = [
        // With `host`, it is a directory there.
        journal.path.is_some() && journal.host.is_none(),
        journal.host.is_some(),
        journal.postgres.is_some(),
        journal.etcd.is_some(),
        journal.consul.is_some(),
    ];
    if places.iter().filter(|is_named| **is_named).count() != 1 {
        return Err(problem("exactly one of `path`, `host`, `postgres`, `etcd` and `consul` is needed"));
    }
    if journal.certificate.is_some() != journal.key.is_some() {
        return Err(problem("`certificate` and `key` are needed together"));
    }
    if journal.user.is_some() && journal.etcd.is_none() {
        return Err(problem("`user` is for `etcd`; the URL of `postgres` has its own"));
    }
    if journal.user.is_some() && journal.secret_file.is_none() && journal.secret.is_none() {
        return Err(problem("`user` needs `secret_file` with the password"));
    }
    let files = AccessFiles {
        ca: journal.ca.clone(),
        certificate: journal.certificate.clone(),
        key: journal.key.clone(),
        secret_file: journal.secret_file.clone(),
        secret: journal.secret.clone(),
    };
    if (journal.path.is_some() || journal.host.is_some())
        && files != (AccessFiles { secret: journal.secret.clone(), ..AccessFiles::default() })
    {
        return Err(problem("a file needs no keys: they are for `postgres`, `etcd` and `consul`"));
    }
    if let Some(machine) = &journal.host {
        if journal.path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(problem("`path` on another machine has to be absolute"));
        }
        let host = find_machine(machine, hosts)?;
        let (machine, directory) = (machine.value.clone(), journal.path.clone());
        return Ok(JournalLocation::Host(HostLocation { machine, host, directory }));
    }
    if let Some(dir) = &journal.path {
        return Ok(JournalLocation::Directory(dir.clone()));
    }
    if let Some(url) = &journal.postgres {
        if !url.value.starts_with("postgresql://") && !url.value.starts_with("postgres://") {
            // It may hold a password.
            return Err(build_wrong_value(
                url,
                "journal.postgres",
                "this text".to_owned(),
                "a URL such as postgresql://ops@db1/switchman",
            ));
        }
        if files.certificate.is_some() {
            return Err(problem("`certificate` is for `etcd` and `consul`"));
        }
        return Ok(JournalLocation::Postgres(PostgresLocation { url: url.value.clone(), files }));
    }
    let user = journal.user.clone();
    let check = |key, entries: &Option<Spanned<Endpoints>>| match entries {
        Some(entries) => check_endpoints(key, entries),
        None => Ok(vec![]),
    };
    let (etcd, consul) = (check("journal.etcd", &journal.etcd)?, check("journal.consul", &journal.consul)?);
    if etcd.is_empty() && consul.is_empty() {
        return Err(problem("at least one URL is needed"));
    }
    if !etcd.is_empty() {
        return Ok(JournalLocation::Etcd(ClusterLocation { endpoints: etcd, user, files }));
    }
    Ok(JournalLocation::Consul(ClusterLocation { endpoints: consul, user, files }))
}

/// A host of the configuration, or any other machine by ssh.
fn find_machine(machine: &Spanned<String>, hosts: &[Host]) -> Result<Host, ConfigFault> {
    let text = &machine.value;
    if let Some(host) = hosts.iter().find(|host| host.name.as_str() == text) {
        return Ok(host.clone());
    }
    let name = text.rsplit_once('@').map_or(text.as_str(), |(_, name)| name).parse();
    match name {
        Ok(name) if is_ssh_destination(text) => {
            Ok(Host { name, address: None, transport: Transport::Ssh(text.clone()) })
        }
        _ => {
            let expected = "a name from `hosts`, or a destination of ssh such as ops@lb1";
            Err(build_wrong_value(machine, "journal.host", quote(text), expected))
        }
    }
}

/// URLs with a scheme and a host, without a path.
fn check_endpoints(key: &str, entries: &Spanned<Endpoints>) -> Result<Vec<String>, ConfigFault> {
    match &entries.value {
        // A lone text of the environment may be a password.
        Endpoints::One(text) => Ok(vec![check_endpoint(key, text, "this text".to_owned(), entries)?]),
        Endpoints::List(list) => {
            let check = |(index, entry): (usize, &Spanned<String>)| {
                check_endpoint(&format!("{key}[{index}]"), &entry.value, quote(&entry.value), entry)
            };
            list.iter().enumerate().map(check).collect()
        }
    }
}

fn check_endpoint<T>(
    key: &str,
    text: &str,
    found: String,
    entry: &Spanned<T>,
) -> Result<String, ConfigFault> {
    let url = text.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.contains(char::is_whitespace) {
        let expected = "a URL without a path, such as https://10.0.0.5:2379";
        return Err(build_wrong_value(entry, key, found, expected));
    }
    Ok(url.to_owned())
}
