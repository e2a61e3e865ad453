// SPDX-License-Identifier: GPL-2.0

//! What the caller's seccomp filters have to say about a spawn.
//!
//! A filter sees the numbers of system calls. One that forbids a system call whose work a spawn
//! does would be got round, so each is asked for: the ones that any spawn stands for, and the one
//! that each action stands for.

use crate::action::{
    Base,
    Source,
    Step, //
};
use kernel::{
    bindings::{
        self,
        *, //
    },
    error::to_result,
    prelude::*, //
};

/// Asks about a system call. Its arguments are given as far as they are numbers.
fn ask<const N: usize>(number: u32, args: [u64; N]) -> Result {
    let mut all = [0; 6];
    for (to, from) in all.iter_mut().zip(args) {
        *to = from;
    }
    // SAFETY: A process may call it at any time, with any numbers.
    to_result(unsafe { bindings::spawn_permitted(number as c_int, all.as_ptr()) })
}

/// Asks whether the caller may make a process and execute a program.
pub(crate) fn ask_about_spawn() -> Result {
    ask(__NR_execve, [])?;
    ask(__NR_vfork, [])
}

/// Asks whether the caller may do what `step` does.
pub(crate) fn ask_about(step: &Step) -> Result {
    match step {
        Step::Close { fd } => ask(__NR_close, [(*fd).into()]),
        Step::Dup {
            source,
            newfd,
            cloexec,
        } => {
            let (fd, newfd) = (number(source), u64::from(*newfd));
            if *cloexec {
                ask(__NR_dup3, [fd, newfd, O_CLOEXEC.into()])
            } else {
                ask(__NR_dup2, [fd, newfd])
            }
        }
        Step::Fchdir(dir) => ask(__NR_fchdir, [number(dir)]),
        Step::Open { base, how, .. } => {
            let dir = match base {
                Base::Cwd => AT_FDCWD as u64,
                Base::Dir(dir) => number(dir),
            };
            // Filters tend to forbid what they cannot look into, for callers that do not need it.
            if how.resolve == 0 {
                ask(__NR_openat, [dir, 0, how.flags, how.mode])
            } else {
                ask(__NR_openat2, [dir, 0, 0, size_of::<open_how>() as u64])
            }
        }
        Step::CloseRange { first, last, flags } => ask(
            __NR_close_range,
            [(*first).into(), (*last).into(), (*flags).into()],
        ),
        Step::SigMask(_) => ask(
            __NR_rt_sigprocmask,
            [SIG_SETMASK.into(), 0, 0, size_of::<u64>() as u64],
        ),
        Step::SigDefault(_) | Step::SigIgnore(_) => {
            ask(__NR_rt_sigaction, [0, 0, 0, size_of::<u64>() as u64])
        }
        Step::Chdir(_) => ask(__NR_chdir, []),
        Step::Setsid => ask(__NR_setsid, []),
        Step::Setpgid(pgid) => ask(__NR_setpgid, [0, *pgid as u64]),
        Step::Tcsetpgrp(tty) => ask(__NR_ioctl, [number(tty), TIOCSPGRP.into()]),
        Step::Setctty(tty) => ask(__NR_ioctl, [number(tty), TIOCSCTTY.into()]),
        Step::Umask(mask) => ask(__NR_umask, [(*mask).into()]),
        Step::Rlimit { resource, .. } => ask(__NR_prlimit64, [0, (*resource).into()]),
        Step::Sched(_) => ask(__NR_sched_setattr, []),
        Step::ResetIds => {
            ask(__NR_setresgid, [])?;
            ask(__NR_setresuid, [])
        }
        Step::Setuid(uid) => ask(__NR_setuid, [(*uid).into()]),
        Step::Setgid(gid) => ask(__NR_setgid, [(*gid).into()]),
        Step::Setgroups(_) => ask(__NR_setgroups, []),
        Step::NoNewPrivs => ask(__NR_prctl, [PR_SET_NO_NEW_PRIVS.into(), 1]),
        Step::Pdeathsig(signal) => ask(__NR_prctl, [PR_SET_PDEATHSIG.into(), (*signal).into()]),
        Step::Cgroup(_) => ask(__NR_clone3, []),
    }
}

/// The number that a descriptor has, if it is one of the child's.
fn number(source: &Source) -> u64 {
    match source {
        Source::Child(fd) => (*fd).into(),
        Source::Caller(_) | Source::NotOpen => 0,
    }
}
