//! Booting a guest.

use anyhow::Result;

use crate::context::{Accel, Context};

/// Which accelerator a guest gets, and why.
pub fn accelerator(ctx: &Context) -> Result<(Accel, String)> {
    Ok((ctx.accel.unwrap_or(Accel::Tcg), "not probed yet".into()))
}
