// SPDX-License-Identifier: GPL-2.0

//! An executable, opened the way exec opens it.

use crate::held_file::HeldFile;
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// A file opened for execution; writes to it are denied while this exists.
///
/// # Invariants
///
/// The file was returned by `open_exec_at()` or `open_exec_path()` and not yet given to
/// `close_exec()`.
pub(crate) struct ExecFile(ManuallyDrop<HeldFile>);

impl ExecFile {
    /// Opens what execveat(2) would execute, with its permission checks, security hooks and errors.
    pub(crate) fn open(fd: c_int, path: &CStr, flags: u32) -> Result<Self> {
        // SAFETY: `path` is a valid NUL-terminated string; any numbers will do.
        let file = from_err_ptr(unsafe {
            bindings::open_exec_at(fd, path.as_char_ptr(), flags as c_int)
        })?;
        // SAFETY: `open_exec_at()` returned this file.
        unsafe { Self::from_raw(file) }
    }

    /// Opens the file that `file` is, as execveat(2) with `AT_EMPTY_PATH` does.
    pub(crate) fn reopen(file: &HeldFile) -> Result<Self> {
        // SAFETY: The path is valid for as long as `file` lives.
        let file = from_err_ptr(unsafe { bindings::open_exec_path(file.path()) })?;
        // SAFETY: `open_exec_path()` returned this file.
        unsafe { Self::from_raw(file) }
    }

    /// # Safety
    ///
    /// `file` must have been returned by `open_exec_at()` or `open_exec_path()`, without error, and
    /// is given up by the caller.
    unsafe fn from_raw(file: *mut bindings::file) -> Result<Self> {
        let file = NonNull::new(file).ok_or(EINVAL)?;
        // SAFETY: By the safety requirements the reference is the caller's to give.
        let file = unsafe { HeldFile::from_owned(file) };
        // INVARIANT: By the safety requirements.
        Ok(Self(ManuallyDrop::new(file)))
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &HeldFile {
        &self.0
    }

    /// One more reference to the file, one that does not deny writes.
    pub(crate) fn hold(&self) -> HeldFile {
        // SAFETY: By the type invariant the file is valid, and `self` keeps it so.
        unsafe { HeldFile::new_ref(NonNull::new_unchecked(self.0.as_ptr())) }
    }

    /// Hands the file over to exec, which closes it.
    pub(crate) fn into_raw(self) -> *mut bindings::file {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Reads exactly `buf.len()` bytes from `offset`; `ENOEXEC` if the file ends before.
    pub(crate) fn read_exact(&self, buf: &mut [u8], offset: u64) -> Result {
        if self.read(buf, offset)? != buf.len() {
            return Err(ENOEXEC);
        }
        Ok(())
    }

    /// Reads up to `buf.len()` bytes from `offset`, fewer only at the end of the file.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut pos = bindings::loff_t::try_from(offset).map_err(|_| ENOEXEC)?;
        let mut done = 0;

        while done < buf.len() {
            let rest = &mut buf[done..];
            // SAFETY: The file is valid by the type invariant, and `rest` is as long as stated.
            let n = unsafe {
                bindings::kernel_read(
                    self.0.as_ptr(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    &mut pos,
                )
            };
            match usize::try_from(n) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) => return Err(Error::from_errno(n as c_int)),
            }
        }
        Ok(done)
    }
}

impl Drop for ExecFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the file is still to be given to `close_exec()`, which
        // also drops the reference.
        unsafe { bindings::close_exec(self.0.as_ptr()) };
    }
}
