// SPDX-License-Identifier: GPL-2.0

//! The signals that come while a fork is under way.

use core::{
    marker::PhantomPinned,
    pin::Pin, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// Collects the signals that are sent to many processes, for the child of the calling task.
///
/// # Invariants
///
/// If `begun`, `fork_signals_begin()` was called with `raw` by the calling task, with success, and
/// `fork_signals_end()` not yet.
pub(crate) struct ForkSignals {
    raw: Opaque<bindings::multiprocess_signals>,
    begun: bool,
    /// The task's list of collectors points here.
    _pin: PhantomPinned,
}

impl ForkSignals {
    /// One that collects nothing yet.
    pub(crate) fn new() -> Self {
        // INVARIANT: Not begun.
        Self {
            raw: Opaque::uninit(),
            begun: false,
            _pin: PhantomPinned,
        }
    }

    /// Begins; `ERESTARTNOINTR` if a signal is pending, which has to be delivered first.
    ///
    /// What comes later does not make the fork start over.
    pub(crate) fn begin(self: Pin<&mut Self>) -> Result {
        // SAFETY: Nothing is moved out.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: `raw` can be written to, and stays where it is until `drop`.
        to_result(unsafe { bindings::fork_signals_begin(this.raw.get()) })?;
        // INVARIANT: Just called, with success.
        this.begun = true;
        Ok(())
    }

    /// For `kernel_spawn()`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::multiprocess_signals {
        self.raw.get()
    }
}

impl Drop for ForkSignals {
    fn drop(&mut self) {
        if self.begun {
            // SAFETY: By the type invariant; it is a local variable of the task that has begun.
            unsafe { bindings::fork_signals_end(self.raw.get()) };
        }
    }
}
