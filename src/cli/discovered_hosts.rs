//! Hosts of sources outside the configuration, over the time of a roll: a resume takes the recorded ones.

use std::path::PathBuf;

use super::Context;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::roll::RollSpec;
use crate::ops::fleet::roll;
use crate::plan::discovery::{add_recorded_hosts, describe_change};
use crate::world::reporter::{Event, Reporter as _};

impl Context {
    /// Loads the configuration with the hosts that the last roll recorded. No source is read: it may be out of reach, and may
    /// list other hosts by now.
    pub(super) async fn load_recorded_config(&self) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = self.load_written_config()?;
        if fleet.discovery.is_empty() {
            return Ok((file, fleet));
        }
        let world = self.build_fleet_world(&file, &fleet, &[]);
        let recorded = roll::read_last(&world).await?.map(|progress| progress.spec.found_hosts);
        match recorded {
            Some(recorded) if !recorded.is_empty() => {
                let hosts = add_recorded_hosts(&fleet.hosts, recorded);
                Ok((file, Fleet { hosts, ..fleet }))
            }
            // It began before the configuration named a source.
            _ => self.load_config().await,
        }
    }

    /// Reports the hosts that appeared at the sources or vanished from them since a roll began. What cannot be read now is
    /// reported too: the roll has ended all the same.
    pub(super) async fn report_host_changes(&self, spec: &RollSpec) {
        if spec.found_hosts.is_empty() {
            return;
        }
        let text = match self.load_config().await {
            Ok((_, fleet)) => {
                let names =
                    |hosts: &[Host]| hosts.iter().map(|host| host.name.clone()).collect::<Vec<HostName>>();
                let change = describe_change(&names(&spec.found_hosts), &names(&fleet.hosts));
                let Some(change) = change else { return };
                format!("the hosts have changed since the roll began: {change}")
            }
            Err(failure) => format!("it is not known which hosts appeared since the roll began: {failure}"),
        };
        self.renderer.report(&Event::Warning { text });
    }
}
