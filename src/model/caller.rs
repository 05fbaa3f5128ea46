//! The client of a host as the host itself observed it, beside the actor that the client claims to be.

use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The client behind a change, by a credential that the host checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    #[serde(flatten)]
    pub identity: CallerIdentity,
    /// The other end of the connection; over ssh, that of sshd's connection. Absent for a process of the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

/// The credential that a host checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum CallerIdentity {
    /// A client certificate of `--client-ca`.
    Certificate {
        /// The common name of its subject, or its first alternative name.
        name: String,
        /// The first 16 hexadecimal digits of its SHA-256.
        fingerprint: String,
    },
    /// A bearer token of `--token-file`, by its name there.
    Token { name: String },
    /// A process of the host, by the user that the kernel reports for it.
    User {
        name: String,
        uid: u32,
        /// The user who logged in and became this user, as by sudo; absent where it is the same one, or not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        login: Option<String>,
    },
}

impl Caller {
    pub fn new(identity: CallerIdentity, address: Option<SocketAddr>) -> Self {
        Self { identity, address }
    }
}

/// `certificate ops`, `token ci`, `user root (login ann)`.
impl fmt::Display for CallerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { name, .. } => write!(f, "certificate {name}"),
            Self::Token { name } => write!(f, "token {name}"),
            Self::User { name, login: None, .. } => write!(f, "user {name}"),
            Self::User { name, login: Some(login), .. } => write!(f, "user {name} (login {login})"),
        }
    }
}

/// `token ci from 10.0.0.9`: the port of a client changes with every connection.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)?;
        match self.address {
            Some(address) => write!(f, " from {}", address.ip().to_canonical()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_is_one_flat_object_and_one_short_text() {
        let address = Some("10.0.0.9:51234".parse().unwrap());
        let certificate = CallerIdentity::Certificate {
            name: "ops".to_owned(),
            fingerprint: "00ff00ff00ff00ff".to_owned(),
        };
        let user = |login: Option<&str>| CallerIdentity::User {
            name: "root".to_owned(),
            uid: 0,
            login: login.map(str::to_owned),
        };
        let cases = [
            (
                Caller::new(certificate, address),
                "certificate ops from 10.0.0.9",
                r#"{"by":"certificate","name":"ops","fingerprint":"00ff00ff00ff00ff","address":"10.0.0.9:51234"}"#,
            ),
            (
                Caller::new(CallerIdentity::Token { name: "ci".to_owned() }, None),
                "token ci",
                r#"{"by":"token","name":"ci"}"#,
            ),
            (Caller::new(user(None), None), "user root", r#"{"by":"user","name":"root","uid":0}"#),
            (
                Caller::new(user(Some("ann")), Some("[::ffff:10.0.0.9]:1".parse().unwrap())),
                "user root (login ann) from 10.0.0.9",
                r#"{"by":"user","name":"root","uid":0,"login":"ann","address":"[::ffff:10.0.0.9]:1"}"#,
            ),
        ];
        for (caller, text, json) in cases {
            assert_eq!(
                (caller.to_string().as_str(), serde_json::to_string(&caller).unwrap().as_str()),
                (text, json)
            );
            assert_eq!(serde_json::from_str::<Caller>(json).unwrap(), caller);
        }
    }
}
