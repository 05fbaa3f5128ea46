//! The flags of `agent` that register its host in Consul.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::Context;
use super::failure::fail_usage;
use crate::error::Failure;
use crate::model::discovery::{ConsulLookup, HostLookup};
use crate::model::fleet::Fleet;
use crate::model::journal_location::AccessFiles;
use crate::model::name::HostName;
use crate::model::registration::{HostIdentity, RegisteredService, RegistrationSpec, RegistryLocation};
use crate::plan::registration::{check_catalog_name, derive_catalog_name};
use crate::world::registry::Registry;

/// The slots that `init --discovery consul` writes by default, too.
pub(super) const DEFAULT_SLOTS: u16 = 5;
/// Each slot is two server lines, and a name that HAProxy resolves twice a second.
pub(super) const MAX_SLOTS: u64 = 1000;

#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Register this host's services at the Consul agent on this address.
    ///
    /// consul+https://ADDR:PORT connects over TLS. The services are those of switchman.yaml. The host claims a slot, which
    /// HAProxy resolves as 1.SERVICE.service.consul.
    #[arg(long, value_name = "consul://ADDR:PORT")]
    register: Option<ConsulUrl>,
    /// Register under this name [default: the machine's host name]
    #[arg(long, value_name = "NAME", requires = "register")]
    register_host: Option<HostName>,
    /// Register this address, which HAProxy connects to [default: the machine's only IPv4 address]
    #[arg(long, value_name = "ADDRESS", requires = "register")]
    register_address: Option<IpAddr>,
    /// Claim one of this number of slots, as many as haproxy.cfg has
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SLOTS, requires = "register",
        value_parser = RangedU64ValueParser::<u16>::new().range(1..=MAX_SLOTS))]
    register_slots: u16,
    /// Read the ACL token for Consul from this file
    #[arg(long, value_name = "FILE", requires = "register")]
    register_token_file: Option<PathBuf>,
    /// Trust the certificate authorities of this file (PEM) for Consul [default: the machine's]
    #[arg(long, value_name = "FILE", requires = "register")]
    register_ca: Option<PathBuf>,
}

/// The catalogue, and what is registered there.
pub(super) struct RegistryClient {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) spec: RegistrationSpec,
}

/// The URL of a Consul agent, as `http` or `https`.
#[derive(Debug, Clone)]
struct ConsulUrl(String);

impl FromStr for ConsulUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let secure = text.strip_prefix("consul+https://").map(|rest| ("https", rest));
        let plain = text.strip_prefix("consul://").map(|rest| ("http", rest));
        let (scheme, rest) =
            secure.or(plain).ok_or("expected consul://ADDR:PORT or consul+https://ADDR:PORT")?;
        let rest = rest.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "8500"));
        let is_host = rest.parse::<SocketAddr>().is_ok()
            || (!host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)));
        let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
        if !is_host {
            return Err(format!("`{rest}` is no address with a port, such as 127.0.0.1:8500"));
        }
        Ok(Self(format!("{scheme}://{host}:{port}")))
    }
}

impl RegisterArgs {
    /// Returns the catalogue and what is registered there, if `--register` is given.
    pub(super) fn connect(&self, context: &Context) -> Result<Option<RegistryClient>, Failure> {
        let Some(ConsulUrl(endpoint)) = &self.register else { return Ok(None) };
        let fleet = context.load_written_config()?.1;
        let host = self.identify_host(context)?;
        let services = list_services(&fleet).map_err(refuse)?;
        let files = AccessFiles {
            ca: self.register_ca.clone(),
            secret_file: self.register_token_file.clone(),
            ..AccessFiles::default()
        };
        let location = RegistryLocation { endpoint: endpoint.clone(), files };
        let registry = (context.world_factory.connect_registry)(&location).map_err(refuse)?;
        let spec = RegistrationSpec { host, slots: self.register_slots, services };
        Ok(Some(RegistryClient { registry, spec }))
    }

    fn identify_host(&self, context: &Context) -> Result<HostIdentity, Failure> {
        let machine = context.build_host_world(None).machine;
        let name = if let Some(name) = &self.register_host {
            name.clone()
        } else {
            let found = machine.host_name()?;
            let reason = |_| {
                refuse(format!("the host name `{found}` is no name: set one with `--register-host NAME`"))
            };
            found.parse().map_err(reason)?
        };
        let address = match self.register_address {
            Some(address) if address.is_unspecified() || address.is_multicast() => {
                return Err(refuse(format!("`{address}` is no address that HAProxy can connect to")));
            }
            Some(address) => address,
            None => choose_address(&machine.list_addresses()?).map_err(refuse)?,
        };
        Ok(HostIdentity { name, address: address.to_canonical() })
    }
}

fn refuse(reason: String) -> Failure {
    fail_usage("agent", "register this host", reason)
}

/// Finds the only address that load balancers can mean.
fn choose_address(addresses: &[IpAddr]) -> Result<IpAddr, String> {
    let v4: Vec<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    match if v4.is_empty() { addresses } else { &v4 } {
        [only] => Ok(*only),
        [] => Err("this machine has no address: give one with `--register-address ADDRESS`".to_owned()),
        several => {
            let all = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(format!("this machine has the addresses {all}: choose one with `--register-address ADDRESS`"))
        }
    }
}

/// Lists the services with their names in Consul. Where `hosts.consul` names a service, the hosts of the first service are
/// listed by it.
fn list_services(fleet: &Fleet) -> Result<Vec<RegisteredService>, String> {
    let listed = fleet.discovery.iter().find_map(|source| match &source.lookup {
        HostLookup::Consul(ConsulLookup { service, .. }) => Some(service),
        HostLookup::Dns(_) => None,
    });
    let mut services: Vec<RegisteredService> = Vec::new();
    for service in fleet.service_names() {
        let catalog_name = match listed.filter(|_| *service == fleet.service) {
            Some(name) => check_catalog_name(name),
            None => derive_catalog_name(service),
        };
        let catalog_name = catalog_name.map_err(|error| error.to_string())?;
        let is_equal = |other: &&RegisteredService| other.catalog_name.eq_ignore_ascii_case(&catalog_name);
        if let Some(other) = services.iter().find(is_equal) {
            return Err(format!(
                "`{service}` and `{}` are both `{catalog_name}` in Consul: the names of services have to differ there",
                other.service
            ));
        }
        let Some(Fleet { ports, health, .. }) = fleet.for_service(service) else { continue };
        services.push(RegisteredService { service: service.clone(), catalog_name, ports, health });
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;

    #[test]
    fn consul_url_has_a_scheme_and_an_address() {
        let parse = |text: &str| text.parse::<ConsulUrl>().map(|ConsulUrl(url)| url);
        assert_eq!(parse("consul://127.0.0.1:8500"), Ok("http://127.0.0.1:8500".to_owned()));
        assert_eq!(parse("consul+https://[::1]:8501/"), Ok("https://[::1]:8501".to_owned()));
        assert_eq!(parse("consul://consul.internal"), Ok("http://consul.internal:8500".to_owned()));
        for bad in
            ["http://127.0.0.1:8500", "consul://", "consul://a/b:1", "consul://u@h:1", "consul://h:x", "x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn address_is_the_only_one_of_ipv4() {
        let choose = |addresses: &[&str]| {
            let parsed: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            choose_address(&parsed).map(|address| address.to_string())
        };
        assert_eq!(choose(&["10.0.0.1", "2001:db8::1"]), Ok("10.0.0.1".to_owned()));
        assert_eq!(choose(&["2001:db8::1"]), Ok("2001:db8::1".to_owned()));
        assert_eq!(
            choose(&["10.0.0.1", "172.17.0.1"]).unwrap_err(),
            "this machine has the addresses 10.0.0.1, 172.17.0.1: choose one with `--register-address ADDRESS`"
        );
        assert!(choose(&[]).is_err());
    }

    #[test]
    fn names_in_consul_differ_and_are_labels() {
        let mut fleet = example::fleet();
        let list = |fleet: &Fleet| {
            let services = list_services(fleet)?;
            Ok::<_, String>(services.into_iter().map(|one| one.catalog_name).collect::<Vec<_>>())
        };
        fleet.service = "my_shop.eu".parse().unwrap();
        assert_eq!(list(&fleet), Ok(vec!["my-shop-eu".to_owned()]));
        fleet.service = "a".repeat(60).parse().unwrap();
        assert!(list(&fleet).unwrap_err().contains("is no name in DNS"));
        for service in ["shop-main", "shop_backup", "shop.instance"] {
            fleet.service = service.parse().unwrap();
            let error = list(&fleet).unwrap_err();
            assert!(error.contains("cannot be the name of a service in Consul"), "{service}: {error}");
        }
        fleet.service = "main".parse().unwrap();
        assert_eq!(list(&fleet), Ok(vec!["main".to_owned()]));
    }
}
