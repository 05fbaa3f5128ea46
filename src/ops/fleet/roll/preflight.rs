//! The checks of a roll before its first host is touched.

use std::collections::BTreeMap;

use super::routed_ports::warn_of_routed_ports;
use super::{RollError, RollRun};
use crate::model::api::RunRequest;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::roll::Work;
use crate::ops::fleet::hooks::{Hook, find_lines};
use crate::ops::fleet::port_conflicts::find_private_refusals;
use crate::ops::fleet::{forward, reach};
use crate::plan::roll::programs::find_required_programs;
use crate::world::commands::{CommandError, is_path};

/// A program on a file system that does not answer is not known to be missing.
const PROGRAM_TIMEOUT_MS: u64 = 10_000;
/// Exits with 0 if the program of its first argument can be started.
const FIND_PROGRAM: &str =
    r#"case $1 in */*) test -f "$1" && test -x "$1";; *) command -v -- "$1" >/dev/null;; esac"#;

impl RollRun<'_> {
    /// Runs every check of a new roll; `--dry-run` has the same. Returns the refusals that `--force` overrides.
    pub(super) async fn check_start(&self) -> Result<Vec<String>, RollError> {
        self.check_programs().await?;
        self.check_server_names(&self.plan.spec.hosts.iter().collect::<Vec<_>>()).await?;
        self.check_reachable().await?;
        self.check_owners().await?;
        let first: Vec<&HostName> = self.plan.batches[0].iter().collect();
        let refusals = self.find_refusals(&first).await;
        if !refusals.is_empty() {
            return Err(RollError::Refused { refusals });
        }
        let overridden = self.check_overridable(&self.hosts).await;
        let overridden = overridden.map_err(|refusals| RollError::Refused { refusals })?;
        if matches!(self.plan.spec.work, Work::Command { .. }) {
            warn_of_routed_ports(self.world, self.fleet, &self.hosts).await;
        }
        Ok(overridden)
    }

    /// More hosts out of reach than may fail make the roll pointless.
    pub(super) async fn check_reachable(&self) -> Result<(), RollError> {
        let greet = self.hosts.iter().map(async |host| {
            let link = reach::find_link(self.world, host)?;
            link.greet().await
        });
        let answers = futures_util::future::join_all(greet).await;
        let unreachable: Vec<(HostName, String)> = self
            .hosts
            .iter()
            .zip(answers)
            .filter_map(|(host, answer)| answer.err().map(|error| (host.name.clone(), error.to_string())))
            .collect();
        let allowed = usize::try_from(self.plan.spec.max_failures).unwrap_or(usize::MAX);
        if unreachable.len() > allowed { Err(RollError::Unreachable { hosts: unreachable }) } else { Ok(()) }
    }

    /// A host without server lines, or where the service is private, would stop the roll when its turn comes, with the hosts
    /// before it done.
    pub(super) async fn check_server_names(&self, hosts: &[&HostName]) -> Result<(), RollError> {
        let mut refusals = forward::find_missing_servers(self.world, self.fleet, hosts).await;
        let of_roll: Vec<Host> =
            self.hosts.iter().filter(|host| hosts.contains(&&host.name)).cloned().collect();
        refusals.extend(find_private_refusals(self.world, self.fleet, &of_roll).await);
        if refusals.is_empty() { Ok(()) } else { Err(RollError::Refused { refusals }) }
    }

    /// A program that cannot be started would be found with the first host out of service.
    pub(super) async fn check_programs(&self) -> Result<(), RollError> {
        for hook in Hook::ALL {
            for line in find_lines(self.fleet, hook) {
                let argv = ["sh", "-c", line].map(str::to_owned);
                let what = || format!("hook {} `{line}`", hook.as_str());
                self.check_local_programs(&argv).map_err(|source| not_startable(what(), &source))?;
            }
        }
        match &self.plan.spec.work {
            Work::Command { argv, remote: false, .. } => self
                .check_local_programs(argv)
                .map_err(|source| not_startable("the command".to_owned(), &source)),
            Work::Command { argv, remote: true, .. } => {
                let checks = self.hosts.iter().map(|host| self.check_remote_programs(host, argv));
                futures_util::future::try_join_all(checks).await.map(drop)
            }
            Work::Assign(_) => Ok(()),
        }
    }

    fn check_local_programs(&self, argv: &[String]) -> Result<(), CommandError> {
        find_required_programs(argv)
            .into_iter()
            .try_for_each(|program| self.world.commands.check_startable(program))
    }

    /// The programs of a host that does not answer are not known.
    async fn check_remote_programs(&self, host: &Host, argv: &[String]) -> Result<(), RollError> {
        for program in find_required_programs(argv) {
            let request = RunRequest {
                key: format!("{}-{}-preflight", self.id, host.name),
                argv: ["sh", "-c", FIND_PROGRAM, "sh", program].map(str::to_owned).to_vec(),
                env: BTreeMap::new(),
                dir: None,
                timeout_ms: Some(PROGRAM_TIMEOUT_MS),
            };
            let silent = std::sync::Arc::new(|_: &str| {});
            let found = async { reach::find_link(self.world, host)?.run(&request, silent).await }.await;
            if found.is_ok_and(|end| end.status != 0 && !end.timed_out) {
                let source = CommandError::Missing { program: program.to_owned() };
                return Err(not_startable(format!("the command on `{}`", host.name), &source));
            }
        }
        Ok(())
    }
}

fn not_startable(what: String, source: &CommandError) -> RollError {
    let reason = match source {
        CommandError::Missing { program } if is_path(program) => {
            format!("there is no program file `{program}`")
        }
        source => source.to_string(),
    };
    RollError::NotStartable { what, reason }
}
