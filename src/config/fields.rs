//! Values of `switchman.yaml` that are types and not strings.

use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};

use crate::model::balancer::StatsEndpoint;
use crate::model::duration;

/// `500ms`, `2s`, `1m30s`.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDuration(pub Duration);

impl<'de> Deserialize<'de> for ConfigDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let expected = "a number with a unit, such as 500ms, 2s or 1m30s";
        duration::parse(&text)
            .map(Self)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }
}

impl JsonSchema for ConfigDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$", "examples": ["500ms", "2s", "1m30s"]})
    }
}

/// `/run/haproxy/admin.sock`, `tcp://10.0.0.2:9999`, `http://10.0.0.2:8404/stats`.
#[derive(Debug, Clone)]
pub struct HaproxyEndpoint(pub StatsEndpoint);

const EXPECTED_ENDPOINT: &str = "a socket path such as /run/haproxy/admin.sock, tcp://HOST:PORT, or http://HOST:PORT/PATH of the \
                      statistics page";

impl<'de> Deserialize<'de> for HaproxyEndpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_endpoint(&text)
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED_ENDPOINT))
    }
}

impl JsonSchema for HaproxyEndpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HaproxyAccess".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": EXPECTED_ENDPOINT})
    }
}

fn parse_endpoint(text: &str) -> Option<StatsEndpoint> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    if let Some(rest) = text.strip_prefix("tcp://") {
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let named = !host.is_empty() && !host.contains(['/', '@', '[', ']']);
        return named.then(|| StatsEndpoint::Tcp { host: host.to_owned(), port });
    }
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        let host = rest.split('/').next().unwrap_or("").rsplit('@').next().unwrap_or("");
        return (!host.is_empty() && !host.starts_with(':')).then(|| StatsEndpoint::Http(text.to_owned()));
    }
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix@")).unwrap_or(text);
    path.starts_with('/').then(|| StatsEndpoint::Unix(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_endpoint_parses_every_form() {
        let tcp = |host: &str, port| Some(StatsEndpoint::Tcp { host: host.to_owned(), port });
        assert_eq!(parse_endpoint("tcp://10.0.0.2:9999"), tcp("10.0.0.2", 9999));
        assert_eq!(parse_endpoint("tcp://[fd00::2]:9999"), tcp("fd00::2", 9999));
        assert_eq!(parse_endpoint("tcp://lb1.example:9999/"), tcp("lb1.example", 9999));
        assert_eq!(parse_endpoint("/run/h.sock"), Some(StatsEndpoint::Unix("/run/h.sock".into())));
        assert_eq!(parse_endpoint("unix:///run/h.sock"), Some(StatsEndpoint::Unix("/run/h.sock".into())));
        assert_eq!(parse_endpoint("http://lb:8404/s"), Some(StatsEndpoint::Http("http://lb:8404/s".into())));
        for bad in [
            "",
            "lb1",
            "tcp://lb1",
            "tcp://:99",
            "tcp://lb1:0",
            "tcp://lb1:99999",
            "http://",
            "run/x",
            "ftp://x",
        ] {
            assert_eq!(parse_endpoint(bad), None, "{bad}");
        }
    }
}
