//! etcd by its JSON gateway (etcd v3 API, `/v3/...`: etcd 3.4 and later). Keys and values are base64, 64-bit numbers are strings,
//! and fields with the value of their type's default are left out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::kv::{Expected, KvClient, KvError, KvPage, KvPair, KvTransaction, LeaseId};
use super::no_client::client_or_failure;
use crate::sys::http_servers::{HttpServers, NoAnswer, TlsFiles};

/// Pairs of one answer.
const PAGE: usize = 100;
/// gRPC status codes (google.rpc.Code): the cluster has no leader, or did not decide in time.
const UNAVAILABLE: [i64; 2] = [4, 14];
/// gRPC status: the token is unknown, as after a restart of etcd.
const UNAUTHENTICATED: i64 = 16;

/// How to reach a cluster.
#[derive(Debug, Clone, Default)]
pub struct EtcdSettings {
    /// URLs without a path.
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    /// Name and password of an etcd user.
    pub user: Option<(String, String)>,
}

#[derive(Debug)]
pub struct Etcd {
    settings: EtcdSettings,
    servers: HttpServers,
    token: Mutex<Option<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangeAnswer {
    header: Header,
    kvs: Vec<GatewayPair>,
    more: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Header {
    revision: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GatewayPair {
    key: String,
    value: String,
    create_revision: String,
    mod_revision: String,
}

impl Etcd {
    pub fn new(settings: EtcdSettings) -> Result<Self, String> {
        let servers = HttpServers::new(settings.endpoints.clone(), &settings.tls)?;
        Ok(Self { settings, servers, token: Mutex::default() })
    }

    async fn call(&self, path: &str, body: &Value) -> Result<Value, KvError> {
        let token = self.authenticate(None).await?;
        match self.post(path, body, token.as_deref()).await {
            Err((UNAUTHENTICATED, _)) if token.is_some() => {
                let token = self.authenticate(token.as_deref()).await?;
                self.post(path, body, token.as_deref()).await
            }
            answer => answer,
        }
        .map_err(to_error)
    }

    /// Returns a token that is not `stale`; `None` without a user.
    async fn authenticate(&self, stale: Option<&str>) -> Result<Option<String>, KvError> {
        let Some((name, password)) = &self.settings.user else { return Ok(None) };
        let mut token = self.token.lock().await;
        if token.is_none() || token.as_deref() == stale {
            let body = json!({"name": name, "password": password});
            let answer = self.post("/v3/auth/authenticate", &body, None).await.map_err(to_error)?;
            *token = answer["token"].as_str().map(ToOwned::to_owned);
        }
        Ok(token.clone())
    }

    /// The error is a gRPC status and the server's message; a status of -1: no answer.
    async fn post(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Value, (i64, String)> {
        let text = body.to_string();
        let build = |request: reqwest::RequestBuilder| {
            let request = request.header("content-type", "application/json").body(text.clone());
            match token {
                Some(token) => request.header("authorization", token),
                None => request,
            }
        };
        let answer = self.servers.request(Method::POST, path, build, None).await;
        let answer = answer.map_err(|NoAnswer { reason, is_certificate_error }| {
            (if is_certificate_error { 0 } else { -1 }, reason)
        })?;
        let parsed: Value = serde_json::from_str(&answer.text)
            .map_err(|_| (0, format!("{} {}", answer.status, answer.text.trim())))?;
        if answer.status.is_success() {
            return Ok(parsed);
        }
        let message = ["message", "error"].iter().find_map(|field| parsed[field].as_str());
        Err((parsed["code"].as_i64().unwrap_or(0), message.unwrap_or(&answer.text).to_owned()))
    }

    async fn range(&self, body: &Value) -> Result<RangeAnswer, KvError> {
        parse(self.call("/v3/kv/range", body).await?)
    }
}

fn parse<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, KvError> {
    serde_json::from_value(answer).map_err(|error| KvError::Refused(format!("an unknown answer: {error}")))
}

fn to_error((code, message): (i64, String)) -> KvError {
    match code {
        -1 => KvError::Unreachable(message),
        code if UNAVAILABLE.contains(&code) => KvError::Unreachable(message),
        _ => KvError::Refused(message),
    }
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode(text: &str) -> Result<String, KvError> {
    let bytes = STANDARD.decode(text).map_err(|error| KvError::Refused(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| KvError::Refused(error.to_string()))
}

fn parse_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl GatewayPair {
    fn to_pair(&self) -> Result<KvPair, KvError> {
        Ok(KvPair {
            key: decode(&self.key)?,
            value: decode(&self.value)?,
            created_index: parse_number(&self.create_revision),
            modified_index: parse_number(&self.mod_revision),
        })
    }
}

/// The end of the range of keys that begin with `prefix` (etcd v3 API, `RangeRequest.range_end`).
fn end_of_prefix(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        // Prefixes end with `/` or a digit.
        *last += 1;
    }
    STANDARD.encode(bytes)
}

#[async_trait]
impl KvClient for Etcd {
    fn label(&self) -> String {
        format!("etcd at {}", self.servers.endpoints().join(", "))
    }

    async fn get(&self, key: &str) -> Result<Option<KvPair>, KvError> {
        let answer = self.range(&json!({"key": encode(key)})).await?;
        answer.kvs.first().map(GatewayPair::to_pair).transpose()
    }

    async fn scan(&self, prefix: &str, start: &str) -> Result<KvPage, KvError> {
        let body = json!({
            "key": encode(start), "range_end": end_of_prefix(prefix), "limit": PAGE.to_string(),
            "sort_order": "ASCEND", "sort_target": "KEY",
        });
        let answer = self.range(&body).await?;
        let pairs = answer.kvs.iter().map(GatewayPair::to_pair).collect::<Result<_, _>>()?;
        Ok(KvPage { pairs, has_more: answer.more })
    }

    async fn transact(&self, transaction: &KvTransaction) -> Result<bool, KvError> {
        let compare = transaction.expected.iter().map(|(key, expected)| match expected {
            Expected::Absent => {
                json!({"key": encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"})
            }
            Expected::Unchanged { modified_index } => json!({
                "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": modified_index.to_string(),
            }),
        });
        let puts = transaction.put.iter().map(|put| {
            let lease = put.lease.as_deref().unwrap_or("0");
            json!({"request_put": {"key": encode(&put.key), "value": encode(&put.value), "lease": lease}})
        });
        let deletes = transaction.delete.iter();
        let deletes = deletes.map(|key| json!({"request_delete_range": {"key": encode(key)}}));
        let body = json!({
            "compare": compare.collect::<Vec<_>>(), "success": puts.chain(deletes).collect::<Vec<_>>(),
        });
        let answer = self.call("/v3/kv/txn", &body).await?;
        Ok(answer["succeeded"].as_bool().unwrap_or(false))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        let answer = self.call("/v3/lease/grant", &json!({"TTL": ttl.as_secs().to_string()})).await?;
        let id = answer["ID"].as_str().map(ToOwned::to_owned);
        id.ok_or_else(|| KvError::Refused(format!("an unknown answer to a lease: {answer}")))
    }

    async fn renew_lease(&self, lease: &LeaseId) -> Result<bool, KvError> {
        let answer = self.call("/v3/lease/keepalive", &json!({"ID": lease})).await?;
        // A lease that has ended has no time left.
        Ok(answer["result"]["TTL"].as_str().is_some_and(|ttl| parse_number(ttl) > 0))
    }

    async fn revoke_lease(&self, lease: &LeaseId) -> Result<(), KvError> {
        self.call("/v3/lease/revoke", &json!({"ID": lease})).await.map(|_| ())
    }

    async fn wait_for_change(
        &self,
        key: &str,
        modified_index: Option<u64>,
        timeout: Duration,
    ) -> Result<(), KvError> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let answer = self.range(&json!({"key": encode(key)})).await?;
            let found = answer.kvs.first().map(|pair| parse_number(&pair.mod_revision));
            if found != modified_index || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            self.watch(key, parse_number(&answer.header.revision) + 1, deadline).await;
        }
    }

    fn reconnect(&self) -> Arc<dyn KvClient> {
        client_or_failure(Self::new(self.settings.clone()), self.label())
    }
}

impl Etcd {
    /// Returns with the first event of the key from `revision` on, at the deadline, or when the watch breaks.
    async fn watch(&self, key: &str, revision: u64, deadline: tokio::time::Instant) {
        let create = json!({"create_request": {"key": encode(key), "start_revision": revision.to_string()}});
        let create = create.to_string();
        let token = self.token.lock().await.clone();
        let watched =
            self.servers.stream("/v3/watch", &create, token.as_deref(), |text| text.contains("\"events\""));
        if !matches!(tokio::time::timeout_at(deadline, watched).await, Ok(Ok(()))) {
            // A pause before the next request to a server that does not answer.
            let pause = tokio::time::Instant::now() + Duration::from_millis(500);
            tokio::time::sleep_until(pause.min(deadline)).await;
        }
    }
}

/// Reads a text as an answer with pairs: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub(super) fn fuzz_answer(answer: &str) {
    if let Ok(answer) = serde_json::from_str::<RangeAnswer>(answer) {
        let _: Vec<_> = answer.kvs.iter().map(GatewayPair::to_pair).collect();
    }
}
