//! What the guest is to do: the file xtask writes into the payload.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the job is described.
pub const PATH: &str = "/payload/job.json";

/// Where the kernel module lies when the job wants it.
pub const MODULE: &str = "/payload/spawn_template.ko";

/// One command and its surroundings.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// Program and arguments; a program without a slash is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment of the command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of the command.
    pub cwd: PathBuf,
    /// Whether to load the module first.
    #[serde(default)]
    pub module: bool,
    /// A terminal the command gets as its controlling one, instead of the ports.
    #[serde(default)]
    pub tty: Option<Tty>,
}

/// A terminal and its size.
#[derive(Debug, Deserialize)]
pub struct Tty {
    /// Name below `/dev`.
    pub name: String,
    /// Height in characters.
    pub rows: u16,
    /// Width in characters.
    pub columns: u16,
}
