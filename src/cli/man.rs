//! `man`: built from the same definitions as the help texts, so that both agree.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man;

use super::Context;
use super::failure::{fail_file, fail_system};
use crate::error::Failure;

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write switchman.1 and a page per command here, instead of printing switchman.1
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: &ManArgs, command: Command, context: &Context) -> Result<(), Failure> {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).map_err(fail_file("write", dir))?;
        return clap_mangen::generate_to(command, dir).map_err(fail_file("write", dir));
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(fail_system("print the manual page"))?;
    context.renderer.print_text(&String::from_utf8_lossy(&page));
    Ok(())
}
