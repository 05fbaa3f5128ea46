//! Outcome -> message, hint, exit code: the only such table.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::forward::Switch;
use crate::ops::drain::NotDrained;
use crate::ops::forward::SwitchError;
use crate::ops::init::InitError;
use crate::ops::rules::ChangeError;
use crate::ops::seen::NotSeen;
use crate::plan::switch::Refusal;
use crate::plan::this_host::PickError;
use crate::world::firewall::FirewallError;
use crate::world::machine::MachineError;
use crate::world::store::StoreError;

/// 0 done or already so; 1 refused or failed; 2 usage; 3 partly done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Done = 0,
    Failed = 1,
    Usage = 2,
}

/// Everything a command can end with that is not success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pick(#[from] PickError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("cannot bring the kernel to the recorded state: {0}")]
    Restore(#[source] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `check` found problems, which are printed already.
    #[error("{problems} problem{} found", if *.problems == 1 { "" } else { "s" })]
    Unsound { problems: usize },
    #[error(transparent)]
    Init(InitError),
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The rehearsal's report is printed already.
    #[error("the rehearsal failed: {}", .faults.join("; "))]
    Demo { faults: Vec<String> },
    /// End of input at a question.
    #[error("Aborted!")]
    Aborted,
    #[error("cannot {what}: {why}")]
    Other { what: String, why: String },
}

impl Failure {
    pub const fn code(&self) -> Code {
        match self {
            Self::Config(_) | Self::Pick(_) => Code::Usage,
            _ => Code::Failed,
        }
    }

    /// What to do next; a full sentence or none.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(ConfigError::Nowhere) => {
                Some("write one with `switchman init`, or name it with `--config FILE`".into())
            }
            Self::Config(_) => Some("`switchman schema` prints the shape of the file for your editor".into()),
            Self::Pick(PickError::Elsewhere { asked, .. }) => {
                Some(format!("run it on `{asked}`; or add `--local` if this machine really is `{asked}`"))
            }
            Self::Pick(PickError::NotAHost { .. }) => Some(
                "run it on one of them, or add `--host NAME --local` if this machine is one of them".into(),
            ),
            Self::Pick(PickError::BadName { .. }) => Some("name it with `--host NAME`".into()),
            Self::Init(InitError::InTheWay { .. }) => {
                Some("nothing was written; name another directory, or replace them with `--force`".into())
            }
            Self::Init(_) => Some("nothing is left of it".into()),
            Self::Lab(LabError::NoPrivilege { .. }) => {
                Some("run it as root: `sudo switchman lab ...`".into())
            }
            Self::Lab(LabError::Exec(_) | LabError::Process(_)) => {
                Some("the lab needs iproute2, iptables, haproxy and nginx: `make setup` installs them".into())
            }
            Self::Pick(PickError::Unknown { .. })
            | Self::Lab(_)
            | Self::Demo { .. }
            | Self::Aborted
            | Self::Machine(_)
            | Self::Unsound { .. }
            | Self::Other { .. } => None,
            Self::Switch(error) => switch_hint(error),
            Self::Restore(error) => change_hint(error),
            Self::Store(error) => store_hint(error),
        }
    }
}

fn switch_hint(error: &SwitchError) -> Option<String> {
    match error {
        SwitchError::Refused { refusals, .. } => Some(refusal_hint(refusals)),
        SwitchError::NotChanged { source, .. } => change_hint(source),
        SwitchError::NotSeen { source: NotSeen::Late { .. }, switch: Switch::Off, .. } => Some(
            "the host still answers, so nothing is lost; `switchman check --haproxy-cfg FILE` looks for the reason, \
             `switchman enable-forward` takes it back"
                .into(),
        ),
        SwitchError::NotSeen { source: NotSeen::Late { .. }, switch: Switch::On, .. } => Some(
            "its users stay on its backup vhost; `switchman check --haproxy-cfg FILE` looks for the reason (MAINT was set \
             on HAProxy's side: `set server BACKEND/SERVER state ready`)"
                .into(),
        ),
        SwitchError::NotSeen { .. } => Some("`switchman status` shows where it stands".into()),
        SwitchError::NotDrained { source: NotDrained::Late { .. }, returned: true, .. } => Some(
            "`switchman status --watch` shows what is in flight; raise `roll.drain_timeout`, or add `--force` to leave \
             the host out and cut what is left"
                .into(),
        ),
        SwitchError::NotDrained { returned: false, .. } => {
            Some("`switchman status` shows where it stands; `switchman enable-forward` puts the host back".into())
        }
        SwitchError::NotDrained { .. } => None,
    }
}

fn refusal_hint(refusals: &[Refusal]) -> String {
    match refusals.first() {
        Some(Refusal::Unread { .. }) => {
            "`switchman check` looks closer; `--force` switches without knowing what that balancer sees".into()
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers`, or the host with `--host`".into()
        }
        Some(Refusal::BackupNotUp { .. }) => {
            "start the backup vhost first; `--force` switches all the same, and this host's users go elsewhere".into()
        }
        Some(Refusal::Floor { .. }) => {
            "bring the others back first, or lower `roll.min_up`; `--force` switches all the same".into()
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "mend the main vhost first; `--force` switches all the same, and HAProxy's own check decides".into()
        }
    }
}

fn change_hint(error: &ChangeError) -> Option<String> {
    match error {
        ChangeError::Firewall(error) => firewall_hint(error),
        ChangeError::Store(error) => store_hint(error),
        ChangeError::Interrupted => Some("nothing was changed".into()),
        ChangeError::Contested { .. } => {
            Some("find who: `iptables-save -t nat | grep SWITCHMAN`, then run the command again".into())
        }
        ChangeError::HalfDone { .. } => Some(
            "kernel and record may disagree: `switchman status` shows it, `switchman restore` mends it"
                .into(),
        ),
    }
}

fn firewall_hint(error: &FirewallError) -> Option<String> {
    match error {
        FirewallError::Missing { .. } => Some("install it: `apt-get install iptables`".into()),
        FirewallError::NoPrivilege { .. } => Some("run it as root, or with the capability: `sudo switchman ...`".into()),
        FirewallError::Locked { .. } => {
            Some("nothing was changed; see who holds it with `fuser -v /run/xtables.lock`, then run the command again".into())
        }
        FirewallError::Hung { .. } | FirewallError::Failed { .. } | FirewallError::NotRun { .. } => {
            Some("nothing was changed; `switchman check` looks closer".into())
        }
        FirewallError::Garbled { .. } => None,
    }
}

fn store_hint(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Open { .. } | StoreError::Failed { .. } => {
            Some("nothing was changed; run it as root, or name another place with `--state-dir DIR`".into())
        }
        StoreError::Newer { .. } => {
            Some("nothing was changed; install a switchman at least as new as the one that wrote it".into())
        }
        StoreError::Full { .. } => {
            Some("nothing was changed; free some room, then run the command again".into())
        }
        StoreError::Damaged { path, .. } => Some(format!(
            "move `{}` away; the forwards the kernel holds are kept and recorded anew with the next switch",
            path.display()
        )),
        StoreError::Busy { .. } => {
            Some("nothing was changed; wait for it, then run the command again".into())
        }
    }
}
