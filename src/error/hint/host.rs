//! The next action for what a host refuses, and for a host that cannot be reached.

use crate::model::failure::ErrorCode;
use crate::world::link::LinkError;

pub fn link_hint(error: &LinkError) -> String {
    match error {
        LinkError::Unreachable { ssh: Some(attempt), .. } => attempt.advice(),
        LinkError::Unreachable { .. } => {
            "nothing was changed; start the agent there: `systemctl start switchman`, or `switchman agent` without systemd"
                .into()
        }
        LinkError::Broken { .. } | LinkError::TimedOut { .. } => {
            "it may have been done or not: `switchman status` shows it, the same command again is safe".into()
        }
        LinkError::Abandoned { .. } => {
            "the host undoes the change, or finishes a change that has the users already: `switchman ls --wide` shows the outcome; the same command again is safe"
                .into()
        }
        LinkError::VersionMismatch { .. } => "nothing was changed; install the same switchman on both".into(),
        LinkError::Refused { code, .. } => error_code_hint(*code).into(),
    }
}

#[allow(clippy::too_many_lines, reason = "a table with a row for each code")]
pub const fn error_code_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::ProgramMissing => "install it: `apt-get install iptables`",
        ErrorCode::NoPrivilege => "run it as root, or with the capability: `sudo switchman ...`",
        ErrorCode::RulesLocked => {
            "nothing was changed; see who holds it with `fuser -v /run/xtables.lock`, then run the command again"
        }
        ErrorCode::RulesFailed => "nothing was changed; `switchman check` shows details",
        ErrorCode::RulesContested => {
            "find who: `iptables-save -t nat | grep SWITCHMAN`, then run the command again"
        }
        ErrorCode::ForwardContradicted => {
            "the forward stays as it is now; remove the cause, then run the command again; `switchman check` lists the rules of other \
             programs"
        }
        ErrorCode::RevertFailed => {
            "kernel and record may disagree: `switchman status` shows it, `switchman restore` repairs it"
        }
        ErrorCode::StateFailed => {
            "nothing was changed; run it as root, and check the disk of the state directory and who may write there"
        }
        ErrorCode::StateNewer => {
            "nothing was changed; install a switchman at least as new as the one that wrote it"
        }
        ErrorCode::DiskFull => "nothing was changed; free some space, then run the command again",
        ErrorCode::StateDamaged => {
            "stop the agent, then move `state.db`, `state.db-wal` and `state.db-shm` away: the forwards of the kernel are kept and \
             recorded again with the next switch, the record of versions and the history are lost"
        }
        ErrorCode::Busy => "nothing was changed; wait for it, then run the command again",
        ErrorCode::Interrupted => "nothing was changed; run the command again",
        ErrorCode::Owned => {
            "nothing was changed; `switchman status` and `switchman history` show more; `switchman disable-forward --force --reason TEXT` \
             takes the host over, and its history records it"
        }
        ErrorCode::BadArchive => "nothing was changed; `tar -tvzf FILE` lists the members of an archive",
        ErrorCode::ReleasesFailed => {
            "check who may write there, or name another directory on the host with `--releases-dir DIR`"
        }
        ErrorCode::Unauthorized => "the agent requires another key: see `agents:` in switchman.yaml",
        ErrorCode::RoleTooLow => {
            "nothing was changed; use a key with that role, or change the role of this one in the agent's `--token-file` or `--clients`"
        }
        ErrorCode::NotDrained => {
            "run the same command with `--drain-timeout 1m` to wait longer, or with `--force` to close what is in flight and count it"
        }
        ErrorCode::Unhealthy => "repair it first; no traffic was sent to it",
        ErrorCode::NoAgent => {
            "nothing was changed; start it there: `systemctl start switchman`, or `switchman agent` without systemd"
        }
        ErrorCode::ProxyFailed => {
            "the rules bypass the proxy; `proxy.log` in the state directory, or `journalctl -u switchman-proxy`, shows why"
        }
        ErrorCode::Exists => {
            "nothing was changed; deploy it as another version, replace its code with `switchman update NAME VERSION SOURCE`, \
             or remove it with `switchman kill NAME VERSION`"
        }
        ErrorCode::EndpointTaken => {
            "nothing was changed; give another address, replace the code there with `switchman update ID SOURCE`, or remove that \
             deployment with `switchman kill ID`"
        }
        ErrorCode::ReleaseExists => {
            "nothing was changed; deploy this source as another version, or remove the version that uses the release with \
             `switchman kill NAME VERSION`"
        }
        ErrorCode::NotAllowed => {
            "nothing was changed; assign another version, end a mirror or canary with `--off`, or kill the shadows first"
        }
        ErrorCode::NotFound => {
            "`switchman ls --wide` shows every version of every host, `switchman deploy NAME VERSION SOURCE` adds one"
        }
        ErrorCode::NoMain => {
            "`switchman ls NAME` lists the versions: `switchman assign NAME VERSION` makes one main, `switchman deploy NAME \
             VERSION SOURCE` adds the first"
        }
        ErrorCode::NoInstance => {
            "`switchman update NAME VERSION SOURCE` starts a new instance, `switchman check` on the host shows what differs"
        }
        ErrorCode::NoPort => {
            "nothing was changed; remove a version with `switchman kill NAME VERSION`, or widen `versions.ports` in \
             switchman.yaml"
        }
        ErrorCode::PortTaken => {
            "nothing was changed; name a free port with `--port PORT`, or omit `--port`; `ss -ltnp` on the host shows the \
             listeners"
        }
        ErrorCode::NoRelease => {
            "nothing was changed; `switchman deploy NAME VERSION SOURCE` places the release and starts it"
        }
        ErrorCode::ReleaseAltered => {
            "nothing was started; `switchman verify NAME` lists what was changed; `switchman update NAME VERSION SOURCE` places \
             the code again beside it"
        }
        ErrorCode::NoBackup => {
            "nothing was changed; `switchman ls NAME` lists its versions, `switchman assign NAME VERSION` makes one main"
        }
        ErrorCode::NotMain => {
            "nothing was changed; another command changed main: `switchman ls --wide` shows main of every host"
        }
        ErrorCode::NoUser => {
            "nothing was changed; create the user on the host, or name another one with `--user USER`"
        }
        ErrorCode::NoProgram => {
            "nothing was changed; install the program on the host, or correct the path, which starts at the release's directory"
        }
        ErrorCode::Unprocessable => {
            "nothing was changed; `switchman ls --wide` shows the versions of the host and their ports"
        }
        ErrorCode::BadRequest => {
            "nothing was changed; correct the value that the message names: `switchman help COMMAND` describes the arguments"
        }
        ErrorCode::RunnerFailed => {
            "`switchman logs NAME VERSION` shows what the instance wrote, `journalctl -u switchman` the agent's log"
        }
        ErrorCode::CommandFailed => "check that the program exists on that host and may be run",
        ErrorCode::SocketsFailed => "run it as root; `modprobe tcp_diag` loads what the kernel needs",
        ErrorCode::RulesMalformed => {
            "nothing was changed; `switchman check` and `iptables-save -t nat` show the rules"
        }
        ErrorCode::HalfUpdated => {
            "`switchman describe NAME` shows the build of each instance; `switchman update NAME VERSION SOURCE` with the old or the new \
             code replaces those that have the other"
        }
        ErrorCode::Other => "`switchman status` shows the host; install the same switchman on both",
    }
}
