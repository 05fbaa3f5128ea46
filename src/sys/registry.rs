//! `world::registry` over Consul's HTTP API: the local agent's registrations, the catalogue, sessions and keys
//! (<https://developer.hashicorp.com/consul/api-docs>).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access_files::{read_secret, read_tls_files};
use super::http_servers::{HttpAnswer, HttpServers, NoAnswer};
use crate::model::journal_location::AccessFiles;
use crate::model::name::HostName;
use crate::model::ports::Port;
use crate::model::registration::{
    CatalogEntry, HOST_META, HostIdentity, Registration, RegistrationCheck, RegistryLocation, SlotClaim,
};
use crate::world::registry::{Registry, RegistryError, RegistryResult};

/// A check that is not renewed for this long is critical. The agent renews it every 5 s.
const CHECK_TTL: Duration = Duration::from_secs(30);
/// Consul refuses a slot for this long after its session ended with the node. Longer than an agent takes to notice that.
const LOCK_DELAY: Duration = Duration::from_secs(15);

struct ConsulRegistry {
    servers: HttpServers,
    endpoint: Url,
    files: AccessFiles,
}

/// Builds the client of a Consul agent. Nothing is connected before the first call.
pub fn connect(location: &RegistryLocation) -> Result<Arc<dyn Registry>, String> {
    let tls = read_tls_files(&location.files)?;
    // The token is read for each request. A file that is not there is an error before the agent serves.
    read_secret(&location.files)?;
    let endpoint =
        Url::parse(&location.endpoint).map_err(|error| format!("`{}`: {error}", location.endpoint))?;
    let servers = HttpServers::new(vec![location.endpoint.clone()], &tls)?;
    Ok(Arc::new(ConsulRegistry { servers, endpoint, files: location.files.clone() }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LocalService {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    port: u16,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LocalCheck {
    #[serde(rename = "ServiceID")]
    service_id: String,
    status: String,
    #[serde(default)]
    output: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthEntry {
    node: HealthNode,
    service: HealthService,
    #[serde(default)]
    checks: Vec<HealthCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthNode {
    node: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthCheck {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KvPair {
    key: String,
    value: Option<String>,
    session: Option<String>,
    modify_index: u64,
}

fn refuse(answer: &HttpAnswer) -> RegistryError {
    RegistryError { reason: format!("{} {}", answer.status, answer.text.trim()) }
}

fn parse<T: DeserializeOwned>(text: &str) -> RegistryResult<T> {
    serde_json::from_str(text)
        .map_err(|error| RegistryError { reason: format!("the answer has an unknown form: {error}") })
}

impl ConsulRegistry {
    async fn request(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> RegistryResult<HttpAnswer> {
        let refused = |reason: String| RegistryError { reason };
        let token = read_secret(&self.files).map_err(refused)?;
        let path = self.build_path(segments, query);
        let text = body.map(ToString::to_string);
        let build = |mut request: RequestBuilder| {
            if let Some(token) = &token {
                request = request.header("X-Consul-Token", token);
            }
            if let Some(text) = &text {
                request = request.body(text.clone());
            }
            request
        };
        let answer = self.servers.request(method, &path, build, None).await;
        answer.map_err(|NoAnswer { reason, .. }| RegistryError { reason })
    }

    fn build_path(&self, segments: &[&str], query: &[(&str, &str)]) -> String {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push("v1").extend(segments);
        }
        if query.is_empty() {
            return url.path().to_owned();
        }
        url.query_pairs_mut().extend_pairs(query);
        format!("{}?{}", url.path(), url.query().unwrap_or_default())
    }

    async fn put(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> RegistryResult<String> {
        let answer = self.request(Method::PUT, segments, query, body).await?;
        if answer.status == StatusCode::OK { Ok(answer.text) } else { Err(refuse(&answer)) }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> RegistryResult<Option<T>> {
        let answer = self.request(Method::GET, segments, query, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => parse(&answer.text).map(Some),
            _ => Err(refuse(&answer)),
        }
    }
}

#[async_trait]
impl Registry for ConsulRegistry {
    fn label(&self) -> String {
        format!("Consul at {}", self.endpoint.as_str().trim_end_matches('/'))
    }

    async fn list_registrations(&self, host: &HostName) -> RegistryResult<Vec<Registration>> {
        let services: BTreeMap<String, LocalService> =
            self.get(&["agent", "services"], &[]).await?.unwrap_or_default();
        let checks: BTreeMap<String, LocalCheck> =
            self.get(&["agent", "checks"], &[]).await?.unwrap_or_default();
        Ok(list_own(host, services.into_values(), &checks.into_values().collect::<Vec<_>>()))
    }

    async fn register(&self, registration: &Registration) -> RegistryResult<()> {
        // Without `replace-existing-checks`, a check that is left out stays, and DNS goes on leaving the entry out.
        let query = [("replace-existing-checks", "true")];
        let body = render_registration(registration);
        self.put(&["agent", "service", "register"], &query, Some(&body)).await?;
        // The initial state of a check has no text.
        self.renew_check(registration).await
    }

    async fn renew_check(&self, registration: &Registration) -> RegistryResult<()> {
        let Some(check) = &registration.check else { return Ok(()) };
        let body = json!({"Status": format_status(check.is_passing), "Output": check.output});
        let id = format_check_id(&registration.id);
        self.put(&["agent", "check", "update", &id], &[], Some(&body)).await.map(drop)
    }

    async fn deregister(&self, id: &str) -> RegistryResult<()> {
        self.put(&["agent", "service", "deregister", id], &[], None).await.map(drop)
    }

    /// Without `passing`: an instance with a failing check has its slot all the same.
    async fn list_entries(&self, catalog_name: &str) -> RegistryResult<Vec<CatalogEntry>> {
        let path = ["health", "service", catalog_name];
        let entries: Vec<HealthEntry> = self.get(&path, &[("consistent", "")]).await?.unwrap_or_default();
        Ok(entries.into_iter().map(to_catalog_entry).collect())
    }

    async fn remove_entry(&self, entry: &CatalogEntry) -> RegistryResult<()> {
        let body = json!({"Node": entry.node, "ServiceID": entry.id});
        self.put(&["catalog", "deregister"], &[], Some(&body)).await.map(drop)
    }

    async fn list_claims(&self, catalog_name: &str) -> RegistryResult<Vec<SlotClaim>> {
        let path = ["kv", "switchman", catalog_name, "slots", ""];
        let pairs: Vec<KvPair> =
            self.get(&path, &[("recurse", ""), ("consistent", "")]).await?.unwrap_or_default();
        pairs.iter().map(to_claim).collect()
    }

    async fn open_session(&self, host: &HostName) -> RegistryResult<String> {
        let body = json!({
            "Name": format!("switchman {host}"), "NodeChecks": ["serfHealth"], "Behavior": "release",
            "LockDelay": format!("{}s", LOCK_DELAY.as_secs()),
        });
        let text = self.put(&["session", "create"], &[], Some(&body)).await?;
        let answer: Value = parse(&text)?;
        let id = answer["ID"].as_str().map(ToOwned::to_owned);
        id.ok_or_else(|| RegistryError { reason: format!("the answer has no session: {}", text.trim()) })
    }

    async fn acquire_slot(
        &self,
        catalog_name: &str,
        slot: u16,
        session: &str,
        owner: &HostIdentity,
    ) -> RegistryResult<bool> {
        let body =
            serde_json::to_value(owner).map_err(|error| RegistryError { reason: error.to_string() })?;
        let path = ["kv", "switchman", catalog_name, "slots", &slot.to_string()];
        let text = self.put(&path, &[("acquire", session)], Some(&body)).await?;
        Ok(text.trim() == "true")
    }

    async fn release_slot(&self, catalog_name: &str, claim: &SlotClaim) -> RegistryResult<()> {
        let path = ["kv", "switchman", catalog_name, "slots", &claim.slot.to_string()];
        let index = claim.modified_index.to_string();
        let answer = self.request(Method::DELETE, &path, &[("cas", &index)], None).await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(refuse(&answer)) }
    }
}

fn format_check_id(registration: &str) -> String {
    format!("{registration}:check")
}

const fn format_status(is_passing: bool) -> &'static str {
    if is_passing { "passing" } else { "critical" }
}

fn render_registration(registration: &Registration) -> Value {
    let Registration { id, name, address, port, tags, meta, check } = registration;
    let mut body = json!({
        "ID": id, "Name": name, "Address": address, "Port": port, "Tags": tags, "Meta": meta,
    });
    if let (Some(check), Some(fields)) = (check, body.as_object_mut()) {
        let check = json!({
            "CheckID": format_check_id(id), "Name": "switchman agent", "TTL": format!("{}s", CHECK_TTL.as_secs()),
            "Status": format_status(check.is_passing),
        });
        fields.insert("Check".to_owned(), check);
    }
    body
}

/// Another host's registrations at the same agent, and those of other programs, are not listed.
fn list_own(
    host: &HostName,
    services: impl Iterator<Item = LocalService>,
    checks: &[LocalCheck],
) -> Vec<Registration> {
    let prefix = Registration::id_prefix(host);
    let own = services.filter(|service| service.id.starts_with(&prefix));
    own.filter_map(|service| {
        let meta = service.meta.unwrap_or_default();
        if meta.get(HOST_META).map(String::as_str) != Some(host.as_str()) {
            return None;
        }
        let check = checks.iter().find(|check| check.service_id == service.id);
        Some(Registration {
            check: check.map(|check| RegistrationCheck {
                is_passing: check.status == "passing",
                output: check.output.clone(),
            }),
            id: service.id,
            name: service.service,
            // One with an address or a port that is none is replaced.
            address: service.address.parse().unwrap_or_else(|_| [0, 0, 0, 0].into()),
            port: Port::new(service.port).unwrap_or(Port::MAX),
            tags: service.tags,
            meta,
        })
    })
    .collect()
}

fn to_catalog_entry(entry: HealthEntry) -> CatalogEntry {
    let failed = |check: &HealthCheck| check.check_id == "serfHealth" && check.status == "critical";
    CatalogEntry {
        is_node_failed: entry.checks.iter().any(failed),
        node: entry.node.node,
        id: entry.service.id,
        host: entry.service.meta.and_then(|mut meta| meta.remove(HOST_META)),
        tags: entry.service.tags,
    }
}

fn to_claim(pair: &KvPair) -> RegistryResult<SlotClaim> {
    let unknown = || RegistryError { reason: format!("the key `{}` is no claim of a slot", pair.key) };
    let slot = pair.key.rsplit('/').next().and_then(|slot| slot.parse().ok()).ok_or_else(unknown)?;
    let bytes = STANDARD.decode(pair.value.as_deref().unwrap_or_default()).map_err(|_| unknown())?;
    let owner: HostIdentity = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
    Ok(SlotClaim { slot, owner, session: pair.session.clone(), modified_index: pair.modify_index })
}

#[cfg(test)]
mod tests;
