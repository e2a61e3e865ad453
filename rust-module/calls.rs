// SPDX-License-Identifier: GPL-2.0

//! The system calls that a spawn stands for.
//!
//! After fork(), a child would make a system call for each action. Tracers, seccomp filters, audit
//! and tracepoints know these by their numbers and arguments, so each action names the calls that
//! it does the work of, with the arguments that they would have. Pointers are those that the caller
//! of the spawn has given; where there is none, the address of the action stands for it.

use crate::{
    action::{
        Action,
        Step, //
    },
    outcome::{
        At,
        Failure,
        Stage, //
    },
};
use core::mem::offset_of;
use kernel::{
    bindings::{
        self,
        *, //
    },
    error::to_result,
    prelude::*, //
};

/// One system call.
pub(crate) struct Call {
    number: u32,
    args: [c_ulong; 6],
}

impl Call {
    /// A call with these arguments; those that are missing are 0.
    pub(crate) fn new<const N: usize>(number: u32, args: [u64; N]) -> Self {
        let mut all = [0; 6];
        for (to, from) in all.iter_mut().zip(args) {
            *to = from as c_ulong;
        }
        Self { number, args: all }
    }

    /// execve(2), with the vectors that the caller gave. `name` stands for the path.
    pub(crate) fn execve(name: u64, argv: u64, envp: u64) -> Self {
        Self::new(__NR_execve, [name, argv, envp])
    }

    /// execveat(2), likewise, with the descriptor and the flags of the template.
    pub(crate) fn execveat(fd: c_int, name: u64, argv: u64, envp: u64, flags: u32) -> Self {
        let fd = (fd as u32).into();
        Self::new(__NR_execveat, [fd, name, argv, envp, flags.into()])
    }

    /// Asks the seccomp filters of the calling task whether it may make the call.
    pub(crate) fn ask(&self) -> Result {
        // SAFETY: A process may call it at any time, with any numbers.
        to_result(unsafe { bindings::spawn_permitted(self.number as c_int, self.args.as_ptr()) })
    }

    /// Begins the call in the child that `spawn` has made, which is the calling task.
    ///
    /// # Safety
    ///
    /// `spawn` must be what `kernel_spawn()` was given.
    pub(crate) unsafe fn enter(&self, spawn: *const bindings::kernel_spawn) -> Result {
        // SAFETY: By the safety requirements; there are six arguments.
        to_result(unsafe {
            bindings::spawn_syscall_enter(spawn, self.number as c_int, self.args.as_ptr())
        })
    }
}

/// Ends the call that the calling child has begun; `value` is what it would return.
pub(crate) fn exit(value: c_long) {
    // SAFETY: The calling task is a child that is being made, and in the kernel.
    unsafe { bindings::spawn_syscall_exit(value) };
}

/// Asks whether the caller may make a process and execute a program.
pub(crate) fn ask_about_spawn(execve: &Call) -> Result<(), Failure> {
    ask_about_birth(&[])?;
    execve.ask().at(Stage::Identity)
}

/// Asks whether the caller may make a child that is born as `actions` say.
pub(crate) fn ask_about_birth(actions: &[Action]) -> Result<(), Failure> {
    Call::new(__NR_vfork, []).ask().at(Stage::Identity)?;
    ask_about(actions, Action::is_of_birth)
}

/// Asks about all that `actions` stand for.
///
/// The child asks again, each time before it does something. Only this answer can be given to a
/// caller that does not wait.
pub(crate) fn ask_about_all(actions: &[Action]) -> Result<(), Failure> {
    ask_about(actions, |_| true)
}

fn ask_about(actions: &[Action], which: impl Fn(&Action) -> bool) -> Result<(), Failure> {
    let which = |(_, action): &(usize, &Action)| which(action);
    for (index, action) in actions.iter().enumerate().filter(which) {
        for call in action.calls() {
            call.ask()
                .map_err(|error| Failure::of_action(Stage::Identity, index, error))?;
        }
    }
    Ok(())
}

impl Action {
    /// Whether it says how the child is born, and leaves nothing for the child to do.
    pub(crate) fn is_of_birth(&self) -> bool {
        matches!(self.step, Step::Cgroup(_))
    }

    /// The calls that the action stands for, in order.
    pub(crate) fn calls(&self) -> impl Iterator<Item = Call> + '_ {
        (0..).map_while(|n| self.call(n))
    }

    /// The `n`-th of them.
    fn call(&self, n: usize) -> Option<Call> {
        // One for each signal, and one for each ID; the others stand for one call at most.
        match self.step {
            Step::SigDefault(signals) | Step::SigIgnore(signals) => {
                let args = [nth_signal(signals, n)?.into(), self.arg, 0, SIGSET_SIZE];
                return Some(Call::new(__NR_rt_sigaction, args));
            }
            Step::ResetIds => {
                const KEEP: u64 = u32::MAX as u64;
                let number = *[__NR_setresgid, __NR_setresuid].get(n)?;
                return Some(Call::new(number, [KEEP, real_id(number), KEEP]));
            }
            _ if n > 0 => return None,
            _ => (),
        }

        // A C program passes what has 32 bits in 32 bits.
        let fd = u64::from(self.fd as u32);
        let newfd = u64::from(self.newfd as u32);
        let flags = u64::from(self.flags);
        Some(match &self.step {
            Step::Close { .. } => Call::new(__NR_close, [fd]),
            Step::Dup { cloexec: true, .. } => Call::new(__NR_dup3, [fd, newfd, flags]),
            Step::Dup { .. } => Call::new(__NR_dup2, [fd, newfd]),
            Step::Fchdir(_) => Call::new(__NR_fchdir, [fd]),
            // Filters tend to forbid openat2(), whose flags they cannot look into, to programs that
            // do not need it.
            Step::Open { how, .. } if how.resolve == 0 => {
                Call::new(__NR_openat, [fd, self.inner, how.flags, how.mode])
            }
            Step::Open { .. } => {
                let before = offset_of!(spawn_template_open, how) as u64;
                let size = match self.arg_size {
                    0 => SPAWN_TEMPLATE_OPEN_SIZE_VER0.into(),
                    size => size,
                };
                let args = [fd, self.inner, self.arg + before, size - before];
                Call::new(__NR_openat2, args)
            }
            Step::CloseRange { first, last, .. } => {
                let (first, last) = (u64::from(*first), u64::from(*last));
                Call::new(__NR_close_range, [first, last, flags])
            }
            Step::SigMask(_) => {
                let args = [SIG_SETMASK.into(), self.inner, 0, SIGSET_SIZE];
                Call::new(__NR_rt_sigprocmask, args)
            }
            Step::Chdir(_) => Call::new(__NR_chdir, [self.arg]),
            Step::Setsid => Call::new(__NR_setsid, []),
            Step::Setpgid(pgid) => Call::new(__NR_setpgid, [0, (*pgid as u32).into()]),
            Step::Tcsetpgrp(_) => Call::new(__NR_ioctl, [fd, TIOCSPGRP.into(), self.addr]),
            Step::Setctty(_) => Call::new(__NR_ioctl, [fd, TIOCSCTTY.into(), 0]),
            Step::Umask(mask) => Call::new(__NR_umask, [(*mask).into()]),
            Step::Rlimit { resource, .. } => {
                let limit = self.arg + size_of::<u64>() as u64;
                Call::new(__NR_prlimit64, [0, (*resource).into(), limit, 0])
            }
            Step::Sched(_) => Call::new(__NR_sched_setattr, [0, self.arg, 0]),
            Step::Setuid(uid) => Call::new(__NR_setuid, [(*uid).into()]),
            Step::Setgid(gid) => Call::new(__NR_setgid, [(*gid).into()]),
            Step::Setgroups(groups) => {
                Call::new(__NR_setgroups, [groups.count() as u64, self.inner])
            }
            Step::NoNewPrivs => Call::new(__NR_prctl, [PR_SET_NO_NEW_PRIVS.into(), 1]),
            Step::Pdeathsig(signal) => {
                Call::new(__NR_prctl, [PR_SET_PDEATHSIG.into(), (*signal).into()])
            }
            Step::Cgroup(_) => Call::new(__NR_clone3, [self.addr, CLONE_ARGS_SIZE_VER2.into()]),
            Step::SigDefault(_) | Step::SigIgnore(_) | Step::ResetIds => return None,
        })
    }
}

/// The size of a signal set, in bytes.
const SIGSET_SIZE: u64 = size_of::<u64>() as u64;

/// The `n`-th signal of a set, lowest first.
pub(crate) fn nth_signal(signals: u64, n: usize) -> Option<u32> {
    (1..=64)
        .filter(|signal| signals >> (signal - 1) & 1 != 0)
        .nth(n)
}

/// The real ID of the calling task that the call `number` makes the effective one.
fn real_id(number: u32) -> u64 {
    // SAFETY: The calling task is valid.
    let id = unsafe {
        if number == __NR_setresgid {
            bindings::spawn_real_gid()
        } else {
            bindings::spawn_real_uid()
        }
    };
    id.into()
}
