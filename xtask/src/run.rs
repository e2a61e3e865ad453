//! `run`: one command in a guest.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct RunArgs {}

/// `run`
pub fn main(_ctx: &Context, _args: RunArgs) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
