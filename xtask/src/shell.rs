//! `shell`: an interactive guest.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Arguments of `shell`.
#[derive(clap::Args)]
pub struct ShellArgs {}

/// `shell`
pub fn main(_ctx: &Context, _args: ShellArgs) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
