//! The health check of a service.

use std::time::Duration;

use super::values::{build_wrong_value, check_count, check_duration, quote};
use crate::config::file;
use crate::config::problem::ConfigFault;
use crate::model::health::Health;

pub(super) fn build_health(entry: &file::Health) -> Result<Health, ConfigFault> {
    let visible = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if let Some(path) =
        entry.path.as_ref().filter(|path| !path.value.starts_with('/') || !visible(&path.value))
    {
        return Err(build_wrong_value(
            path,
            "health.path",
            quote(&path.value),
            "a path that begins with `/`, without blanks",
        ));
    }
    if let Some(host) = entry.host.as_ref().filter(|host| host.value.is_empty() || !visible(&host.value)) {
        return Err(build_wrong_value(
            host,
            "health.host",
            quote(&host.value),
            "a host name such as shop.example",
        ));
    }
    if let Some(status) = entry.status.as_ref().filter(|status| !(200..=599).contains(&status.value)) {
        return Err(build_wrong_value(
            status,
            "health.status",
            status.value.to_string(),
            "an HTTP status from 200 to 599",
        ));
    }
    Ok(Health {
        path: entry.path.as_ref().map_or_else(|| "/".to_owned(), |path| path.value.clone()),
        status: entry.status.as_ref().map_or(200, |status| status.value),
        host: entry.host.as_ref().map(|host| host.value.clone()),
        timeout: check_duration(entry.timeout.as_ref(), "health.timeout")?.unwrap_or(Duration::from_secs(2)),
        interval: check_duration(entry.interval.as_ref(), "health.interval")?
            .unwrap_or(Duration::from_millis(500)),
        rise: check_count(entry.rise.as_ref(), "health.rise")?.unwrap_or(2),
    })
}
