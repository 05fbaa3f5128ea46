//! `schema`.

use super::Context;
use crate::config::file;
use crate::error::Failure;

pub fn run(context: &Context) -> Result<(), Failure> {
    context.renderer.print_text(&format!("{:#}\n", file::build_schema()));
    Ok(())
}
