//! The instances of a service in Consul (<https://developer.hashicorp.com/consul/api-docs/health>).

use async_trait::async_trait;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::model::discovery::{ConsulLookup, FoundHost};
use crate::model::registration::HOST_META;
use crate::sys::access_files::{read_secret, read_tls_files};
use crate::sys::http_servers::{HttpServers, NoAnswer};
use crate::world::discovery::{HostSource, HostSourceError};

pub(super) struct ConsulSource {
    pub(super) lookup: ConsulLookup,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    /// Empty: that of the node.
    #[serde(default)]
    address: String,
    #[serde(default)]
    meta: Option<std::collections::BTreeMap<String, String>>,
}

#[async_trait]
impl HostSource for ConsulSource {
    async fn list(&self) -> Result<Vec<FoundHost>, HostSourceError> {
        let refused = |reason: String| HostSourceError::Refused { reason };
        let lookup = &self.lookup;
        let tls = read_tls_files(&lookup.files).map_err(refused)?;
        let token = read_secret(&lookup.files).map_err(refused)?;
        let servers = HttpServers::new(vec![lookup.endpoint.clone()], &tls).map_err(refused)?;
        let path = build_path(lookup).ok_or_else(|| refused(format!("`{}` is no URL", lookup.endpoint)))?;
        let authorize = |request: reqwest::RequestBuilder| match &token {
            Some(token) => request.header("X-Consul-Token", token),
            None => request,
        };
        let answer = servers.request(Method::GET, &path, authorize, None).await;
        let answer = answer.map_err(|NoAnswer { reason, .. }| HostSourceError::Unreachable { reason })?;
        if answer.status != StatusCode::OK {
            return Err(refused(format!("{} {}", answer.status, answer.text.trim())));
        }
        parse_entries(&answer.text).map_err(refused)
    }
}

/// Without `passing`: a host in maintenance has a failing check, and is a host all the same.
fn build_path(lookup: &ConsulLookup) -> Option<String> {
    let mut url = Url::parse(&lookup.endpoint).ok()?;
    url.path_segments_mut().ok()?.clear().extend(["v1", "health", "service", &lookup.service]);
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("consistent", "");
        for (key, value) in [("tag", &lookup.tag), ("dc", &lookup.datacenter)] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
    }
    Some(format!("{}?{}", url.path(), url.query()?))
}

pub(super) fn parse_entries(text: &str) -> Result<Vec<FoundHost>, String> {
    let entries: Vec<Entry> =
        serde_json::from_str(text).map_err(|error| format!("the answer is no list of instances: {error}"))?;
    let to_host = |entry: Entry| {
        let address =
            if entry.service.address.is_empty() { entry.node.address } else { entry.service.address };
        // Without it, the name of the node is the host's, which fails where several hosts are registered at one Consul agent.
        let named = entry.service.meta.and_then(|mut meta| meta.remove(HOST_META));
        let name = named.unwrap_or(entry.node.node);
        let address = address.parse().map_err(|_| {
            format!("`{name}` is registered with `{}`, which is no IP address", address.escape_debug())
        })?;
        Ok(FoundHost { name, address })
    };
    entries.into_iter().map(to_host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::journal_location::AccessFiles;

    #[test]
    fn path_has_tag_and_datacenter_and_takes_failing_instances() {
        let lookup = ConsulLookup {
            endpoint: "http://127.0.0.1:8500".into(),
            service: "web/a".into(),
            tag: Some("v1&x".into()),
            datacenter: Some("dc2".into()),
            files: AccessFiles::default(),
        };
        assert_eq!(build_path(&lookup).unwrap(), "/v1/health/service/web%2Fa?consistent=&tag=v1%26x&dc=dc2");
    }

    #[test]
    fn address_and_name_of_the_registration_go_before_those_of_the_node() {
        let text = r#"[
            {"Node": {"Node": "node-a", "Address": "10.0.0.1"}, "Service": {"Address": "", "Meta": null}},
            {"Node": {"Node": "node-a", "Address": "10.0.0.1"},
             "Service": {"Address": "10.0.0.2", "Meta": {"switchman-host": "web2"}}, "Checks": []}
        ]"#;
        let found: Vec<String> = parse_entries(text)
            .unwrap()
            .iter()
            .map(|host| format!("{} {}", host.name, host.address))
            .collect();
        assert_eq!(found, ["node-a 10.0.0.1", "web2 10.0.0.2"]);
        let named = r#"[{"Node": {"Node": "a", "Address": "a.example"}, "Service": {}}]"#;
        assert_eq!(
            parse_entries(named).unwrap_err(),
            "`a` is registered with `a.example`, which is no IP address"
        );
        assert!(parse_entries("{}").unwrap_err().starts_with("the answer is no list of instances"));
    }
}
