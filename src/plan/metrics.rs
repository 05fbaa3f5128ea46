//! Metrics for Prometheus. The `prometheus-client` crate writes them in the text format 0.0.4, which Prometheus and
//! node_exporter's textfile collector read (docs/design/dependencies.md#metrics).
//!
//! Labels are bounded: services and hosts by the configuration, versions by what is deployed (and [`labels::MAX_VERSIONS`]),
//! reasons and classes by the words the program knows. Nothing of a request is a label.

pub mod family;
pub mod fleet;
pub mod host;
mod labels;
mod page;
mod proxy;

/// Lists everything that is ever exported.
pub fn list_families() -> impl Iterator<Item = &'static family::MetricFamily> {
    let of_fleet = fleet::FAMILIES.iter().chain(fleet::promotions::FAMILIES);
    host::FAMILIES.iter().chain(proxy::FAMILIES).chain(of_fleet).copied()
}

#[cfg(test)]
mod tests;
