// SPDX-License-Identifier: GPL-2.0

//! What the child does, in the child: its descriptor table, the actions, exec.
//!
//! Everything here works on the calling task, which is the child, has never been in user mode and
//! shares its descriptor table with nobody.

use crate::{
    held_file::HeldFile,
    plan::{
        Base,
        Plan,
        Source,
        Stdio,
        Step,
        UNBLOCKABLE, //
    },
    spawn::Bprm,
    template::Template, //
};
use core::{
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// Carries the plan out and execs. After an error the task must exit.
pub(crate) fn run(plan: &Plan, bprm: Bprm, template: &Template) -> Result {
    // A signal to the process group must not interrupt an action; it is the program's to take.
    let mut mask = block_signals();

    if !plan.inherit {
        // SAFETY: The child was born without a descriptor table.
        to_result(unsafe { bindings::init_empty_files() })?;
        for (fd, stdio) in (0..).zip(&plan.stdio) {
            if let Some(Stdio { file, cloexec }) = stdio {
                install(file, fd, *cloexec)?;
            }
        }
    }
    for step in &plan.steps {
        match step {
            Step::SigMask(signals) => mask = sigset(*signals),
            step => step.run()?,
        }
        // SAFETY: The child holds no lock. A file that a step closed is closed now, not after exec.
        unsafe { bindings::task_work_run() };
    }
    set_blocked(&mut mask);
    bprm.exec(template.open()?, template.image())
}

impl Step {
    fn run(&self) -> Result {
        match self {
            Step::Close { fd } => {
                // SAFETY: May be called with any number. As in posix_spawn(), closing what is not
                // open is no error, nor is a failure to write back.
                unsafe { bindings::close_fd(*fd) };
                Ok(())
            }
            Step::Dup {
                source: Source::Child(fd),
                newfd,
                ..
            } if fd == newfd => {
                HeldFile::from_fd(*fd)?;
                // SAFETY: `fd` is open, and nobody else uses the table.
                unsafe { bindings::set_close_on_exec(*fd, 0) };
                Ok(())
            }
            Step::Dup {
                source,
                newfd,
                cloexec,
            } => source.with(|file| install(file, *newfd, *cloexec)),
            Step::Chdir { dir } => dir.with(|dir| {
                // SAFETY: `dir` is a valid file.
                to_result(unsafe { bindings::fs_chdir_file(dir.as_ptr()) })
            }),
            Step::Open {
                base,
                path,
                how,
                newfd,
            } => {
                let file = open(base, path, how)?;
                install(
                    &file,
                    *newfd,
                    how.flags & u64::from(bindings::O_CLOEXEC) != 0,
                )
            }
            Step::CloseRange { first, last, flags } => {
                // SAFETY: May be called with any numbers.
                to_result(unsafe { bindings::ksys_close_range(*first, *last, *flags) })
            }
            // Takes effect after the last step.
            Step::SigMask(_) => Ok(()),
            Step::SigDefault(signals) => {
                for signal in (1..=64).filter(|signal| signals >> (signal - 1) & 1 != 0) {
                    // SAFETY: `signal` is a signal number, and a null handler is `SIG_DFL`.
                    unsafe { bindings::kernel_sigaction(signal, None) };
                }
                Ok(())
            }
        }
    }
}

impl Source {
    /// Calls `f` with the file.
    fn with<T>(&self, f: impl FnOnce(&HeldFile) -> Result<T>) -> Result<T> {
        match self {
            Source::Child(fd) => f(&HeldFile::from_fd(*fd)?),
            Source::Caller(file) => f(file),
            Source::NotOpen => Err(EBADF),
        }
    }
}

/// The set of the signals whose bits are set in `signals`.
fn sigset(signals: u64) -> bindings::sigset_t {
    bindings::sigset_t {
        sig: [signals as usize],
    }
}

/// Blocks what can be blocked, and returns what was blocked before.
fn block_signals() -> bindings::sigset_t {
    let mut all = sigset(!UNBLOCKABLE);
    let mut before = sigset(0);
    // SAFETY: Both sets are valid, and the first holds no signal that cannot be blocked. `how` is
    // valid, so the call does not fail.
    unsafe { bindings::sigprocmask(bindings::SIG_SETMASK as c_int, &mut all, &mut before) };
    before
}

/// Sets the blocked signals.
fn set_blocked(mask: &mut bindings::sigset_t) {
    // SAFETY: The set is valid; it was in force before or has been checked by the plan, so it holds
    // no signal that cannot be blocked. `how` is valid, so the call does not fail.
    unsafe { bindings::sigprocmask(bindings::SIG_SETMASK as c_int, mask, core::ptr::null_mut()) };
}

/// Puts one more reference to `file` into the table as `fd`, in the place of what is there.
///
/// `EBADF` if `fd` is not below `RLIMIT_NOFILE`.
fn install(file: &HeldFile, fd: u32, cloexec: bool) -> Result {
    let flags = if cloexec { bindings::O_CLOEXEC } else { 0 };
    // SAFETY: The file is valid, and the child has a table.
    to_result(unsafe { bindings::replace_fd(fd, file.as_ptr(), flags) })
}

/// Opens a file, as openat2(2).
fn open(base: &Base, path: &CStr, how: &bindings::open_how) -> Result<HeldFile> {
    let open_at = |fd: c_int| {
        // SAFETY: `path` is a valid string and `how` a valid structure.
        let file = from_err_ptr(unsafe { bindings::file_open_how(fd, path.as_char_ptr(), how) })?;
        // SAFETY: The file is valid, and the reference is ours.
        Ok(unsafe { HeldFile::from_owned(NonNull::new_unchecked(file)) })
    };

    match base {
        Base::Cwd => open_at(bindings::AT_FDCWD),
        Base::Dir(Source::NotOpen) => Err(EBADF),
        Base::Dir(Source::Child(fd)) => open_at(*fd as c_int),
        Base::Dir(Source::Caller(dir)) => {
            // A path walk starts from a descriptor only, so the directory gets one meanwhile.
            let fd = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
            let number = fd.reserved_fd();
            fd.fd_install(dir.to_aref());
            let opened = open_at(number as c_int);
            // SAFETY: The number was just installed, and nobody else uses the table.
            unsafe { bindings::close_fd(number) };
            opened
        }
    }
}

impl HeldFile {
    /// One more reference, in the type that the `kernel` crate installs.
    fn to_aref(&self) -> ARef<File> {
        // SAFETY: The file is valid as long as `self` lives, and is not in use by an fdget_pos()
        // of this task, which has been in no system call yet.
        let file = unsafe { File::from_raw_file(self.as_ptr()) };
        file.into()
    }
}
