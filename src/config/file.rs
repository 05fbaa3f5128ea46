//! `switchman.yaml` as it is written: the shape, with the place of every value that is checked later.

use std::fmt;
use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Track;
use serde_yaml::{Error, Location, Spanned};

use super::fields::{ConfigDuration, HaproxyEndpoint};
use super::hosts::Hosts;
use super::problem::{ConfigFault, ConfigProblem};
use super::syntax::{find_open_bracket, guess_cause};
use crate::model::journal_location::Secret;
use crate::model::name::{BalancerName, ServiceName};
use crate::model::ports::Port;

/// The configuration of one service on a fleet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "switchman.yaml")]
pub struct ConfigFile {
    /// The name that clients use.
    #[schemars(with = "String")]
    pub service: ServiceName,
    #[serde(default)]
    pub ports: Ports,
    #[serde(default)]
    pub hosts: Hosts,
    #[serde(default)]
    pub load_balancers: Vec<LoadBalancer>,
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub roll: Roll,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default)]
    pub ssh: Ssh,
    #[serde(default)]
    pub agents: Agents,
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
    /// The place of the journal and the lock. Default: `.switchman` beside this file.
    #[schemars(with = "Option<Journal>")]
    pub journal: Option<Spanned<Journal>>,
    #[serde(default)]
    pub versions: Versions,
    /// More services on the same hosts: name -> what differs from the one above.
    #[serde(default)]
    #[schemars(with = "IndexMap<String, Service>")]
    pub services: IndexMap<ServiceName, Service>,
}

/// One of `path`, `host`, `postgres`, `etcd` and `consul`. All operators of a fleet name the same place. Paths are relative to
/// this file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// A directory on a local disk: for operators on one machine. With `host`, an absolute path there.
    pub path: Option<PathBuf>,
    /// A machine that keeps the journal in a file, reached as the hosts are: a name from `hosts`, or a destination of ssh such as
    /// `ops@lb1`. Default of `path` there: `/var/lib/switchman/journals`.
    #[schemars(with = "Option<String>")]
    pub host: Option<Spanned<String>>,
    /// A database: `postgresql://USER@HOST/DATABASE`, with options such as `sslmode=require` behind `?`. The tables are in the
    /// schema `switchman`.
    #[schemars(with = "Option<String>")]
    pub postgres: Option<Spanned<String>>,
    /// URLs of the servers of an etcd cluster (3.4 or later). One URL needs no list.
    #[schemars(with = "Option<Vec<String>>")]
    pub etcd: Option<Spanned<Endpoints>>,
    /// URLs of Consul agents or servers. One URL needs no list.
    #[schemars(with = "Option<Vec<String>>")]
    pub consul: Option<Spanned<Endpoints>>,
    /// Certificate authorities of the servers (PEM). Default: those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's own certificate (PEM), with `key`; for `etcd` and `consul`.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Name of an etcd user, with the password in `secret_file`.
    pub user: Option<String>,
    /// A file with the password (`postgres`, `etcd`) or the ACL token (`consul`).
    pub secret_file: Option<PathBuf>,
    /// The same from the environment.
    #[serde(skip)]
    pub secret: Option<Secret>,
}

/// The servers of a cluster: one URL, or a list.
#[derive(Debug)]
pub enum Endpoints {
    One(String),
    List(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EndpointsVisitor;

        impl<'de> Visitor<'de> for EndpointsVisitor {
            type Value = Endpoints;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL or a list of URLs")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Endpoints, E> {
                Ok(Endpoints::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Endpoints, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    list.push(entry);
                }
                Ok(Endpoints::List(list))
            }
        }

        deserializer.deserialize_any(EndpointsVisitor)
    }
}

/// Defaults of `deploy`, `assign` and `kill`; flags override them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Port range of the instances: FIRST-LAST. Default 20000-29999.
    #[schemars(with = "Option<String>")]
    pub ports: Option<Spanned<String>>,
    /// Releases that are kept although no deployment uses them. Default 5.
    pub keep_releases: Option<u32>,
    /// How long a new main is watched; when its health fails, the previous one comes back by itself. Default 10s; 0s: not at all.
    #[schemars(with = "Option<ConfigDuration>")]
    pub watch: Option<Spanned<ConfigDuration>>,
    /// How long a new instance may take to become healthy. Default 1m.
    #[schemars(with = "Option<ConfigDuration>")]
    pub health_timeout: Option<Spanned<ConfigDuration>>,
}

/// A service beside the first one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Every service has three ports of its own.
    pub ports: ServicePorts,
    /// Default: that of the first service.
    pub health: Option<Health>,
    /// HAProxy backend of the service. Default: its name.
    #[schemars(with = "Option<String>")]
    pub backend: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServicePorts {
    #[schemars(with = "u16")]
    pub check: Spanned<Port>,
    #[schemars(with = "u16")]
    pub main: Spanned<Port>,
    #[schemars(with = "u16")]
    pub backup: Spanned<Port>,
}

/// How switchman calls ssh for connections to the hosts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// Put before the destination, such as `-F` and a file.
    #[serde(default)]
    pub options: Vec<String>,
    /// Command line that starts switchman on the host, split at blanks; `{host}` is replaced by the host's name. Default `switchman`.
    #[schemars(with = "Option<String>")]
    pub switchman: Option<Spanned<String>>,
}

/// Keys for hosts with `agent: https://...`. Paths are relative to this file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// Certificate authorities of the hosts' certificates (PEM). Needed with `agent: https://...`.
    pub ca: Option<PathBuf>,
    /// The operator's own certificate (PEM), with `key`.
    #[schemars(with = "Option<PathBuf>")]
    pub certificate: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<PathBuf>")]
    pub key: Option<Spanned<PathBuf>>,
    /// A file with the bearer token.
    pub token_file: Option<PathBuf>,
}

/// A receiver of the progress of a roll, by a POST with JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    #[schemars(with = "String")]
    pub url: Spanned<String>,
    /// Timeout of one attempt. Default 5s.
    #[schemars(with = "Option<ConfigDuration>")]
    pub timeout: Option<Spanned<ConfigDuration>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Port that HAProxy health-checks; nothing listens on it. Default 8888.
    #[schemars(with = "Option<u16>")]
    pub check: Option<Spanned<Port>>,
    /// The data port of the main vhost. Default 8080.
    #[schemars(with = "Option<u16>")]
    pub main: Option<Spanned<Port>>,
    /// The data port of the backup vhost. Default 80.
    #[schemars(with = "Option<u16>")]
    pub backup: Option<Spanned<Port>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    #[schemars(with = "String")]
    pub name: Spanned<BalancerName>,
    /// Endpoint where the balancer's state is read; without it, switchman waits for the computed limit.
    pub haproxy: Option<HaproxyEndpoint>,
    /// The HAProxy backend with this service's server lines.
    #[schemars(with = "String")]
    pub backend: Spanned<String>,
    #[serde(default)]
    pub servers: Servers,
    #[serde(default)]
    pub check: Check,
    /// Whether the balancer runs on the web host itself. Default: its socket is a path or a loopback address.
    pub on_host: Option<bool>,
}

/// Names of a host's server lines; `{host}` is replaced by the host's name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// Default `main-{host}`.
    #[schemars(with = "Option<String>")]
    pub main: Option<Spanned<String>>,
    /// Default `backup-{host}`.
    #[schemars(with = "Option<String>")]
    pub backup: Option<Spanned<String>>,
}

/// The check settings of the server lines, as in haproxy.cfg; HAProxy's defaults where absent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    #[schemars(with = "Option<ConfigDuration>")]
    pub inter: Option<Spanned<ConfigDuration>>,
    #[schemars(with = "Option<ConfigDuration>")]
    pub fastinter: Option<Spanned<ConfigDuration>>,
    #[schemars(with = "Option<u32>")]
    pub fall: Option<Spanned<u32>>,
    #[schemars(with = "Option<u32>")]
    pub rise: Option<Spanned<u32>>,
    #[schemars(with = "Option<ConfigDuration>")]
    pub timeout: Option<Spanned<ConfigDuration>>,
}

/// How a real port proves that it can take traffic. Write it as HAProxy's check is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Default `/`.
    #[schemars(with = "Option<String>")]
    pub path: Option<Spanned<String>>,
    /// Default 200.
    #[schemars(with = "Option<u16>")]
    pub status: Option<Spanned<u16>>,
    /// The Host header.
    #[schemars(with = "Option<String>")]
    pub host: Option<Spanned<String>>,
    /// Default 2s.
    #[schemars(with = "Option<ConfigDuration>")]
    pub timeout: Option<Spanned<ConfigDuration>>,
    /// Default 500ms.
    #[schemars(with = "Option<ConfigDuration>")]
    pub interval: Option<Spanned<ConfigDuration>>,
    /// Consecutive healthy answers. Default 2.
    #[schemars(with = "Option<u32>")]
    pub rise: Option<Spanned<u32>>,
}

/// Limits on hosts in maintenance, and the defaults of `roll`; flags override them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Hosts at a time: a number or a percentage such as 25%. Default 1.
    #[schemars(with = "Option<String>")]
    pub batch: Option<Spanned<String>>,
    /// Failed hosts of a whole roll that do not end it. Default 0.
    pub max_failures: Option<u32>,
    /// How many other hosts must have main UP before a batch is taken out. Default 1.
    pub min_up: Option<u32>,
    /// Default 30s.
    #[schemars(with = "Option<ConfigDuration>")]
    pub drain_timeout: Option<Spanned<ConfigDuration>>,
    /// How long a main vhost may take to become healthy after the command. Default 1m.
    #[schemars(with = "Option<ConfigDuration>")]
    pub health_timeout: Option<Spanned<ConfigDuration>>,
    /// Handling of the other hosts of a batch that are in maintenance when one fails and have not begun the command. Default
    /// stop: they stay in maintenance for `roll --resume`; return: they are put back into service.
    pub on_failure: Option<OnFailure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Stop,
    Return,
}

/// Command lines for `sh -c`, run where the operator is, in the directory the roll was started in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    #[serde(default)]
    pub before_roll: Vec<String>,
    #[serde(default)]
    pub before_host: Vec<String>,
    #[serde(default)]
    pub after_host: Vec<String>,
    #[serde(default)]
    pub after_roll: Vec<String>,
    #[serde(default)]
    pub on_failure: Vec<String>,
    /// Timeout of each of them. Default 5m.
    #[schemars(with = "Option<ConfigDuration>")]
    pub timeout: Option<Spanned<ConfigDuration>>,
}

/// Text -> shape. The key of an error is the path that was being read.
pub fn parse_file(text: &str) -> Result<ConfigFile, ConfigFault> {
    let mut track = Track::new();
    let options = serde_yaml::options! { with_snippet: false };
    let read = serde_yaml::with_deserializer_from_str_with_options(text, options, |from| {
        ConfigFile::deserialize(serde_path_to_error::Deserializer::new(from, &mut track))
    });
    read.map_err(|error| {
        let path = track.path().to_string();
        // serde-saphyr's wrapper of a value with its place is a step of its own in the path.
        let path = path.trim_end_matches(".value").trim_end_matches(".?").to_owned();
        build_fault(text, error.without_snippet(), Some(path).filter(|path| path != "." && path != "?"))
    })
}

/// Parses a place in the syntax of the key `journal`, or a URL of PostgreSQL. A fault has nothing of the text: it may hold a
/// password, and logs of CI jobs are read by many.
pub fn parse_journal(text: &str) -> Result<Spanned<Journal>, ConfigFault> {
    let is_url = text.starts_with("postgresql://") || text.starts_with("postgres://");
    let quoted = serde_json::Value::from(text);
    let text = if is_url { format!("{{postgres: {quoted}}}") } else { text.to_owned() };
    let read: Result<Spanned<Journal>, Error> = serde_yaml::from_str(&text);
    let mut journal = read.map_err(|error| ConfigFault {
        line: error.location().as_ref().map_or(1, Location::line),
        key: None,
        problem: ConfigProblem::WrongValue {
            found: "this text".to_owned(),
            expected: "what `journal:` of switchman.yaml has, such as {etcd: ['https://10.0.0.5:2379']}"
                .to_owned(),
        },
    })?;
    let Journal { path, ca, certificate, key, secret_file, .. } = &mut journal.value;
    // Relative to the working directory, as paths of flags are.
    for path in [path, ca, certificate, key, secret_file].into_iter().flatten() {
        *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
    }
    Ok(journal)
}

fn build_fault(text: &str, error: &Error, key: Option<String>) -> ConfigFault {
    let location = error.location();
    let line = location.as_ref().map_or(1, Location::line);
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let problem = match error {
        Error::SerdeUnknownField { field, .. } if field.contains(':') => {
            let cause = guess_cause(text, line).map(|cause| format!("; {cause}")).unwrap_or_default();
            ConfigProblem::Other(format!("unknown key `{field}`{cause}"))
        }
        Error::SerdeUnknownField { field, expected, .. } => {
            ConfigProblem::UnknownKey { found: field.clone(), expected: owned(expected) }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            ConfigProblem::UnknownValue { found: variant.clone(), expected: owned(expected) }
        }
        Error::SerdeMissingField { field, .. } => ConfigProblem::MissingKey { missing: (*field).to_owned() },
        Error::DuplicateMappingKey { key: Some(key), .. } => ConfigProblem::DoubleKey { key: key.clone() },
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            // An open bracket takes the lines that follow into its last value.
            let cause = find_open_bracket(text).map(|cause| format!("; {cause}")).unwrap_or_default();
            ConfigProblem::WrongValue { found: unexpected.clone(), expected: format!("{expected}{cause}") }
        }
        Error::InvalidScalar { ty, .. } => {
            let found = location.as_ref().map(|location| read_scalar(text, location)).unwrap_or_default();
            ConfigProblem::WrongValue { found: format!("`{found}`"), expected: describe_expected(ty) }
        }
        Error::Message { msg, .. } => ConfigProblem::Other(msg.clone()),
        other => {
            let fault = strip_location(&other.to_string());
            let cause = guess_cause(text, line).map(|cause| format!("; {cause}")).unwrap_or_default();
            ConfigProblem::Other(format!("{fault}{cause}"))
        }
    };
    ConfigFault { line, key, problem }
}

/// Returns the value at a location of the text, up to the next blank or bracket.
fn read_scalar(text: &str, location: &Location) -> String {
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let line = text.lines().nth(index(location.line())).unwrap_or("");
    let ends = |c: &char| !c.is_whitespace() && !matches!(c, ',' | '}' | ']');
    line.chars().skip(index(location.column())).take_while(ends).collect()
}

fn describe_expected(rust_type: &str) -> String {
    match rust_type.as_bytes().first() {
        Some(b'u') => "a whole number, not negative".to_owned(),
        Some(b'i') => "a whole number".to_owned(),
        _ if rust_type == "bool" => "true or false".to_owned(),
        _ => rust_type.to_owned(),
    }
}

/// The parser ends its sentences with the location, which the error already carries.
fn strip_location(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text).to_owned()
}

/// The JSON Schema of `switchman.yaml`, for editors.
pub fn build_schema() -> serde_json::Value {
    schemars::schema_for!(ConfigFile).to_value()
}
