//! `/services/NAME/...` and `/services/NAME_VERSION/...` (seed rows D7, D33, docs/design/seed-systems.md#mvi-and-daeploy).

use crate::model::name::ServiceName;
use crate::model::version::Version;

/// The service or version that a path addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayTarget {
    pub service: ServiceName,
    /// That version alone; absent: the service as its users get it.
    pub version: Option<Version>,
    /// The request target without the gateway's prefix, with its query: begins with `/`.
    pub target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    #[error("there is nothing but /services/NAME/ and /services/NAME_VERSION/")]
    NoService,
    #[error("No service matching {name}")]
    Unknown { name: String },
}

/// Whole path segments: the name is the one after `/services/`, with or without a slash at its end. A service whose name
/// looks like `NAME_VERSION` is itself.
pub fn parse_target(
    path_and_query: &str,
    known: impl Fn(&ServiceName) -> bool,
) -> Result<GatewayTarget, GatewayError> {
    let rest = path_and_query.strip_prefix("/services/").ok_or(GatewayError::NoService)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (segment, target) = rest.split_at(end);
    if segment.is_empty() {
        return Err(GatewayError::NoService);
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    // `+` of a build is often written so.
    let segment = segment.replace("%2B", "+").replace("%2b", "+");
    let unknown = || GatewayError::Unknown { name: segment.replace('_', " ") };
    if let Ok(service) = segment.parse::<ServiceName>()
        && known(&service)
    {
        return Ok(GatewayTarget { service, version: None, target });
    }
    let (name, version) = segment.rsplit_once('_').ok_or_else(unknown)?;
    let (service, version) = (name.parse().ok(), version.parse().ok());
    match (service, version) {
        (Some(service), Some(version)) if known(&service) => {
            Ok(GatewayTarget { service, version: Some(version), target })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_path(path: &str) -> Result<(String, String, String), String> {
        let known = |name: &ServiceName| ["shop", "my_shop", "odd_1.0.0"].contains(&name.as_str());
        let found = parse_target(path, known).map_err(|error| error.to_string())?;
        let version = found.version.map(|version| version.to_string()).unwrap_or_default();
        Ok((found.service.to_string(), version, found.target))
    }

    #[test]
    fn gateway_matches_whole_segments() {
        for (path, service, version, target) in [
            ("/services/shop", "shop", "", "/"),
            ("/services/shop/", "shop", "", "/"),
            ("/services/shop?a=/b", "shop", "", "/?a=/b"),
            ("/services/shop/a/b?c", "shop", "", "/a/b?c"),
            ("/services/shop//a", "shop", "", "//a"),
            ("/services/shop_1.2.3/x", "shop", "1.2.3", "/x"),
            ("/services/shop_1.2.3-rc.1%2Bb7", "shop", "1.2.3-rc.1+b7", "/"),
            ("/services/my_shop_0.1.0/", "my_shop", "0.1.0", "/"),
            ("/services/odd_1.0.0/", "odd_1.0.0", "", "/"),
            ("/services/odd_1.0.0_2.0.0/", "odd_1.0.0", "2.0.0", "/"),
        ] {
            assert_eq!(
                parse_path(path),
                Ok((service.to_owned(), version.to_owned(), target.to_owned())),
                "{path}"
            );
        }
    }

    #[test]
    fn gateway_rejects_unknown_paths() {
        for path in ["/", "/services", "/services/", "/services//shop", "/service/shop", "shop", "*"] {
            assert!(parse_path(path).unwrap_err().starts_with("there is nothing"), "{path}");
        }
        assert_eq!(parse_path("/services/shopping/").unwrap_err(), "No service matching shopping");
        assert_eq!(parse_path("/services/none_1.0.0/").unwrap_err(), "No service matching none 1.0.0");
        assert_eq!(parse_path("/services/shop_1.0/").unwrap_err(), "No service matching shop 1.0");
        assert_eq!(parse_path("/services/%2e%2e/").unwrap_err(), "No service matching %2e%2e");
    }
}
