//! The proof of a forward by a packet: how the check port answers a connection that takes the real path into this host.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ports::Port;
use super::rules::Family;

/// The answer to the first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PacketAnswer {
    /// A process accepted the connection.
    Accepted {
        /// The address that answers, after every translation; absent where the kernel does not track the connection.
        by: Option<SocketAddr>,
    },
    /// The connection was refused at once.
    Refused,
    /// No answer came: a filter dropped the packet, or the answer took another route.
    Silent,
}

impl fmt::Display for PacketAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { by: Some(address) } => write!(f, "is answered by `{address}`"),
            Self::Accepted { by: None } => f.write_str("is answered"),
            Self::Refused => f.write_str("is refused"),
            Self::Silent => f.write_str("gets no answer"),
        }
    }
}

/// The verdict on a forward in one address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "proof", rename_all = "kebab-case")]
pub enum PacketVerdict {
    /// The packet got the answer that the record requires.
    Packet { answer: PacketAnswer },
    /// The packet proves nothing.
    Unverified { reason: String },
    /// The packet got another answer than the record requires.
    Contradicted {
        fact: String,
        /// The rule or process that is the cause, where the rules show it.
        cause: Option<String>,
    },
}

/// The verdict on a port at one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FamilyProof {
    pub family: Family,
    /// The address of this host to which the packet was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    pub verdict: PacketVerdict,
}

/// The interface by which the packets come in: only a balancer's report proves rules that match its interface or address.
const PACKET_SOURCE: &str = "sent by this host's own test interface, not by a load balancer";

/// The verdicts on a forward. The packet comes in by an interface of its own: it proves nothing about rules that match an
/// interface or a source address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PacketProof {
    pub check: Port,
    pub families: Vec<FamilyProof>,
    /// The proof of the data port, to which balancers send users; absent while the forward is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataPortProof>,
}

/// The verdicts on a data port: a host that is UP by its check port serves users only if this port is open too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataPortProof {
    pub port: Port,
    pub families: Vec<FamilyProof>,
}

impl DataPortProof {
    /// Returns what the packets found, with the cause where it is known.
    pub fn describe_contradiction(&self) -> Option<String> {
        let texts: Vec<String> = self.families.iter().filter_map(describe_family_contradiction).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

impl PacketProof {
    /// Returns what the packets found against the record, with the cause where it is known.
    pub fn describe_contradiction(&self) -> Option<String> {
        let check: Vec<String> = self.families.iter().filter_map(describe_family_contradiction).collect();
        // One cause stops both ports as a rule: then it is named once.
        let is_new = |one: &&FamilyProof| {
            !self.families.iter().any(|check| {
                check.address == one.address && matches!(check.verdict, PacketVerdict::Contradicted { .. })
            })
        };
        let data = self.data.iter().flat_map(|data| &data.families).filter(is_new);
        let texts: Vec<String> =
            check.into_iter().chain(data.filter_map(describe_family_contradiction)).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Returns whether at least one packet got the required answer, and no packet another one.
    pub fn is_proven(&self) -> bool {
        self.describe_contradiction().is_none()
            && self.families.iter().any(|one| matches!(one.verdict, PacketVerdict::Packet { .. }))
    }

    /// Returns why the forward is not verified, for each family where it is not.
    pub fn describe_unverified(&self) -> String {
        let data = self.data.iter().flat_map(|data| &data.families);
        let reasons = self.families.iter().chain(data).filter_map(|one| match &one.verdict {
            PacketVerdict::Unverified { reason } => Some(format!("{}: {reason}", one.family)),
            _ => None,
        });
        let mut unique: Vec<String> = Vec::new();
        for reason in reasons {
            if !unique.contains(&reason) {
                unique.push(reason);
            }
        }
        unique.join("; ")
    }
}

fn describe_family_contradiction(one: &FamilyProof) -> Option<String> {
    match &one.verdict {
        PacketVerdict::Contradicted { fact, cause: Some(cause) } => {
            Some(format!("{fact} ({}): {cause}", one.family))
        }
        PacketVerdict::Contradicted { fact, cause: None } => Some(format!("{fact} ({})", one.family)),
        _ => None,
    }
}

impl fmt::Display for PacketProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.describe_contradiction() {
            return f.write_str(&text);
        }
        if !self.is_proven() {
            return write!(f, "not verified by a packet: {}", self.describe_unverified());
        }
        // The families with the same answer together: in IPv4 and IPv6 it is nearly always one.
        let mut answers: Vec<(String, Vec<String>)> = Vec::new();
        for one in &self.families {
            let PacketVerdict::Packet { answer } = &one.verdict else { continue };
            let text = match answer {
                PacketAnswer::Accepted { by: Some(address) } => {
                    format!("is answered by port {}", address.port())
                }
                other => other.to_string(),
            };
            match answers.iter_mut().find(|(known, _)| *known == text) {
                // Several addresses of a family with one answer.
                Some((_, families)) if families.contains(&one.family.to_string()) => {}
                Some((_, families)) => families.push(one.family.to_string()),
                None => answers.push((text, vec![one.family.to_string()])),
            }
        }
        let texts = answers.iter().map(|(text, families)| format!("{text} ({})", families.join(", ")));
        let answers = texts.collect::<Vec<_>>().join(", ");
        write!(f, "a packet to {} {answers}, {PACKET_SOURCE}", self.check)?;
        match self.describe_unverified() {
            rest if rest.is_empty() => Ok(()),
            rest => write!(f, "; not verified: {rest}"),
        }
    }
}
