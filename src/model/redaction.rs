//! Environments without their values, for everything that leaves a host: answers of the API, lists and descriptions.

use std::collections::BTreeMap;

use super::deployment::{Deployment, Instance, RunSpec};

const PREFIX: &str = "redacted:";

/// Returns the placeholder of a value. Its 16 bits show whether two hosts have the same value, and are too few to find out a
/// long secret. The placeholder of a placeholder is the same.
fn build_placeholder(name: &str, value: &str) -> String {
    if is_placeholder(value) {
        return value.to_owned();
    }
    // FNV-1a: the same in every version of switchman.
    let bytes = name.bytes().chain([b'=']).chain(value.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash >> 48) ^ (hash >> 32) ^ (hash >> 16) ^ hash;
    format!("{PREFIX}{:04x}", folded & 0xffff)
}

/// Whether a value is the placeholder of another one.
pub fn is_placeholder(value: &str) -> bool {
    let digits = value.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the environment with a placeholder for each value.
pub fn redact_env(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    env.iter().map(|(name, value)| (name.clone(), build_placeholder(name, value))).collect()
}

/// Returns the environment with the recorded values in the place of their placeholders. A placeholder of no recorded value stays.
pub fn restore_env(env: BTreeMap<String, String>, recorded: &[&RunSpec]) -> BTreeMap<String, String> {
    let restore = |(name, value): (String, String)| {
        let mut known = recorded.iter().filter_map(|spec| spec.env.get(&name));
        let restored = known
            .find(|known| is_placeholder(&value) && build_placeholder(&name, known) == value)
            .cloned()
            .unwrap_or(value);
        (name, restored)
    };
    env.into_iter().map(restore).collect()
}

impl RunSpec {
    /// Returns the spec with placeholders for the values of its environment.
    #[must_use]
    pub fn redact(self) -> Self {
        Self { env: redact_env(&self.env), ..self }
    }
}

impl Deployment {
    /// Returns the deployment with placeholders for the values of the environments of its instances.
    #[must_use]
    pub fn redact(self) -> Self {
        let redact = |instance: Instance| Instance { how: instance.how.redact(), ..instance };
        Self {
            instance: redact(self.instance),
            more_instances: self.more_instances.into_iter().map(redact).collect(),
            other_instance: self.other_instance.map(redact),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::{WebServer, Workload};

    fn spec(value: &str) -> RunSpec {
        let env = [("TOKEN".to_owned(), value.to_owned())].into();
        RunSpec { env, ..RunSpec::new(Workload::Vhost { server: WebServer::Nginx }) }
    }

    #[test]
    fn deployment_is_redacted_in_every_instance() {
        let mut one = crate::model::example::deployment("shop", "1.0.0", 20000);
        one.instance.how.env = spec("hunter2").env;
        one.more_instances = vec![Instance { number: 2, ..one.instance.clone() }];
        one.other_instance = Some(one.instance.clone());
        let shown = serde_json::to_string(&one.clone().redact()).unwrap();
        assert_eq!(shown.matches("hunter2").count(), 0);
        assert_eq!(shown.matches("\"TOKEN\":\"redacted:").count(), 3, "{shown}");
        assert_eq!(one.clone().redact(), one.redact().redact());
    }

    #[test]
    fn placeholder_shows_a_difference_and_is_restored_from_the_record() {
        let (there, other) = (spec("hunter2"), spec("hunter3"));
        let shown = there.clone().redact();
        assert!(shown == there.clone().redact() && shown != other.clone().redact());
        assert_eq!(restore_env(shown.env.clone(), &[&other, &there]), there.env);
        assert_eq!(restore_env(shown.env.clone(), &[&other]), shown.env);
        assert_eq!(restore_env(other.env.clone(), &[&there]), other.env);
    }
}
