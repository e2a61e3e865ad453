//! The results for programs. The first four fields are agreed; whatever else there is lies beside them.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::report::{Machine, Sample, Unit};
use super::scaling::Block;
use super::sizes::Size;
use crate::cmd::read_file;

/// Everything that a run has measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// The kernel's release.
    pub kernel: String,
    /// The accelerator's name.
    pub accel: String,
    /// What the figures count.
    pub unit: Unit,
    /// What a start costs.
    pub results: Vec<Sample>,
    /// The guest as it sees itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// What a start costs over the caller's memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<Size>,
    /// What several callers come to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<Block>,
}

impl Document {
    /// The document as a file's content.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads what an earlier run has written.
    pub fn read(path: &Path) -> Result<Self> {
        let document = serde_json::from_str(&read_file(path)?);
        document.with_context(|| {
            format!("{} holds no results\n  next: write them with cargo xtask bench --json FILE", path.display())
        })
    }
}
