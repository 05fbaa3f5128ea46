//! The reply of a host to the `agent-check` of a HAProxy.
//!
//! The agent reports what is intended, the health check reports what is; HAProxy shows UP only when both do (measured on
//! 2.6, docs/design/measurements.md#m41).
//! Every answer is whole: a HAProxy that was reloaded, and has forgotten all, knows from the next one.
//!
//! Of the words for "out", `stopped` is the default, because it has the effect of the failing check port, only sooner and
//! with a reason: DOWN, cookie holders to the backup vhost, requests in flight finish. `drain` keeps cookie holders
//! (docs/design/measurements.md#m35), so a main vhost must not be restarted on the strength of it, and its counterpart
//! `ready` is sent every few seconds and undoes a MAINT that HAProxy's operator has set. `maint` has the same counterpart and
//! ends the health checks. Each manner undoes only its own word. So a host whose manner is `Drain` never sends `up`, which in
//! HAProxy 2.2 and 2.3 before March 2021 made a server UP whose check failed (haproxy issue 1176).

use crate::model::agent_check::{AgentCheckConfig, MaintenanceReply};
use crate::model::port_forward::Switch;

/// A reply, its newline included: HAProxy ignores a line that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReply(String);

impl AgentReply {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// `None`: nothing is recorded, or the record cannot be read. Then the line is empty, which changes nothing in HAProxy:
/// ignorance takes no host out and puts none back, and the check port has the last word.
pub fn build_reply(switch: Option<Switch>, config: AgentCheckConfig) -> AgentReply {
    let words = match (switch, config.maintenance_reply) {
        (None, _) => String::new(),
        // The text after the `#` is shown on HAProxy's statistics page.
        (Some(Switch::Off), MaintenanceReply::Stopped) => "stopped # switchman: forward off".to_owned(),
        (Some(Switch::Off), MaintenanceReply::Drain) => "drain".to_owned(),
        (Some(Switch::On), reply) => {
            let back = match reply {
                MaintenanceReply::Stopped => "up",
                MaintenanceReply::Drain => "ready",
            };
            config.weight.map_or_else(|| back.to_owned(), |weight| format!("{back} {weight}"))
        }
    };
    AgentReply(words + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_text(switch: Option<Switch>, reply: MaintenanceReply, weight: Option<&str>) -> String {
        build_reply(
            switch,
            AgentCheckConfig {
                maintenance_reply: reply,
                weight: weight.map(|weight| weight.parse().unwrap()),
            },
        )
        .0
    }

    #[test]
    fn each_maintenance_reply_has_a_matching_undo() {
        let off = Some(Switch::Off);
        assert_eq!(build_text(off, MaintenanceReply::Stopped, None), "stopped # switchman: forward off\n");
        assert_eq!(build_text(off, MaintenanceReply::Drain, None), "drain\n");
        let on = Some(Switch::On);
        assert_eq!(build_text(on, MaintenanceReply::Stopped, None), "up\n");
        assert_eq!(build_text(on, MaintenanceReply::Drain, None), "ready\n");
    }

    #[test]
    fn weight_is_sent_only_in_service() {
        assert_eq!(build_text(Some(Switch::On), MaintenanceReply::Stopped, Some("75%")), "up 75%\n");
        assert_eq!(build_text(Some(Switch::On), MaintenanceReply::Drain, Some("100%")), "ready 100%\n");
        assert_eq!(build_text(Some(Switch::Off), MaintenanceReply::Drain, Some("75%")), "drain\n");
    }

    #[test]
    fn unknown_state_sends_an_empty_reply() {
        for reply in [MaintenanceReply::Stopped, MaintenanceReply::Drain] {
            assert_eq!(build_text(None, reply, Some("75%")), "\n");
        }
    }

    /// HAProxy takes words in any order up to the `#`, and the last of a kind wins: one of a kind leaves no doubt.
    #[test]
    fn reply_has_one_word_of_a_kind() {
        let words = ["up", "stopped", "ready", "drain"];
        for switch in [Some(Switch::On), Some(Switch::Off)] {
            for reply in [MaintenanceReply::Stopped, MaintenanceReply::Drain] {
                let line = build_text(switch, reply, Some("75%"));
                let spoken = line.split('#').next().unwrap().split_whitespace();
                assert_eq!(spoken.filter(|word| words.contains(word)).count(), 1, "{line}");
            }
        }
    }
}
