//! `supervise`: the supervisor processes of an instance. switchman starts it; operators never type it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::render::Renderer;
use super::world_params::WorldFactory;
use crate::error::{ExitStatus, Failure};
use crate::world::runner;

#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The instance's directory
    dir: PathBuf,
    #[arg(long, value_enum, default_value_t = SupervisorRole::Launch)]
    role: SupervisorRole,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SupervisorRole {
    Launch,
    Monitor,
    Exec,
}

pub fn run(args: &SuperviseArgs, world_factory: WorldFactory, render: &Renderer) -> ExitStatus {
    let role = match args.role {
        SupervisorRole::Launch => runner::SupervisorRole::Launch,
        SupervisorRole::Monitor => runner::SupervisorRole::Monitor,
        SupervisorRole::Exec => runner::SupervisorRole::Exec,
    };
    match (world_factory.supervise)(&args.dir, role) {
        Ok(()) => ExitStatus::Success,
        Err(reason) => render.print_failure(&Failure::Supervision { reason }),
    }
}
