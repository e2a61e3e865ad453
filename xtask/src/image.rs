//! The guest's userland.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// `image`
pub fn main(ctx: &Context) -> Result<ExitCode> {
    println!("{}", base_image(ctx)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns the ext4 image, after building it when the cache has none.
pub fn base_image(_ctx: &Context) -> Result<PathBuf> {
    anyhow::bail!("not written yet")
}
