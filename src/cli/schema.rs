//! `schema`.

use super::Context;
use crate::config::file;
use crate::error::Failure;

pub fn run(context: &Context) -> Result<(), Failure> {
    context.render.text(&format!("{:#}\n", file::schema()));
    Ok(())
}
