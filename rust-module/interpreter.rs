// SPDX-License-Identifier: GPL-2.0

//! The program interpreter's ELF headers.
//!
//! exec opens the interpreter of a program each time, and so does a spawn: the checks and hooks of
//! that are everybody's. What is read from it is known beforehand, if it still is the same file.

use crate::{
    elf::Headers,
    exec_file::ExecFile,
    held_file::HeldFile,
    identity::Identity, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// An interpreter, as it was when the template was made.
pub(crate) struct Interpreter {
    /// Keeps the inode, so that no other file gets its address or number.
    file: HeldFile,
    identity: Identity,
    headers: Headers,
}

impl Interpreter {
    /// Reads the headers of the interpreter at `path`.
    ///
    /// Fails with the errors of execve(2), with `ENOEXEC` for what is no native ELF file, and with
    /// `ESTALE` for a file whose next change might not show. A spawn then does what exec does.
    pub(crate) fn read(path: &CStr) -> Result<Self> {
        // Writes are denied from before the identity is taken until the headers have been read.
        let file = ExecFile::open(bindings::AT_FDCWD, path, 0)?;
        let identity = Identity::of(file.file())?;
        if !identity.is_settled(file.file())
            || !identity.shows_each_change(file.file())
            || !file.file().mapped_writes_show()
        {
            return Err(ESTALE);
        }
        let headers = Headers::read(&file, identity.size())?;

        Ok(Self {
            file: file.hold(),
            identity,
            headers,
        })
    }

    /// How much memory it takes beyond the object itself, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.headers.memory()
    }
}

/// What exec is told about an interpreter.
///
/// # Invariants
///
/// `raw` describes the headers of `interpreter`.
#[repr(C)]
pub(crate) struct Known<'a> {
    raw: bindings::bprm_interp,
    interpreter: &'a Interpreter,
}

impl<'a> Known<'a> {
    /// The form exec takes it in.
    pub(crate) fn new(interpreter: &'a Interpreter) -> Self {
        let headers = &interpreter.headers;
        // INVARIANT: The headers are those of the interpreter, which are never changed.
        Self {
            raw: bindings::bprm_interp {
                ehdr: headers.head().as_ptr().cast(),
                phdrs: headers.phdrs().as_ptr().cast(),
                phdrs_size: headers.phdrs().len(),
                is_known: Some(Self::is_known),
            },
            interpreter,
        }
    }

    /// The part that exec sees, valid for as long as `self` lives.
    pub(crate) fn as_ptr(&self) -> *const bindings::bprm_interp {
        core::ptr::from_ref(self).cast()
    }

    /// Says whether the interpreter that was opened is the one that was read.
    ///
    /// # Safety
    ///
    /// `raw` must come from [`Known::as_ptr`], and `file` must be valid.
    unsafe extern "C" fn is_known(
        raw: *const bindings::bprm_interp,
        file: *mut bindings::file,
    ) -> bool {
        // SAFETY: By the safety requirements this is a `Known`, of which `raw` is the first field.
        let known = unsafe { &*raw.cast::<Self>() };
        let Some(file) = NonNull::new(file) else {
            return false;
        };
        // SAFETY: The caller has a reference, by which the file is valid.
        let file = unsafe { HeldFile::new_ref(file) };
        let interpreter = known.interpreter;
        file.inode() == interpreter.file.inode()
            && Identity::of(&file).ok() == Some(interpreter.identity)
    }
}
