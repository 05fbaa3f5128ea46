//! `world::discovery`: Consul's catalogue, and DNS.

use std::sync::Arc;

use crate::model::discovery::{DiscoverySource, HostLookup};
use crate::world::discovery::HostSource;

mod consul;
mod dns;

/// Builds the reader of a source. Nothing is connected before the first call.
pub fn connect(source: &DiscoverySource) -> Arc<dyn HostSource> {
    match &source.lookup {
        HostLookup::Consul(lookup) => Arc::new(consul::ConsulSource { lookup: lookup.clone() }),
        HostLookup::Dns(lookup) => Arc::new(dns::DnsSource { lookup: lookup.clone() }),
    }
}

/// Reads a text as an answer with the hosts of a service: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_answer(answer: &str) {
    let _ = consul::parse_entries(answer);
}
