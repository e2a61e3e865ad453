// SPDX-License-Identifier: GPL-2.0

//! A string whose memory is charged to the task that asked for it.
//!
//! The `kernel` crate's `CString` does not say where its memory comes from; what a template or a
//! waiting child keeps must count against the caller's memory cgroup.

use kernel::prelude::*;

/// An owned NUL-terminated string.
///
/// # Invariants
///
/// The bytes end with a NUL and contain no other.
pub(crate) struct UserString(KVec<u8>);

impl UserString {
    /// Copies `string`.
    pub(crate) fn new(string: &CStr) -> Result<Self> {
        Self::joined(c"", string)
    }

    /// Copies one string and another one behind it.
    pub(crate) fn joined(first: &CStr, second: &CStr) -> Result<Self> {
        let (first, second) = (first.to_bytes(), second.to_bytes_with_nul());
        let mut bytes = KVec::with_capacity(first.len() + second.len(), GFP_KERNEL_ACCOUNT)?;
        bytes.extend_from_slice(first, GFP_KERNEL_ACCOUNT)?;
        bytes.extend_from_slice(second, GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: A `CStr` has no NUL but the last one, which was left out of the first.
        Ok(Self(bytes))
    }

    /// How much memory it takes beyond the object itself, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.0.capacity()
    }
}

impl core::ops::Deref for UserString {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        // SAFETY: By the type invariant.
        unsafe { CStr::from_bytes_with_nul_unchecked(&self.0) }
    }
}
