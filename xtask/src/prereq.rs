//! What must be installed, and installing it.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Makes sure that everything a build and a guest need is there.
pub fn ensure(_ctx: &Context) -> Result<()> {
    Ok(())
}

/// `doctor`
pub fn doctor(_ctx: &Context) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
