//! The results for programs. The first four fields are agreed; whatever else there is lies beside them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::report::{Machine, Sample, Unit};
use super::scaling::Block;

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
    /// What several callers come to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<Block>,
}

impl Document {
    /// The document as a file's content.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
