//! The module, built out of tree against the patched kernel.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;
use crate::kernel::Kernel;

/// Arguments of `module`.
#[derive(clap::Args)]
pub struct ModuleArgs {
    /// Check formatting and run clippy as well
    #[arg(long)]
    pub lint: bool,
}

/// `module`
pub fn main(_ctx: &Context, _args: ModuleArgs) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}

/// Returns spawn_template.ko for `kernel`, after building it when the cache has none.
pub fn ensure(_ctx: &Context, _kernel: &Kernel) -> Result<PathBuf> {
    anyhow::bail!("not written yet")
}
