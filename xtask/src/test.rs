//! `test`: the test suite in a guest.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct TestArgs {}

/// `test`
pub fn main(_ctx: &Context, _args: TestArgs) -> Result<ExitCode> {
    anyhow::bail!("not written yet")
}
