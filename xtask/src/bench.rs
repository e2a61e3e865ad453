//! `bench`: the latency table.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct BenchArgs {}

/// `bench`
pub fn main(_ctx: &Context, _args: BenchArgs) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
