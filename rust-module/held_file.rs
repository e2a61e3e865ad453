// SPDX-License-Identifier: GPL-2.0

//! A counted reference to an open file.
//!
//! The `kernel` crate's `File` cannot be had from a descriptor that was opened with `O_PATH`, nor
//! be moved between tasks; both are needed here, and nothing else of it is.

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// The backing device takes pages that were written back; see `include/linux/backing-dev.h`.
const BDI_CAP_WRITEBACK: u32 = 1 << 0;

/// One reference to a `struct file`.
///
/// # Invariants
///
/// `self.0` points to a valid file, one of whose references is owned by this object.
pub(crate) struct HeldFile(NonNull<bindings::file>);

// SAFETY: A reference to a file can be used and dropped by any task.
unsafe impl Send for HeldFile {}

// SAFETY: `HeldFile` gives shared access to nothing but the pointer.
unsafe impl Sync for HeldFile {}

impl HeldFile {
    /// Takes a reference to what the calling task has open as `fd`, `O_PATH` included.
    ///
    /// Fails with `EBADF` if nothing is open there.
    pub(crate) fn from_fd(fd: u32) -> Result<Self> {
        // SAFETY: `fget_raw()` may be called with any number.
        let file = unsafe { bindings::fget_raw(fd) };
        // INVARIANT: `fget_raw()` returns a reference that is ours, or null.
        NonNull::new(file).map(Self).ok_or(EBADF)
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `file` must be valid, and the caller must own one reference, which it gives up.
    pub(crate) unsafe fn from_owned(file: NonNull<bindings::file>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(file)
    }

    /// Takes one more reference to a file.
    ///
    /// # Safety
    ///
    /// `file` must be valid and must have a reference that outlives this call.
    pub(crate) unsafe fn new_ref(file: NonNull<bindings::file>) -> Self {
        // SAFETY: By the safety requirements the file is valid and its count is not zero.
        unsafe { bindings::get_file(file.as_ptr()) };
        // INVARIANT: The reference was just taken.
        Self(file)
    }

    /// The file, valid for as long as `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// The file's inode, valid for as long as `self` lives.
    pub(crate) fn inode(&self) -> *mut bindings::inode {
        // SAFETY: By the type invariant the file is valid; its inode never changes.
        unsafe { (*self.as_ptr()).f_inode }
    }

    /// Whether writes through shared mappings move the file's times.
    ///
    /// They do where pages are written back, for which the first write to each has to be noticed.
    /// On tmpfs and its like it need not be.
    pub(crate) fn mapped_writes_show(&self) -> bool {
        // SAFETY: By the type invariant the file is valid, and with it its mapping, the inode that
        // the mapping belongs to, its superblock, and the backing device, which there always is.
        let capabilities = unsafe {
            let inode = (*(*self.as_ptr()).f_mapping).host;
            (*(*(*inode).i_sb).s_bdi).capabilities
        };
        capabilities & BDI_CAP_WRITEBACK != 0
    }

    /// Where the file lies, valid for as long as `self` lives.
    pub(crate) fn path(&self) -> *const bindings::path {
        // SAFETY: By the type invariant the file is valid; `f_path` never changes while it is open.
        unsafe { &raw const (*self.as_ptr()).__bindgen_anon_1.f_path }
    }
}

impl Clone for HeldFile {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariant the file is valid and `self` has a reference.
        unsafe { Self::new_ref(self.0) }
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours to drop.
        unsafe { bindings::fput(self.as_ptr()) };
    }
}
