//! The patch series: checking it, and rewriting it from an edited tree.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// `patches ...`
#[derive(clap::Subcommand)]
pub enum PatchesCommand {
    /// Check that the series applies to the pristine tree, that each patch builds and that checkpatch.pl is content
    Check,
    /// Rewrite the patch files from the commits of an edited git tree
    Refresh {
        /// The git tree whose commits become the series
        tree: PathBuf,
    },
}

/// `patches`
pub fn main(_ctx: &Context, _command: PatchesCommand) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
