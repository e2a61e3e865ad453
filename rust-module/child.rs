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
    calls::{
        self,
        Call, //
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

/// Why the child did not get on.
enum Stop {
    /// A tracer, a filter or a security module forbids it.
    Refused(Error),
    /// It was tried.
    Failed(Error),
}

impl Stop {
    fn error(&self) -> Error {
        match self {
            Stop::Refused(error) | Stop::Failed(error) => *error,
        }
    }

    /// The stage that is to blame, which is `stage` if it was tried.
    fn stage(&self, stage: Stage) -> Stage {
        match self {
            Stop::Refused(_) => Stage::Identity,
            Stop::Failed(_) => stage,
        }
    }
}

/// Carries the plan out and execs. After an error the task must exit.
///
/// `spawn` is what `kernel_spawn()` was given.
pub(crate) fn run(
    plan: Plan,
    bprm: Bprm,
    template: &Template,
    execve: &Call,
    spawn: *mut bindings::kernel_spawn,
) -> Result<(), Failure> {
    // A tracer may want the child before it has done anything.
    // SAFETY: The calling task is the child, and holds no lock.
    if !unsafe { bindings::signal_take_stops() } {
        return Err(Failure::of(Stage::Create, EINTR));
    }
    if !plan.inherit {
        init_files(plan.stdio).at(Stage::Create)?;
    }
    for (index, action) in plan.actions.into_iter().enumerate() {
        if action.is_of_birth() {
            continue;
        }
        // All signals are blocked until the program starts: one to the process group must not
        // interrupt an action; it is the program's to take.
        if let Step::SigMask(signals) = action.step {
            // SAFETY: `spawn` is valid, and this field is the child's by now.
            unsafe { (*spawn).blocked = sigset(signals) };
        }
        for (n, call) in action.calls().enumerate() {
            restarting(|| make(&call, spawn, || action.step.run(n, spawn))).map_err(|stop| {
                Failure::of_action(stop.stage(Stage::Action), index, stop.error())
            })?;
        }
        drop(action);
        // SAFETY: This is the child, and it holds no lock.
        unsafe { bindings::spawn_end_step() };
    }

    let file = restarting(|| {
        // SAFETY: `spawn` is what `kernel_spawn()` was given.
        unsafe { execve.enter(spawn) }.map_err(Stop::Refused)?;
        template
            .open()
            .inspect_err(|error| calls::exit(error.to_errno() as c_long))
            .map_err(Stop::Failed)
    });
    let file = file.map_err(|stop| {
        let stage = stop.stage(template.open_stage(stop.error()));
        Failure::of(stage, stop.error())
    })?;
    // On success the call ends on the way to user mode.
    bprm.exec(file, template, spawn)
        .inspect_err(|error| calls::exit(error.to_errno() as c_long))
        .at(Stage::Exec)
}

/// Does the work of a system call, as that call.
fn make(
    call: &Call,
    spawn: *const bindings::kernel_spawn,
    f: impl FnOnce() -> Result<c_long>,
) -> Result<(), Stop> {
    // SAFETY: `spawn` is what `kernel_spawn()` was given.
    unsafe { call.enter(spawn) }.map_err(Stop::Refused)?;
    let result = f();
    calls::exit(match result {
        Ok(value) => value,
        Err(error) => error.to_errno() as c_long,
    });
    result.map(|_| ()).map_err(Stop::Failed)
}

/// Does `f`, again if something interrupted it that does not kill the child.
///
/// All signals that can be are blocked; what is left is tracers, freezers and SIGSTOP. They get the
/// child here, where it holds nothing.
fn restarting<T>(mut f: impl FnMut() -> Result<T, Stop>) -> Result<T, Stop> {
    const INTERRUPTED: [Error; 5] = [
        EINTR,
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ];

    loop {
        // SAFETY: The calling task is the child, and holds no lock.
        let lives = unsafe { bindings::signal_take_stops() };
        if !lives {
            return Err(Stop::Failed(EINTR));
        }
        match f() {
            Err(Stop::Failed(error)) if INTERRUPTED.contains(&error) && interrupted() => (),
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
    let mut cloexec = 0;
    let mut files = [core::ptr::null_mut(); 3];
    for (fd, stdio) in stdio.iter().enumerate() {
        if let Some(stdio) = stdio {
            files[fd] = stdio.file.as_ptr();
            cloexec |= u32::from(stdio.cloexec) << fd;
        }
    }
    // SAFETY: The child was born without a descriptor table; the files are valid or null.
    to_result(unsafe { bindings::init_stdio_files(files.as_ptr(), cloexec) })
}

/// What a system call that only says that it worked returns.
fn done(result: Result) -> Result<c_long> {
    result.map(|()| 0)
}

impl Step {
    /// Does the work of the `n`-th call that the step stands for, and returns what that returns.
    fn run(&self, n: usize, spawn: *const bindings::kernel_spawn) -> Result<c_long> {
        match self {
            Step::Close { fd } => {
                // SAFETY: May be called with any number. As in posix_spawn(), closing what is not
                // open is no error, nor is a failure to write back.
                Ok(unsafe { bindings::close_fd(*fd) } as c_long)
            }
            Step::Dup {
                source: Source::Child(fd),
                newfd,
                ..
            } if fd == newfd => {
                HeldFile::from_fd(*fd)?;
                // SAFETY: `fd` is open, and nobody else uses the table.
                unsafe { bindings::set_close_on_exec(*fd, 0) };
                Ok(*newfd as c_long)
            }
            Step::Dup {
                source,
                newfd,
                cloexec,
            } => {
                source.with(|file| install(file, *newfd, *cloexec))?;
                Ok(*newfd as c_long)
            }
            Step::Fchdir(dir) => done(dir.with(chdir)),
            Step::Open {
                base,
                path,
                how,
                newfd,
            } => {
                let file = open(base, path, how)?;
                let cloexec = how.flags & u64::from(bindings::O_CLOEXEC) != 0;
                install(&file, *newfd, cloexec)?;
                Ok(*newfd as c_long)
            }
            Step::CloseRange { first, last, flags } => {
                // SAFETY: May be called with any numbers.
                done(to_result(unsafe {
                    bindings::ksys_close_range(*first, *last, *flags)
                }))
            }
            // Takes effect when the program starts.
            Step::SigMask(_) => Ok(0),
            Step::SigDefault(signals) => {
                set_action(*signals, n, None);
                Ok(0)
            }
            Step::Chdir(path) => {
                let how = bindings::open_how {
                    flags: u64::from(bindings::O_PATH | bindings::O_DIRECTORY),
                    mode: 0,
                    resolve: 0,
                };
                done(chdir(&open(&Base::Cwd, path, &how)?))
            }
            // SAFETY: The calling task may call it at any time; as all the others below.
            Step::Setsid => value(unsafe { bindings::spawn_setsid() }),
            // SAFETY: As above.
            Step::Setpgid(pgid) => value(unsafe { bindings::spawn_setpgid(*pgid) }),
            Step::Tcsetpgrp(tty) => tty.with(|tty| {
                // SAFETY: `tty` is a valid file.
                value(unsafe { bindings::spawn_tcsetpgrp(tty.as_ptr()) })
            }),
            Step::Setctty(tty) => tty.with(|tty| {
                // SAFETY: `tty` is a valid file.
                value(unsafe { bindings::spawn_setctty(tty.as_ptr()) })
            }),
            // SAFETY: As above.
            Step::Umask(mask) => value(unsafe { bindings::spawn_umask(*mask) }),
            Step::Rlimit { resource, limit } => {
                let mut limit = *limit;
                // SAFETY: `limit` is valid, and any number may be given as the resource.
                value(unsafe { bindings::spawn_setrlimit(*resource, &mut limit) })
            }
            Step::Sched(attr) => {
                let mut attr = **attr;
                // SAFETY: `attr` is a valid structure.
                value(unsafe { bindings::spawn_sched_setattr(&mut attr) })
            }
            // The group first, while that may be changed.
            // SAFETY: As above.
            Step::ResetIds if n == 0 => value(unsafe { bindings::spawn_reset_gid() }),
            // SAFETY: As above.
            Step::ResetIds => value(unsafe { bindings::spawn_reset_uid() }),
            // SAFETY: As above.
            Step::Setuid(uid) => value(unsafe { bindings::spawn_setuid(*uid) }),
            // SAFETY: As above.
            Step::Setgid(gid) => value(unsafe { bindings::spawn_setgid(*gid) }),
            Step::Setgroups(groups) => {
                // SAFETY: The list is valid and sorted; who needs it longer takes a reference.
                value(unsafe { bindings::spawn_setgroups(groups.as_ptr()) })
            }
            // SAFETY: As above.
            Step::NoNewPrivs => value(unsafe { bindings::spawn_set_no_new_privs() }),
            Step::Pdeathsig(signal) => {
                // SAFETY: `spawn` is what made the calling task.
                value(unsafe { bindings::spawn_set_pdeathsig(spawn, c_int::from(*signal)) })
            }
            Step::SigIgnore(signals) => {
                // SAFETY: `SIG_IGN` is the function pointer whose value is 1, which nobody calls.
                let ignore = unsafe { core::mem::transmute::<usize, bindings::__sighandler_t>(1) };
                set_action(*signals, n, ignore);
                Ok(0)
            }
            // The child was born there.
            Step::Cgroup(_) => Ok(0),
        }
    }
}

/// What C returns: a negative errno, or the value.
fn value(ret: c_int) -> Result<c_long> {
    to_result(ret)?;
    Ok(ret as c_long)
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

/// Gives the `n`-th of the signals whose bits are set in `signals` the action `handler`, which the
/// kernel must know: `None` is `SIG_DFL`.
fn set_action(signals: u64, n: usize, handler: bindings::__sighandler_t) {
    if let Some(signal) = calls::nth_signal(signals, n) {
        // SAFETY: `signal` is a signal number.
        unsafe { bindings::kernel_sigaction(signal as c_int, handler) };
    }
}

/// The set of the signals whose bits are set in `signals`.
fn sigset(signals: u64) -> bindings::sigset_t {
    bindings::sigset_t {
        sig: [signals as usize],
    }
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
