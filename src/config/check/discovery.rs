//! The keys `hosts.consul` and `hosts.dns`: the sources of hosts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_yaml::Spanned;

use super::transport::build_transport;
use super::values::{build_other_problem, build_wrong_value, line_number, quote};
use crate::config::hosts::{ConsulHosts, DnsHosts, Hosts};
use crate::config::problem::ConfigFault;
use crate::model::discovery::{
    ConsulLookup, DiscoverySource, DnsLookup, DnsRecord, HostLookup, TransportPattern,
};
use crate::model::host::Transport;
use crate::model::journal_location::AccessFiles;

const DNS_PORT: u16 = 53;
const DEFAULT_CONSUL: &str = "http://127.0.0.1:8500";

pub(super) fn build_sources(hosts: &Hosts, ca: Option<&Path>) -> Result<Vec<DiscoverySource>, ConfigFault> {
    let mut sources = Vec::new();
    if let Some(entry) = &hosts.consul {
        let lookup = HostLookup::Consul(build_consul(entry)?);
        let ConsulHosts { ssh, agent, .. } = &entry.value;
        let transport = build_pattern("hosts.consul", ssh.as_ref(), agent.as_ref(), ca)?;
        sources.push(DiscoverySource { lookup, transport });
    }
    if let Some(entry) = &hosts.dns {
        let lookup = HostLookup::Dns(build_dns(entry)?);
        let DnsHosts { ssh, agent, .. } = &entry.value;
        let transport = build_pattern("hosts.dns", ssh.as_ref(), agent.as_ref(), ca)?;
        sources.push(DiscoverySource { lookup, transport });
    }
    Ok(sources)
}

fn build_consul(entry: &Spanned<ConsulHosts>) -> Result<ConsulLookup, ConfigFault> {
    let consul = &entry.value;
    let endpoint = match &consul.address {
        None => DEFAULT_CONSUL.to_owned(),
        Some(address) => {
            let url = address.value.trim_end_matches('/');
            let rest =
                url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
            if rest.is_empty() || rest.contains(['/', '@', '?', '#']) || rest.contains(char::is_whitespace) {
                return Err(build_wrong_value(
                    address,
                    "hosts.consul.address",
                    quote(&address.value),
                    "a URL without a path, such as http://127.0.0.1:8500",
                ));
            }
            url.to_owned()
        }
    };
    if consul.service.value.trim().is_empty() {
        let service = &consul.service;
        return Err(build_wrong_value(
            service,
            "hosts.consul.service",
            quote(&service.value),
            "the name of a service in Consul",
        ));
    }
    if consul.certificate.is_some() != consul.key.is_some() {
        let text = "`certificate` and `key` are needed together";
        return Err(build_other_problem(line_number(entry), "hosts.consul", text));
    }
    Ok(ConsulLookup {
        endpoint,
        service: consul.service.value.clone(),
        tag: consul.tag.clone(),
        datacenter: consul.datacenter.clone(),
        files: AccessFiles {
            ca: consul.ca.clone(),
            certificate: consul.certificate.clone(),
            key: consul.key.clone(),
            secret_file: consul.token_file.clone(),
            secret: None,
        },
    })
}

fn build_dns(entry: &Spanned<DnsHosts>) -> Result<DnsLookup, ConfigFault> {
    let dns = &entry.value;
    let (name, kind, key) = match (&dns.srv, &dns.a) {
        (Some(name), None) => (name, DnsRecord::Srv, "hosts.dns.srv"),
        (None, Some(name)) => (name, DnsRecord::Address, "hosts.dns.a"),
        _ => {
            let text = "exactly one of `srv` and `a` is needed";
            return Err(build_other_problem(line_number(entry), "hosts.dns", text));
        }
    };
    let is_name = |text: &str| {
        let label = |label: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=63).contains(&label.len()) && label.chars().all(allowed)
        };
        text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
    };
    if !is_name(&name.value) {
        return Err(build_wrong_value(name, key, quote(&name.value), "a name in DNS"));
    }
    let server = dns.server.as_ref().map(|server| {
        let address = server.value.parse::<SocketAddr>();
        let address = address
            .or_else(|_| server.value.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT)));
        address.map_err(|_| {
            let expected = "an IP address with or without a port, such as 127.0.0.1:8600";
            build_wrong_value(server, "hosts.dns.server", quote(&server.value), expected)
        })
    });
    Ok(DnsLookup { name: name.value.clone(), kind, server: server.transpose()? })
}

/// Checks the pattern as the transport of a host.
fn build_pattern(
    key: &str,
    ssh: Option<&Spanned<String>>,
    agent: Option<&Spanned<String>>,
    ca: Option<&Path>,
) -> Result<TransportPattern, ConfigFault> {
    let sample = |pattern: Option<&Spanned<String>>| {
        let fill = |text: &str| text.replace("{host}", "web1").replace("{address}", "10.0.0.1");
        pattern.map(|pattern| Spanned { value: fill(&pattern.value), ..pattern.clone() })
    };
    let (sample_ssh, sample_agent) = (sample(ssh), sample(agent));
    let checked = build_transport(key, "{address}", (sample_ssh.as_ref(), sample_agent.as_ref()), ca)?;
    let trimmed = |text: &str| text.trim_end_matches('/').to_owned();
    Ok(match (checked, agent, ssh) {
        (Transport::Tls(_), Some(agent), _) => {
            TransportPattern::Tls(trimmed(agent.value.trim_start_matches("https://")))
        }
        (Transport::Socket(_), Some(agent), _) => {
            TransportPattern::Socket(agent.value.trim_start_matches("unix://").to_owned())
        }
        (_, _, Some(ssh)) => TransportPattern::Ssh(ssh.value.clone()),
        _ => TransportPattern::Ssh("{address}".to_owned()),
    })
}
