//! The programs that run in the guest.

use anyhow::Result;

use crate::context::Context;

/// Where the guest's programs are.
pub struct Programs {}

/// Builds the guest's programs.
pub fn ensure(_ctx: &Context) -> Result<Programs> {
    anyhow::bail!("not written yet")
}
