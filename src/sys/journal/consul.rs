//! Consul by its HTTP API: transactions (`/v1/txn`), sessions, blocking queries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::kv::{Expected, KvClient, KvError, KvPage, KvPair, KvTransaction, LeaseId};
use super::no_client::client_or_failure;
use crate::sys::http_servers::{HttpAnswer, HttpServers, TlsFiles};

/// The longest blocking query (its limit at Consul is 10 minutes).
const MAX_WAIT: Duration = Duration::from_secs(30);
/// What a blocking query may take beyond its wait: Consul adds up to a sixteenth of it.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// How to reach a cluster.
#[derive(Debug, Clone, Default)]
pub struct ConsulSettings {
    /// URLs without a path, of agents or servers.
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    /// ACL token.
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Consul {
    settings: ConsulSettings,
    servers: HttpServers,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulPair {
    key: String,
    /// `null` for an empty value.
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
}

impl Consul {
    pub fn new(settings: ConsulSettings) -> Result<Self, String> {
        let servers = HttpServers::new(settings.endpoints.clone(), &settings.tls)?;
        Ok(Self { settings, servers })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Option<Duration>,
    ) -> Result<HttpAnswer, KvError> {
        let text = body.map(ToString::to_string);
        let build = |mut request: RequestBuilder| {
            if let Some(token) = &self.settings.token {
                request = request.header("X-Consul-Token", token);
            }
            if let Some(text) = &text {
                request = request.body(text.clone());
            }
            request
        };
        Ok(self.servers.request(method, path, build, timeout).await?)
    }

    async fn read_pairs(&self, path: &str) -> Result<Vec<KvPair>, KvError> {
        let answer = self.request(Method::GET, path, None, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(vec![]),
            StatusCode::OK => {
                let pairs: Vec<ConsulPair> = serde_json::from_str(&answer.text)
                    .map_err(|error| KvError::Refused(format!("an unknown answer: {error}")))?;
                pairs.into_iter().map(ConsulPair::into_pair).collect()
            }
            _ => Err(refuse(&answer)),
        }
    }
}

impl ConsulPair {
    fn into_pair(self) -> Result<KvPair, KvError> {
        let bytes = STANDARD.decode(self.value.unwrap_or_default());
        let bytes = bytes.map_err(|error| KvError::Refused(error.to_string()))?;
        let value = String::from_utf8(bytes).map_err(|error| KvError::Refused(error.to_string()))?;
        Ok(KvPair {
            key: self.key,
            value,
            created_index: self.create_index,
            modified_index: self.modify_index,
        })
    }
}

fn refuse(answer: &HttpAnswer) -> KvError {
    KvError::Refused(format!("{} {}", answer.status, answer.text.trim()))
}

/// `wait` of a blocking query in whole milliseconds: at least one, as Consul takes none for its default of 5 minutes
/// (<https://developer.hashicorp.com/consul/api-docs/features/blocking>).
fn wait_millis(left: Duration) -> u128 {
    left.min(MAX_WAIT).as_millis().max(1)
}

/// Keys have only letters, digits and `/-_=`.
fn kv_path(key: &str, query: &str) -> String {
    format!("/v1/kv/{key}?consistent&{query}")
}

fn operation(verb: &str, key: &str, rest: &Value) -> Value {
    let mut kv = json!({"Verb": verb, "Key": key});
    if let (Some(kv), Some(rest)) = (kv.as_object_mut(), rest.as_object()) {
        kv.extend(rest.clone());
    }
    json!({ "KV": kv })
}

/// The operations in their order: all that is expected first.
fn list_operations(transaction: &KvTransaction) -> Vec<Value> {
    let mut operations: Vec<Value> = transaction
        .expected
        .iter()
        .map(|(key, expected)| match expected {
            Expected::Absent => operation("check-not-exists", key, &json!({})),
            Expected::Unchanged { modified_index } => {
                operation("check-index", key, &json!({"Index": modified_index}))
            }
        })
        .collect();
    operations.extend(transaction.delete.iter().map(|key| operation("delete", key, &json!({}))));
    for put in &transaction.put {
        let value = STANDARD.encode(&put.value);
        match &put.lease {
            None => operations.push(operation("set", &put.key, &json!({"Value": value}))),
            Some(session) => {
                // The key may be another session's, which `lock` alone would respect.
                operations.push(operation("delete", &put.key, &json!({})));
                operations.push(operation("lock", &put.key, &json!({"Value": value, "Session": session})));
            }
        }
    }
    operations
}

#[async_trait]
impl KvClient for Consul {
    fn label(&self) -> String {
        format!("Consul at {}", self.servers.endpoints().join(", "))
    }

    async fn get(&self, key: &str) -> Result<Option<KvPair>, KvError> {
        Ok(self.read_pairs(&kv_path(key, "")).await?.pop())
    }

    async fn scan(&self, prefix: &str, start: &str) -> Result<KvPage, KvError> {
        let mut pairs = self.read_pairs(&kv_path(prefix, "recurse")).await?;
        pairs.retain(|pair| pair.key.as_str() >= start);
        pairs.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(KvPage { pairs, has_more: false })
    }

    async fn transact(&self, transaction: &KvTransaction) -> Result<bool, KvError> {
        let body = Value::Array(list_operations(transaction));
        let answer = self.request(Method::PUT, "/v1/txn", Some(&body), None).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::CONFLICT if answer.text.contains("invalid session") => Err(refuse(&answer)),
            StatusCode::CONFLICT => Ok(false),
            _ => Err(refuse(&answer)),
        }
    }

    /// Without a lock delay: a late write of the old holder expects the lock as it was, and fails. Without checks of the
    /// node, `serfHealth` among them, which is the default of `NodeChecks`: a server that fails, or a flap of the agent, is no end of
    /// the operator's command (<https://developer.hashicorp.com/consul/api-docs/session>).
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        let body = json!({
            "Name": "switchman", "TTL": format!("{}s", ttl.as_secs()), "Behavior": "delete",
            "LockDelay": "0s", "Checks": [], "NodeChecks": [],
        });
        let answer = self.request(Method::PUT, "/v1/session/create", Some(&body), None).await?;
        let parsed: Value = serde_json::from_str(&answer.text).map_err(|_| refuse(&answer))?;
        parsed["ID"].as_str().map(ToOwned::to_owned).ok_or_else(|| refuse(&answer))
    }

    async fn renew_lease(&self, lease: &LeaseId) -> Result<bool, KvError> {
        let answer = self.request(Method::PUT, &format!("/v1/session/renew/{lease}"), None, None).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refuse(&answer)),
        }
    }

    async fn revoke_lease(&self, lease: &LeaseId) -> Result<(), KvError> {
        self.request(Method::PUT, &format!("/v1/session/destroy/{lease}"), None, None).await.map(|_| ())
    }

    async fn wait_for_change(
        &self,
        key: &str,
        modified_index: Option<u64>,
        timeout: Duration,
    ) -> Result<(), KvError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut index = 0;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let path = format!("/v1/kv/{key}?index={index}&wait={}ms", wait_millis(left));
            let limit = left.min(MAX_WAIT) + WAIT_MARGIN;
            let answer = self.request(Method::GET, &path, None, Some(limit)).await?;
            let found = match answer.status {
                StatusCode::NOT_FOUND => None,
                StatusCode::OK => serde_json::from_str::<Vec<ConsulPair>>(&answer.text)
                    .map_err(|error| KvError::Refused(format!("an unknown answer: {error}")))?
                    .first()
                    .map(|pair| pair.modify_index),
                _ => return Err(refuse(&answer)),
            };
            if found != modified_index || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            let header = answer.headers.get("x-consul-index").and_then(|value| value.to_str().ok());
            let next = header.and_then(|value| value.parse().ok()).unwrap_or(0);
            // An index that goes back is that of a restored server (Consul, blocking queries).
            index = if next < index { 0 } else { next };
        }
    }

    fn reconnect(&self) -> Arc<dyn KvClient> {
        client_or_failure(Self::new(self.settings.clone()), self.label())
    }
}

/// Reads a text as an answer with pairs: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub(super) fn fuzz_answer(answer: &str) {
    if let Ok(pairs) = serde_json::from_str::<Vec<ConsulPair>>(answer) {
        let _: Vec<_> = pairs.into_iter().map(ConsulPair::into_pair).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_of_a_query_is_never_consuls_default() {
        assert_eq!(wait_millis(Duration::ZERO), 1);
        assert_eq!(wait_millis(Duration::from_micros(900)), 1);
        assert_eq!(wait_millis(Duration::from_millis(1999)), 1999);
        assert_eq!(wait_millis(Duration::from_hours(1)), 30_000);
    }
}
