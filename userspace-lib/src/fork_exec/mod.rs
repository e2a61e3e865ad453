//! The same actions on a kernel without spawn templates: `clone` and `execve`, as `posix_spawn(3)` does it.
//!
//! The child shares the caller's memory until it executes the program (`CLONE_VM`), while the calling thread waits
//! (`CLONE_VFORK`), so the cost does not grow with the caller. It runs [`Job::run`] on a stack of its own, with every
//! signal blocked and without signal handlers. All that it does there is to read the [`Job`], make system calls without
//! the C library (whose `setuid` and the like would involve the caller's other threads), and leave behind what failed in
//! [`Outcome`]: it neither allocates nor locks nor touches thread-local storage.
//!
//! In three cases the child gets a copy of the memory instead, as after `fork(2)`: with [`pre_exec`] closures, which are
//! foreign code; when the caller does not wait; and when the ids change, because those who may trace the new user's
//! processes could then write to the caller's memory, and the kernel makes memory that changes its user undumpable.
//!
//! Until the child has executed the program its exit signal is 0, so that one that fails is invisible: no `SIGCHLD`, and
//! no other thread's `wait(2)` can take it. `execve(2)` sets the exit signal to `SIGCHLD`.
//!
//! Emulators of user space (qemu-user) have neither `clone3` nor a pidfd from `clone`, and make a copy of the memory where
//! it should be shared. There it is a plain `fork` with a pipe that exec closes, and `pidfd_open(2)`.
//!
//! Needs Linux 5.11 (`close_range(2)` with `CLOSE_RANGE_CLOEXEC`).
//!
//! [`pre_exec`]: crate::Command::pre_exec

mod action;
mod memory;
mod signals;
mod syscall;

use std::ffi::{CString, c_void};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use libc::{c_int, pid_t};

use self::action::{check, close_range, perform};
use self::memory::{Mapping, Outcome, STACK_SIZE};
use self::syscall::{call, clone_call};
use crate::raw::{Failure, Request, Stage, Started, address};
use crate::uapi::{
    SPAWN_TEMPLATE_ACTION_CLOSE, SPAWN_TEMPLATE_ACTION_DUP2, SPAWN_TEMPLATE_ACTION_OPEN,
    SPAWN_TEMPLATE_SPAWN_INHERIT_FDS, SPAWN_TEMPLATE_SPAWN_NOWAIT, spawn_template_action,
};

/// A closure of [`Command::pre_exec`](crate::Command::pre_exec).
pub(crate) type Hook = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What the child executes.
#[derive(Clone, Copy)]
pub(crate) enum Program<'a> {
    /// The first of these paths that can be executed, as `posix_spawnp(3)` tries the folders of `PATH`.
    Paths(&'a [CString]),
    /// An open file.
    File(BorrowedFd<'a>),
}

/// Flags of `clone3(2)` that do not fit in an `int`.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts a process with what `request` says.
///
/// # Errors
///
/// As the system call with its result structure, with these differences: an `OPEN` action with a mode or flags that
/// `openat2(2)` refuses fails in the child, and a failure of the child before the first action is one of its creation.
///
/// # Safety
///
/// `request` and the actions in it must be valid: pointers lead to what they should, for the whole call.
pub(crate) unsafe fn spawn(program: Program<'_>, request: &Request<'_>, hooks: &[Hook]) -> Result<Started, Failure> {
    // SAFETY: the caller answers for the pointers in the actions.
    let cgroup = unsafe { check(request.actions) }?;
    let wait = request.flags & u64::from(SPAWN_TEMPLATE_SPAWN_NOWAIT) == 0;
    let share = wait && hooks.is_empty() && !request.actions.iter().any(action::changes_ids);
    let mapping = Mapping::new(share).map_err(|error| Failure::new(Stage::Create, errno_of(&error)))?;
    let file = File::of(program, request.actions)?;

    let mut flags = libc::CLONE_PIDFD as u64;
    if share {
        flags |= libc::CLONE_VM as u64;
    }
    if wait {
        flags |= libc::CLONE_VFORK as u64;
    }
    let mut job = Job {
        program,
        keep: [file.as_ref().map_or(-1, |file| file.number), -1],
        request,
        hooks,
        mask: 0,
        clear_handlers: true,
        outcome: Some(mapping.outcome()),
    };
    let mut pidfd: c_int = -1;
    let exit_signal = if wait { 0 } else { libc::SIGCHLD as u64 };

    job.mask = signals::block_all();
    // SAFETY: the mapping is the child's alone and large enough; `job` lives until the child has executed the program or
    // ended, because the calling thread waits for that, or else the child has a copy of it. Job::run() is made for this.
    let pid = unsafe { clone(flags, exit_signal, cgroup, &mapping, &mut pidfd, &mut job) };
    signals::set_mask(job.mask);
    if pid == Err(libc::EINVAL) && cgroup.is_none() {
        // SAFETY: as the caller's.
        return unsafe { spawn_emulated(program, request, hooks, wait) };
    }

    let pid = pid.map_err(|error| match cgroup {
        // Only the descriptor of the cgroup can be bad.
        Some((action, _)) if error == libc::EBADF => {
            Failure { stage: Some(Stage::Arguments), action: Some(action), error }
        }
        _ => Failure::new(Stage::Create, error),
    })?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match mapping.outcome().failure() {
        Some(failure) if wait => {
            reap(&pidfd);
            Err(failure)
        }
        _ => Ok(Started { pid, pidfd }),
    }
}

/// The same with nothing but what `fork` needs.
///
/// # Safety
///
/// As [`spawn`].
unsafe fn spawn_emulated(
    program: Program<'_>,
    request: &Request<'_>,
    hooks: &[Hook],
    wait: bool,
) -> Result<Started, Failure> {
    let failed = |error: io::Error| Failure::new(Stage::Create, errno_of(&error));
    let mapping = Mapping::new(false).map_err(failed)?;
    let file = File::of(program, request.actions)?;
    let (reader, low) = pipe().map_err(failed)?;
    let above = targets(request.actions).max().unwrap_or(0).saturating_add(1);
    let writer = duplicate_above(low.as_raw_fd(), above).map_err(failed)?;
    drop(low);
    let mut job = Job {
        program,
        keep: [file.as_ref().map_or(-1, |file| file.number), writer.as_raw_fd()],
        request,
        hooks,
        mask: signals::block_all(),
        clear_handlers: true,
        outcome: Some(mapping.outcome()),
    };
    let stack = mapping.stack() as usize + STACK_SIZE;
    let argument = (&raw mut job).cast::<c_void>();
    let arguments = [libc::SIGCHLD as usize, stack, 0, 0, 0];
    // SAFETY: the child has a copy of the memory, with the job in it; its stack is the mapping's.
    let pid = unsafe { clone_call(libc::SYS_clone, arguments, child, argument) };
    signals::set_mask(job.mask);
    let pid = pid.map_err(|error| Failure::new(Stage::Create, error))?;

    drop(writer);
    // SAFETY: plain numbers.
    let pidfd = unsafe { call(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0]) };
    let pidfd = pidfd.map_err(|error| {
        // SAFETY: plain numbers; the process is a child that has not been waited for.
        let _ = unsafe { call(libc::SYS_kill, [pid as usize, libc::SIGKILL as usize, 0, 0, 0]) };
        // SAFETY: without addresses nothing is written.
        while unsafe { call(libc::SYS_wait4, [pid as usize, 0, 0, 0, 0]) } == Err(libc::EINTR) {}
        Failure::new(Stage::Create, error)
    })?;
    // SAFETY: the call has just made it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as RawFd) };
    if wait {
        // Nothing is written; it ends when the child has executed the program, or has ended.
        let mut reader = std::fs::File::from(reader);
        while reader.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {}
        if let Some(failure) = mapping.outcome().failure() {
            reap(&pidfd);
            return Err(failure);
        }
    }
    Ok(Started { pid, pidfd })
}

/// A pipe, close-on-exec: where to read, and where to write.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    // SAFETY: there is room for two.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it.
    let reader = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: likewise.
    Ok((reader, unsafe { OwnedFd::from_raw_fd(ends[1]) }))
}

/// Does in this process what the child would do. Returns only if it fails, after having done part of it.
///
/// # Safety
///
/// As [`spawn`].
pub(crate) unsafe fn exec(program: Program<'_>, request: &Request<'_>, hooks: &[Hook]) -> Failure {
    // SAFETY: the caller answers for the pointers in the actions.
    match unsafe { check(request.actions) } {
        Ok(None) => {}
        // A process is born in its cgroup.
        Ok(Some((action, _))) => {
            return Failure { stage: Some(Stage::Arguments), action: Some(action), error: libc::EOPNOTSUPP };
        }
        Err(failure) => return failure,
    }
    let file = match File::of(program, request.actions) {
        Ok(file) => file,
        Err(failure) => return failure,
    };
    let mask = signals::block_all();
    let job = Job {
        program,
        keep: [file.as_ref().map_or(-1, |file| file.number), -1],
        request,
        hooks,
        mask,
        clear_handlers: false,
        outcome: None,
    };
    // SAFETY: the caller answers for the request.
    let failure = unsafe { job.run() };
    signals::set_mask(mask);
    failure
}

/// What the child has to do. It only reads this.
struct Job<'a> {
    program: Program<'a>,
    /// Descriptors that actions leave open: [`Program::File`], and the pipe that tells of exec; -1 is none.
    keep: [RawFd; 2],
    request: &'a Request<'a>,
    hooks: &'a [Hook],
    /// The blocked signals of the program, unless an action says otherwise.
    mask: u64,
    /// Whether signal handlers are inherited: `clone3` has a flag against that, `clone` has not.
    clear_handlers: bool,
    /// Where to leave what failed; none when this is no child.
    outcome: Option<&'a Outcome>,
}

impl Job<'_> {
    /// Runs in the child, see the documentation of this file for what it must not do. Returns only if it fails.
    ///
    /// # Safety
    ///
    /// As [`spawn`]. Every signal is blocked.
    unsafe fn run(&self) -> Failure {
        if self.clear_handlers {
            signals::clear_handlers();
        }
        if self.request.flags & u64::from(SPAWN_TEMPLATE_SPAWN_INHERIT_FDS) == 0 {
            // What actions place loses the mark again.
            let result = close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if let Err(error) = result {
                return Failure::new(Stage::Create, error);
            }
        }
        let mut mask = self.mask;
        for (index, action) in self.request.actions.iter().enumerate() {
            // SAFETY: the caller answers for the action.
            if let Err(error) = unsafe { perform(action, &mut mask, self.keep) } {
                return Failure { stage: Some(Stage::Action), action: Some(index), error };
            }
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            if let Err(error) = hook() {
                let action = Some(self.request.actions.len() + index);
                return Failure { stage: Some(Stage::Action), action, error: errno_of(&error) };
            }
        }
        signals::set_mask(mask);
        // SAFETY: the caller answers for the vectors.
        Failure::new(Stage::Exec, unsafe { self.execute() })
    }

    /// Executes the program. Returns the error.
    ///
    /// # Safety
    ///
    /// As [`spawn`].
    unsafe fn execute(&self) -> c_int {
        let argv = address(self.request.argv) as usize;
        let envp = address(self.request.envp) as usize;
        let paths = match self.program {
            Program::Paths(paths) => paths,
            Program::File(_) => {
                let empty = address(c"".as_ptr()) as usize;
                let flags = libc::AT_EMPTY_PATH as usize;
                // SAFETY: the caller answers for the vectors.
                let result = unsafe { call(libc::SYS_execveat, [self.keep[0] as usize, empty, argv, envp, flags]) };
                return result.err().unwrap_or(libc::EIO);
            }
        };
        let mut denied = false;
        let mut error = libc::ENOENT;
        for path in paths {
            let path = address(path.as_ptr()) as usize;
            // SAFETY: the caller answers for the vectors.
            error = unsafe { call(libc::SYS_execve, [path, argv, envp, 0, 0]) }.err().unwrap_or(libc::EIO);
            match error {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return error,
            }
        }
        if denied { libc::EACCES } else { error }
    }
}

/// Where the new process starts: on its own stack.
///
/// # Safety
///
/// `argument` is a [`Job`] as in [`spawn`], and this a process that [`clone`] has made.
unsafe extern "C" fn child(argument: *mut c_void) -> ! {
    // SAFETY: that is what the caller passes.
    let job = unsafe { &*argument.cast::<Job<'_>>() };
    // SAFETY: clone() passes the job of spawn(), and spawn() has blocked every signal.
    let failure = unsafe { job.run() };
    if let Some(outcome) = job.outcome {
        outcome.set(failure);
    }
    loop {
        // SAFETY: ends the process, which shares nothing with the caller but memory.
        let _ = unsafe { call(libc::SYS_exit_group, [127, 0, 0, 0, 0]) };
    }
}

/// Makes a process that calls [`child`] on the stack in `mapping`. Returns its id, or the `errno`.
///
/// # Safety
///
/// `job` must be one that [`Job::run`] may be called on in the child, and must live until that has executed a program or
/// ended, unless the child has its own copy of the memory.
unsafe fn clone(
    flags: u64,
    exit_signal: u64,
    cgroup: Option<(usize, RawFd)>,
    mapping: &Mapping,
    pidfd: &mut c_int,
    job: &mut Job<'_>,
) -> Result<pid_t, c_int> {
    let pidfd = address(&raw mut *pidfd);
    let stack = mapping.stack();
    let mut args = CloneArgs {
        // Linux 5.5; from here on a signal finds no handler of the caller in the child.
        flags: flags | CLONE_CLEAR_SIGHAND,
        pidfd,
        exit_signal,
        stack,
        stack_size: STACK_SIZE as u64,
        ..CloneArgs::default()
    };
    if let Some((_, directory)) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = directory as u64;
    }
    job.clear_handlers = false;
    let argument = (&raw mut *job).cast::<c_void>();
    let clone3 = [address(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: the caller answers for the job, and the stack is the mapping's.
    let result = unsafe { clone_call(libc::SYS_clone3, clone3, child, argument) };
    if cgroup.is_some() || !matches!(result, Err(libc::ENOSYS | libc::EPERM)) {
        return result;
    }
    // Some seccomp filters do not let clone3() pass, because they cannot look at its flags.
    job.clear_handlers = true;
    let argument = (&raw mut *job).cast::<c_void>();
    let clone = [(flags | exit_signal) as usize, stack as usize + STACK_SIZE, pidfd as usize, 0, 0];
    // SAFETY: as above.
    unsafe { clone_call(libc::SYS_clone, clone, child, argument) }
}

/// `struct clone_args` in the size that has the cgroup.
#[derive(Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The open executable, at a number that no action uses for something else.
struct File {
    number: RawFd,
    _copy: Option<OwnedFd>,
}

impl File {
    fn of(program: Program<'_>, actions: &[spawn_template_action]) -> Result<Option<Self>, Failure> {
        let Program::File(file) = program else { return Ok(None) };
        let number = file.as_raw_fd();
        if !targets(actions).any(|target| target == number) {
            return Ok(Some(File { number, _copy: None }));
        }
        let above = targets(actions).max().unwrap_or(0).saturating_add(1);
        let copy = duplicate_above(number, above).map_err(|error| Failure::new(Stage::Create, errno_of(&error)))?;
        Ok(Some(File { number: copy.as_raw_fd(), _copy: Some(copy) }))
    }
}

/// The numbers that actions close or place something at.
fn targets(actions: &[spawn_template_action]) -> impl Iterator<Item = RawFd> {
    actions.iter().filter_map(|action| match action.type_ {
        SPAWN_TEMPLATE_ACTION_CLOSE => Some(action.fd),
        SPAWN_TEMPLATE_ACTION_DUP2 | SPAWN_TEMPLATE_ACTION_OPEN => Some(action.newfd),
        _ => None,
    })
}

/// Duplicates a descriptor to the first free number that is not below `lowest`, close-on-exec.
pub(crate) fn duplicate_above(fd: RawFd, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes away a child that failed before it executed anything. It has ended or is about to.
fn reap(pidfd: &OwnedFd) {
    let options = (libc::WEXITED | libc::__WALL) as usize;
    // A descriptor is not negative.
    let id = pidfd.as_raw_fd() as usize;
    // SAFETY: without addresses nothing is written.
    while unsafe { call(libc::SYS_waitid, [libc::P_PIDFD as usize, id, 0, options, 0]) } == Err(libc::EINTR) {}
}

/// The `errno` of an error, `EINVAL` if it has none.
fn errno_of(error: &io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}
