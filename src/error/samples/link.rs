//! A host that ssh does not reach, once for each cause.

use super::{Sample, samples, wrap};
use crate::model::ssh::{SshAttempt, SshFailure};
use crate::world::link::LinkError;

pub(super) fn list_ssh_failures() -> Vec<Sample<LinkError>> {
    let failures = samples!(SshFailure {
        TimedOut: [SshFailure::TimedOut],
        Refused: [SshFailure::Refused],
        NameUnknown: [SshFailure::NameUnknown],
        HostKeyUnknown: [SshFailure::HostKeyUnknown],
        HostKeyChanged: [SshFailure::HostKeyChanged],
        AuthDenied: [SshFailure::AuthDenied],
        NoSsh: [SshFailure::NoSsh],
        SudoRefused: [SshFailure::SudoRefused],
        NotInstalled: [SshFailure::NotInstalled],
        NotExecutable: [SshFailure::NotExecutable],
        TooOld: [SshFailure::TooOld],
        Other: [SshFailure::Other],
    });
    wrap(failures, make_ssh_failure)
}

pub(super) fn make_ssh_failure(failure: SshFailure) -> LinkError {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    LinkError::Unreachable {
        via: "ssh -F '/home/my ops/fleet' web1".into(),
        reason: find_reason(failure).to_owned(),
        ssh: Some(Box::new(SshAttempt {
            destination: "web1".into(),
            options: owned(&["-F", "/home/my ops/fleet"]),
            remote: owned(&["sudo", "-n", "switchman", "agent", "--stdio"]),
            failure,
        })),
    }
}

const fn find_reason(failure: SshFailure) -> &'static str {
    match failure {
        SshFailure::TimedOut => "ssh reports: ssh: connect to host 10.0.0.11 port 22: Connection timed out",
        SshFailure::Refused => "ssh reports: ssh: connect to host 10.0.0.11 port 22: Connection refused",
        SshFailure::NameUnknown => {
            "ssh reports: ssh: Could not resolve hostname web1: Name or service not known"
        }
        SshFailure::HostKeyUnknown => "ssh reports: Host key verification failed",
        SshFailure::HostKeyChanged => {
            "ssh reports: Host key for web1 has changed and you have requested strict checking"
        }
        SshFailure::AuthDenied => "ssh reports: deploy@web1: Permission denied (publickey)",
        SshFailure::NoSsh => "`ssh` is not installed",
        SshFailure::SudoRefused => "sudo refuses to run switchman there: sudo: a password is required",
        SshFailure::NotInstalled => {
            "switchman is not installed there, or not on the PATH of a non-interactive shell (bash: line 1: switchman: command \
             not found)"
        }
        SshFailure::NotExecutable => {
            "switchman may not be run there: bash: line 1: /opt/switchman: Permission denied"
        }
        SshFailure::TooOld => "the switchman there has no `agent --stdio`: unrecognized subcommand 'agent'",
        SshFailure::Other => "the remote command ended with status 9: no room",
    }
}
