//! The kernel: patched source, configuration, build.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Which kernel.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// With our patches
    Patched,
    /// The same source and configuration without them
    Upstream,
}

/// A kernel that is built.
pub struct Kernel {
    /// Which one.
    pub flavor: Flavor,
    /// What names it in the cache; changes whenever the kernel does.
    pub key: String,
    /// What QEMU boots.
    pub bzimage: PathBuf,
    /// The addresses of its functions.
    pub system_map: PathBuf,
    /// The configuration it was built with.
    pub config: PathBuf,
    /// What `uname -r` says.
    pub release: String,
}

/// `kernel`
pub fn main(ctx: &Context, flavor: Flavor) -> Result<ExitCode> {
    println!("{}", ensure(ctx, flavor)?.bzimage.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns the kernel, after building it when the cache has none.
pub fn ensure(_ctx: &Context, _flavor: Flavor) -> Result<Kernel> {
    anyhow::bail!("not written yet")
}
