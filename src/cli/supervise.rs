//! `supervise`: the processes behind an instance. Nobody types it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Connector;
use super::render::Render;
use crate::error::{Code, Failure};
use crate::world::runner;

#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The instance's directory
    dir: PathBuf,
    #[arg(long, value_enum, default_value_t = Part::Launch)]
    part: Part,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    Launch,
    Keep,
    Become,
}

pub fn run(args: &SuperviseArgs, connect: Connector, render: &Render) -> Code {
    let part = match args.part {
        Part::Launch => runner::Part::Launch,
        Part::Keep => runner::Part::Keep,
        Part::Become => runner::Part::Become,
    };
    match (connect.supervise)(&args.dir, part) {
        Ok(()) => Code::Done,
        Err(why) => render.failure(&Failure::Other { what: "keep the instance".into(), why }),
    }
}
