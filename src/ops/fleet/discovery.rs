//! The hosts of a fleet as its sources list them now.

use std::sync::Arc;

use crate::model::discovery::{DiscoverySource, HostLookup};
use crate::model::fleet::Fleet;
use crate::plan::discovery::{HostListError, add_found_hosts};
use crate::world::discovery::{HostSource, HostSourceError};

/// Why the hosts of a fleet are not known. A fleet is never taken for smaller than it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    #[error("cannot list the hosts: {lookup}: {error}")]
    Unreadable { lookup: Box<HostLookup>, error: HostSourceError },
    #[error("cannot use the list of hosts: {lookup}: {error}")]
    Unusable { lookup: Box<HostLookup>, error: HostListError },
}

/// Returns the fleet with the hosts of every source. All of them are read concurrently, and each has to answer.
pub async fn discover_hosts(
    fleet: Fleet,
    connect: impl Fn(&DiscoverySource) -> Arc<dyn HostSource>,
) -> Result<Fleet, DiscoveryError> {
    let lists = fleet.discovery.iter().map(async |source| (source, connect(source).list().await));
    let lists = futures_util::future::join_all(lists).await;
    let mut hosts = fleet.hosts.clone();
    for (source, found) in lists {
        let lookup = || Box::new(source.lookup.clone());
        let found = found.map_err(|error| DiscoveryError::Unreadable { lookup: lookup(), error })?;
        add_found_hosts(&mut hosts, source, &found)
            .map_err(|error| DiscoveryError::Unusable { lookup: lookup(), error })?;
    }
    Ok(Fleet { hosts, ..fleet })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::model::discovery::{DnsLookup, DnsRecord, FoundHost, TransportPattern};
    use crate::model::example;

    struct Listed(Result<Vec<FoundHost>, HostSourceError>);

    #[async_trait]
    impl HostSource for Listed {
        async fn list(&self) -> Result<Vec<FoundHost>, HostSourceError> {
            self.0.clone()
        }
    }

    async fn discover(list: Result<Vec<FoundHost>, HostSourceError>) -> Result<Fleet, String> {
        let lookup = DnsLookup { name: "web.internal".into(), kind: DnsRecord::Address, server: None };
        let transport = TransportPattern::Ssh("{address}".into());
        let source = DiscoverySource { lookup: HostLookup::Dns(lookup), transport };
        let hosts = vec![example::host("web1", "10.0.0.1")];
        let fleet = Fleet { hosts, discovery: vec![source], ..example::fleet() };
        let connect = |_: &DiscoverySource| Arc::new(Listed(list.clone())) as Arc<dyn HostSource>;
        discover_hosts(fleet, connect).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn fleet_has_written_and_found_hosts() {
        let found = FoundHost { name: "web2".into(), address: "10.0.0.2".parse().unwrap() };
        let fleet = discover(Ok(vec![found])).await.unwrap();
        let names: Vec<&str> = fleet.hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["web1", "web2"]);
    }

    #[tokio::test]
    async fn source_without_an_answer_is_an_error_and_no_smaller_fleet() {
        let source = "A and AAAA records of `web.internal` at the DNS servers of /etc/resolv.conf";
        let late = HostSourceError::TimedOut { waited: Duration::from_secs(5) };
        assert_eq!(
            discover(Err(late)).await.unwrap_err(),
            format!("cannot list the hosts: {source}: no answer within 5s")
        );
        assert_eq!(
            discover(Ok(vec![])).await.unwrap_err(),
            format!("cannot use the list of hosts: {source}: it lists no host")
        );
    }
}
