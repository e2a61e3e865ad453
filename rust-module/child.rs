// SPDX-License-Identifier: GPL-2.0

//! What the child does, in the child: its descriptor table, the actions, exec.
//!
//! Everything here works on the calling task, which is the child, has never been in user mode and
//! shares its descriptor table with nobody.

use crate::{
    action::{
        Base,
        Source,
        Step, //
    },
    held_file::HeldFile,
    outcome::{
        At,
        Failure,
        Stage, //
    },
    plan::{
        Plan,
        Stdio, //
    },
    spawn::Bprm,
    template::Template, //
};
use core::ptr::NonNull;
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
///
/// `spawn` is what `kernel_spawn()` was given.
pub(crate) fn run(
    plan: Plan,
    bprm: Bprm,
    template: &Template,
    spawn: *const bindings::kernel_spawn,
) -> Result<(), Failure> {
    // All signals are blocked meanwhile: one to the process group must not interrupt an action; it
    // is the program's to take.
    // SAFETY: `spawn` is valid, and this field does not change while the child runs.
    let mut mask = unsafe { (*spawn).blocked };

    if !plan.inherit {
        init_files(plan.stdio).at(Stage::Create)?;
    }
    for (index, step) in plan.steps.into_iter().enumerate() {
        if let Step::SigMask(signals) = step {
            mask = sigset(signals);
        }
        restarting(|| step.run(&bprm, spawn))
            .map_err(|error| Failure::of_action(Stage::Action, index, error))?;
        drop(step);
        // SAFETY: The child holds no lock. A file that a step closed is closed now, not after exec.
        unsafe { bindings::task_work_run() };
    }

    let file = restarting(|| template.open()).map_err(|error| {
        let stage = if error == ESTALE {
            Stage::Identity
        } else {
            Stage::Exec
        };
        Failure::of(stage, error)
    })?;
    bprm.exec(file, template).at(Stage::Exec)?;
    set_blocked(&mut mask);
    Ok(())
}

/// Does `f`, again if something interrupted it that does not kill the child.
///
/// All signals that can be are blocked; what is left is tracers, freezers and SIGSTOP. Those have to
/// wait until the program starts, and so must not make a call fail.
fn restarting<T>(mut f: impl FnMut() -> Result<T>) -> Result<T> {
    const INTERRUPTED: [Error; 5] = [
        EINTR,
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ];

    loop {
        // SAFETY: The calling task is the child, and holds no lock.
        let lives = unsafe { bindings::spawn_defer_signals() };
        if !lives {
            return Err(EINTR);
        }
        match f() {
            Err(error) if INTERRUPTED.contains(&error) && interrupted() => (),
            result => return result,
        }
    }
}

/// Whether something waits for the attention of the calling task.
fn interrupted() -> bool {
    kernel::current!().signal_pending()
}

/// Makes the descriptor table that the child starts with.
fn init_files(stdio: [Option<Stdio>; 3]) -> Result {
    // SAFETY: The child was born without a descriptor table.
    to_result(unsafe { bindings::init_empty_files() })?;
    for (fd, stdio) in (0..).zip(stdio) {
        if let Some(Stdio { file, cloexec }) = stdio {
            install(&file, fd, cloexec)?;
        }
    }
    Ok(())
}

impl Step {
    fn run(&self, bprm: &Bprm, spawn: *const bindings::kernel_spawn) -> Result {
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
            Step::Fchdir(dir) => dir.with(chdir),
            Step::Open {
                base,
                path,
                how,
                newfd,
            } => {
                let file = open(bprm, base, path, how)?;
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
                set_action(*signals, None);
                Ok(())
            }
            Step::Chdir(path) => {
                let how = bindings::open_how {
                    flags: u64::from(bindings::O_PATH | bindings::O_DIRECTORY),
                    mode: 0,
                    resolve: 0,
                };
                chdir(&open(bprm, &Base::Cwd, path, &how)?)
            }
            // SAFETY: The calling task may call it at any time; as all the others below.
            Step::Setsid => to_result(unsafe { bindings::spawn_setsid() }),
            // SAFETY: As above.
            Step::Setpgid(pgid) => to_result(unsafe { bindings::spawn_setpgid(*pgid) }),
            Step::Tcsetpgrp(tty) => tty.with(|tty| {
                // SAFETY: `tty` is a valid file.
                to_result(unsafe { bindings::spawn_tcsetpgrp(tty.as_ptr()) })
            }),
            Step::Setctty(tty) => tty.with(|tty| {
                // SAFETY: `tty` is a valid file.
                to_result(unsafe { bindings::spawn_setctty(tty.as_ptr()) })
            }),
            Step::Umask(mask) => {
                // SAFETY: As above.
                unsafe { bindings::spawn_umask(*mask) };
                Ok(())
            }
            Step::Rlimit { resource, limit } => {
                let mut limit = *limit;
                // SAFETY: `limit` is valid, and any number may be given as the resource.
                to_result(unsafe { bindings::spawn_setrlimit(*resource, &mut limit) })
            }
            Step::Sched(attr) => {
                let mut attr = **attr;
                // SAFETY: `attr` is a valid structure.
                to_result(unsafe { bindings::spawn_sched_setattr(&mut attr) })
            }
            // SAFETY: As above.
            Step::ResetIds => to_result(unsafe { bindings::spawn_reset_ids() }),
            // SAFETY: As above.
            Step::Setuid(uid) => to_result(unsafe { bindings::spawn_setuid(*uid) }),
            // SAFETY: As above.
            Step::Setgid(gid) => to_result(unsafe { bindings::spawn_setgid(*gid) }),
            Step::Setgroups(groups) => {
                // SAFETY: The list is valid and sorted; who needs it longer takes a reference.
                to_result(unsafe { bindings::spawn_setgroups(groups.as_ptr()) })
            }
            Step::NoNewPrivs => {
                // SAFETY: As above.
                unsafe { bindings::spawn_set_no_new_privs() };
                Ok(())
            }
            Step::Pdeathsig(signal) => {
                // SAFETY: `spawn` is what made the calling task.
                unsafe { bindings::spawn_set_pdeathsig(spawn, c_int::from(*signal)) };
                Ok(())
            }
            Step::SigIgnore(signals) => {
                // SAFETY: `SIG_IGN` is the function pointer whose value is 1, which nobody calls.
                let ignore = unsafe { core::mem::transmute::<usize, bindings::__sighandler_t>(1) };
                set_action(*signals, ignore);
                Ok(())
            }
            // The child was born there.
            Step::Cgroup(_) => Ok(()),
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

/// Changes the working directory.
fn chdir(dir: &HeldFile) -> Result {
    // SAFETY: `dir` is a valid file.
    to_result(unsafe { bindings::fs_chdir_file(dir.as_ptr()) })
}

/// Gives the signals whose bits are set in `signals` the action `handler`, which the kernel must
/// know: `None` is `SIG_DFL`.
fn set_action(signals: u64, handler: bindings::__sighandler_t) {
    for signal in (1..=64).filter(|signal| signals >> (signal - 1) & 1 != 0) {
        // SAFETY: `signal` is a signal number.
        unsafe { bindings::kernel_sigaction(signal, handler) };
    }
}

/// The set of the signals whose bits are set in `signals`.
fn sigset(signals: u64) -> bindings::sigset_t {
    bindings::sigset_t {
        sig: [signals as usize],
    }
}

/// Sets the blocked signals.
fn set_blocked(mask: &mut bindings::sigset_t) {
    // SAFETY: The set is valid; it was in force before or has been checked by the plan, so it holds
    // no signal that cannot be blocked. `how` is valid, so the call does not fail.
    unsafe { bindings::sigprocmask(bindings::SIG_SETMASK as c_int, mask, core::ptr::null_mut()) };
    // SAFETY: May be called at any time. What `restarting` has put off is due now.
    unsafe { bindings::recalc_sigpending() };
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
fn open(bprm: &Bprm, base: &Base, path: &CStr, how: &bindings::open_how) -> Result<HeldFile> {
    let open_at = |fd: c_int| {
        // SAFETY: The bprm is valid, `path` a valid string and `how` a valid structure.
        let file = from_err_ptr(unsafe {
            bindings::spawn_open(bprm.as_ptr(), fd, path.as_char_ptr(), how)
        })?;
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
