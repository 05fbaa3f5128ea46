//! TCP ports and the three a host is known by.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

/// A number or text that is not a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a port: expected a number from 1 to 65535")]
pub struct PortError {
    pub found: String,
}

impl Port {
    pub const MAX: Self = Self(NonZeroU16::MAX);

    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// `None` for 0, which names no port.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(port) => Some(Self(port)),
            None => None,
        }
    }
}

impl FromStr for Port {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let number = text.parse::<u16>().ok().and_then(Self::new);
        number.ok_or_else(|| PortError { found: text.to_owned() })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad_integral(true, "", &self.get().to_string())
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl serde::de::Visitor<'_> for PortVisitor {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port: a number from 1 to 65535")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Port, E> {
        let port = u16::try_from(number).ok().and_then(Port::new);
        port.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Port, E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Signed(number), &self);
        u64::try_from(number).map_err(|_| wrong()).and_then(|number| self.visit_u64(number))
    }
}

/// The ports of one service on every host of a fleet. The three differ (checked by `config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ports {
    /// The port that HAProxy health-checks to decide whether the main vhost takes traffic; nothing listens on it.
    pub check: Port,
    /// The data port of the main vhost.
    pub main: Port,
    /// The data port of the backup vhost.
    pub backup: Port,
}

impl Default for Ports {
    fn default() -> Self {
        let port = |number| Port::new(number).unwrap_or(Port::MAX);
        Self { check: port(8888), main: port(8080), backup: port(80) }
    }
}

/// The ports that the kernel gives to clients (net.ipv4.ip_local_port_range), without those that it reserves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPorts {
    pub first: u16,
    pub last: u16,
    /// Ranges of net.ipv4.ip_local_reserved_ports.
    pub reserved: Vec<(u16, u16)>,
}

impl ClientPorts {
    /// Parses the texts of both settings: `32768\t60999` and `20000-29999,30080`.
    pub fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut bounds = range.split_whitespace().map(str::parse);
        let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
        let ranges = reserved.trim().split(',').filter_map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            Some((low.parse().ok()?, high.parse().ok()?))
        });
        Some(Self { first, last, reserved: ranges.collect() })
    }
}

/// Formats ports: `port 20000`, `ports 20000, 20001`.
pub fn join_ports(ports: &[Port]) -> String {
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    format!("{noun} {}", ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_accepts_1_to_65535() {
        assert_eq!("1".parse::<Port>().map(Port::get), Ok(1));
        assert_eq!("65535".parse::<Port>().map(Port::get), Ok(65535));
        for bad in ["0", "65536", "-1", "http", "", "80 "] {
            assert_eq!(bad.parse::<Port>(), Err(PortError { found: bad.to_owned() }));
        }
    }
}
