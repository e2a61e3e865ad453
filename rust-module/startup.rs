// SPDX-License-Identifier: GPL-2.0

//! What is known of the pages that a program uses when it starts.

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// What some children teach and others use; see `mm/startup_pages.c`.
///
/// # Invariants
///
/// The pointer was returned by `startup_pages_alloc()`, and one reference is owned by this object.
pub(crate) struct StartupPages(NonNull<bindings::startup_pages>);

// SAFETY: A reference may be dropped by any task.
unsafe impl Send for StartupPages {}

// SAFETY: What is done by a shared reference, attaching and counting, is synchronized.
unsafe impl Sync for StartupPages {}

impl StartupPages {
    /// Nothing is known yet; `ENOMEM` if there is no memory for it.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called wherever sleeping is allowed, as it is in system calls.
        let pages = unsafe { bindings::startup_pages_alloc() };
        // INVARIANT: Just returned, with a reference.
        NonNull::new(pages).map(Self).ok_or(ENOMEM)
    }

    /// The form exec takes it in, valid for as long as `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut bindings::startup_pages {
        self.0.as_ptr()
    }

    /// How many pages are known; 0 until a child that was learned from has ended.
    pub(crate) fn count(&self) -> u32 {
        // SAFETY: By the type invariant the pointer is valid.
        unsafe { bindings::startup_pages_count(self.0.as_ptr()) }
    }
}

/// How much memory it takes to know them, at most, in bytes.
pub(crate) fn size() -> usize {
    // SAFETY: Has no requirements.
    unsafe { bindings::startup_pages_size() }
}

impl Drop for StartupPages {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours to drop.
        unsafe { bindings::startup_pages_put(self.0.as_ptr()) };
    }
}
