//! `NAME=ADDRESS` on a command line.

use std::net::IpAddr;
use std::str::FromStr;

use crate::model::host::{Host, Transport};
use crate::model::name::HostName;

/// A host with the address that HAProxy connects to.
#[derive(Debug, Clone)]
pub struct HostAddressArg {
    pub name: HostName,
    pub address: IpAddr,
}

impl FromStr for HostAddressArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS, such as web1=10.0.0.11")?;
        let name: HostName = name.parse().map_err(|error| format!("`{name}` is not a name: {error}"))?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = bare.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("`{address}` is no address that HAProxy can connect to"));
        }
        Ok(Self { name, address: address.to_canonical() })
    }
}

impl HostAddressArg {
    /// The host, reached by ssh under its name.
    pub fn to_host(&self) -> Host {
        let transport = Transport::Ssh(self.name.to_string());
        Host { name: self.name.clone(), address: Some(self.address), transport }
    }
}

/// Returns why the hosts cannot be added to those that are there: a name or an address is there twice.
pub fn find_duplicate(present: &[Host], new: &[HostAddressArg]) -> Option<String> {
    let mut hosts: Vec<Host> = present.to_vec();
    for arg in new {
        if hosts.iter().any(|host| host.name == arg.name) {
            return Some(format!("there is a host `{}` already", arg.name));
        }
        let is_like = |host: &&Host| host.name.as_str().eq_ignore_ascii_case(arg.name.as_str());
        if let Some(other) = hosts.iter().find(is_like) {
            return Some(format!(
                "`{}` and `{}` are one host name: upper and lower case do not differ",
                arg.name, other.name
            ));
        }
        if let Some(other) = hosts.iter().find(|host| host.address == Some(arg.address)) {
            return Some(format!(
                "address {} of `{}` is already that of `{}`",
                arg.address, arg.name, other.name
            ));
        }
        hosts.push(arg.to_host());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_unique() {
        let parse = |text: &str| text.parse::<HostAddressArg>();
        let args = |texts: &[&str]| texts.iter().map(|text| parse(text).unwrap()).collect::<Vec<_>>();
        assert_eq!(find_duplicate(&[], &args(&["a=10.0.0.1", "b=::ffff:10.0.0.2", "c=[fd00::1]"])), None);
        let present = [parse("a=10.0.0.1").unwrap().to_host()];
        assert!(find_duplicate(&present, &args(&["a=10.0.0.9"])).is_some());
        assert!(find_duplicate(&present, &args(&["A=10.0.0.9"])).unwrap().contains("one host name"));
        assert!(find_duplicate(&present, &args(&["b=::ffff:10.0.0.1"])).is_some());
        assert!(find_duplicate(&[], &args(&["b=10.0.0.2", "b=10.0.0.3"])).is_some());
        for wrong in ["a", "a=", "=10.0.0.1", "a=web1", "a=0.0.0.0", "a=224.0.0.1", "../a=10.0.0.1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
