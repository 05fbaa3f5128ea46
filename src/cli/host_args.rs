//! The flag `--host`, with the same meaning for every command.

use clap::Args;

use crate::model::name::HostName;
use crate::plan::host_selection::HostSelection;

#[derive(Debug, Default, Args)]
pub struct HostArgs {
    /// Act on this host only; may be given several times [default: every host]
    #[arg(id = "hosts", long = "host", value_name = "HOST")]
    named: Vec<HostName>,
}

impl HostArgs {
    /// Returns the named hosts, or the default of the command if none is named.
    pub(super) fn select_or(&self, default: HostSelection<'static>) -> HostSelection<'_> {
        if self.named.is_empty() { default } else { HostSelection::Named(&self.named) }
    }
}
