//! `world::runner`: systemd where it is process 1, else a supervisor of our own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::deployment::{InstanceId, InstanceSpec, Process};
use crate::world::link::Heard;
use crate::world::runner::{Ended, Runner, RunnerError};

/// The runner of this machine; `state_dir` is switchman's own.
pub fn here(_state_dir: &Path) -> Arc<dyn Runner> {
    Arc::new(Missing)
}

struct Missing;

#[async_trait]
impl Runner for Missing {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        Err(RunnerError::Failed { what: "start", instance: spec.id.clone(), why: "not built yet".to_owned() })
    }

    async fn stop(&self, _: &InstanceId, _: Duration) -> Result<Ended, RunnerError> {
        Ok(Ended::Already)
    }

    async fn state(&self, instance: &InstanceId) -> Result<Process, RunnerError> {
        Err(RunnerError::Unknown { instance: instance.clone() })
    }

    async fn known(&self) -> Result<Vec<InstanceId>, RunnerError> {
        Ok(vec![])
    }

    async fn logs(&self, _: &InstanceId, _: Option<u32>, _: bool, _: Heard) -> Result<(), RunnerError> {
        Ok(())
    }

    async fn forget(&self, _: &InstanceId) -> Result<(), RunnerError> {
        Ok(())
    }
}
