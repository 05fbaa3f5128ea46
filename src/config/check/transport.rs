//! How a host is reached: the keys `ssh` and `agent` of a host or of a source of hosts.

use std::path::Path;

use serde_yaml::Spanned;

use super::values::{build_other_problem, build_wrong_value, is_ssh_destination, line_number, quote};
use crate::config::problem::ConfigFault;
use crate::model::host::Transport;
use crate::model::ports::Port;

/// Builds the transport to a host from another machine. `at`: the key of the entry. `default`: the destination without `ssh`.
pub(super) fn build_transport(
    at: &str,
    default: &str,
    (ssh, agent): (Option<&Spanned<String>>, Option<&Spanned<String>>),
    ca: Option<&Path>,
) -> Result<Transport, ConfigFault> {
    let key = |field: &str| format!("{at}.{field}");
    if let Some(agent) = agent {
        if let Some(ssh) = ssh {
            return Err(build_other_problem(
                line_number(ssh),
                &key("ssh"),
                "a host has `ssh` or `agent`, not both",
            ));
        }
        let path = agent.value.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let address = agent.value.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        let address = address.filter(|rest| {
            let (host, port) = rest.rsplit_once(':').unwrap_or_default();
            !host.is_empty() && !host.contains(['/', '@']) && port.parse::<Port>().is_ok()
        });
        return match (path, address) {
            (Some(path), _) => Ok(Transport::Socket(path.into())),
            (_, Some(_)) if ca.is_none() => {
                let text = "`agents.ca` is missing: the agent's certificate cannot be verified";
                Err(build_other_problem(line_number(agent), &key("agent"), text))
            }
            (_, Some(address)) => Ok(Transport::Tls(address.to_owned())),
            _ => Err(build_wrong_value(
                agent,
                &key("agent"),
                quote(&agent.value),
                "https://HOST:PORT or unix:///PATH",
            )),
        };
    }
    let Some(ssh) = ssh else { return Ok(Transport::Ssh(default.to_owned())) };
    if !is_ssh_destination(&ssh.value) {
        return Err(build_wrong_value(
            ssh,
            &key("ssh"),
            quote(&ssh.value),
            "a destination of ssh such as deploy@web1",
        ));
    }
    Ok(Transport::Ssh(ssh.value.clone()))
}
