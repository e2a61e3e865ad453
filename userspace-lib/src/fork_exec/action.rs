//! The actions of the kernel's interface, in the child.

use std::mem::offset_of;
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_int, pid_t};

use super::signals::set_handlers;
use super::syscall::call;
use crate::raw::{Failure, Stage, address};
use crate::uapi::*;

/// Refuses what the system call refuses before it makes a child. Returns the cgroup: which action, and the descriptor.
///
/// # Safety
///
/// As [`spawn`](super::spawn).
pub(super) unsafe fn check(actions: &[spawn_template_action]) -> Result<Option<(usize, RawFd)>, Failure> {
    let mut cgroup = None;
    if actions.len() > SPAWN_TEMPLATE_MAX_ACTIONS as usize {
        return Err(Failure::new(Stage::Arguments, libc::E2BIG));
    }
    for (index, action) in actions.iter().enumerate() {
        let id = |value: u64| value < u64::from(u32::MAX);
        let good = match action.type_ {
            SPAWN_TEMPLATE_ACTION_DUP2 => action.newfd >= 0 && (action.fd != action.newfd || action.flags == 0),
            SPAWN_TEMPLATE_ACTION_OPEN => action.newfd >= 0,
            SPAWN_TEMPLATE_ACTION_SETPGID => action.arg <= c_int::MAX as u64,
            SPAWN_TEMPLATE_ACTION_UMASK => action.arg <= 0o777,
            SPAWN_TEMPLATE_ACTION_RLIMIT => {
                // SAFETY: the caller answers for the pointer.
                let rlimit = unsafe { payload::<spawn_template_rlimit>(action) };
                rlimit.cur <= rlimit.max && rlimit.resource < 16
            }
            SPAWN_TEMPLATE_ACTION_PDEATHSIG => action.arg <= 64,
            SPAWN_TEMPLATE_ACTION_SETUID | SPAWN_TEMPLATE_ACTION_SETGID => id(action.arg),
            SPAWN_TEMPLATE_ACTION_SETGROUPS => {
                // SAFETY: the caller answers for the pointer.
                unsafe { payload::<spawn_template_groups>(action) }.count <= 65536
            }
            SPAWN_TEMPLATE_ACTION_CGROUP => cgroup.replace((index, action.fd)).is_none(),
            _ => true,
        };
        if !good {
            return Err(Failure { stage: Some(Stage::Arguments), action: Some(index), error: libc::EINVAL });
        }
    }
    Ok(cgroup)
}

/// Whether the action makes the child another user's.
pub(super) fn changes_ids(action: &spawn_template_action) -> bool {
    let types = [SPAWN_TEMPLATE_ACTION_SETUID, SPAWN_TEMPLATE_ACTION_SETGID, SPAWN_TEMPLATE_ACTION_RESETIDS];
    types.contains(&action.type_)
}

/// Performs one action. `mask` is what the program starts with, `keep` the descriptors that stay open; -1 is none.
///
/// # Safety
///
/// As [`spawn`](super::spawn).
pub(super) unsafe fn perform(action: &spawn_template_action, mask: &mut u64, keep: [RawFd; 2]) -> Result<(), c_int> {
    let (fd, arg) = (action.fd as usize, action.arg as usize);
    let (number, args) = match action.type_ {
        SPAWN_TEMPLATE_ACTION_CLOSE => {
            // A descriptor that is not open is no error, and Linux closes it even if it reports one.
            // SAFETY: plain numbers; the descriptor is the child's.
            let _ = unsafe { call(libc::SYS_close, [fd, 0, 0, 0, 0]) };
            return Ok(());
        }
        SPAWN_TEMPLATE_ACTION_DUP2 if action.fd == action.newfd => {
            (libc::SYS_fcntl, [fd, libc::F_SETFD as usize, 0, 0, 0])
        }
        SPAWN_TEMPLATE_ACTION_DUP2 => (libc::SYS_dup3, [fd, action.newfd as usize, action.flags as usize, 0, 0]),
        SPAWN_TEMPLATE_ACTION_FCHDIR => (libc::SYS_fchdir, [fd, 0, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_CHDIR => (libc::SYS_chdir, [arg, 0, 0, 0, 0]),
        // SAFETY: the caller answers for the action.
        SPAWN_TEMPLATE_ACTION_OPEN => return unsafe { open(action) },
        SPAWN_TEMPLATE_ACTION_CLOSE_RANGE => return close_range_around(action, keep),
        SPAWN_TEMPLATE_ACTION_SIGMASK => {
            // SAFETY: the caller answers for the action.
            *mask = unsafe { signals(action) };
            return Ok(());
        }
        // SAFETY: the caller answers for the action.
        SPAWN_TEMPLATE_ACTION_SIGDEFAULT => return set_handlers(unsafe { signals(action) }, libc::SIG_DFL),
        // SAFETY: the caller answers for the action.
        SPAWN_TEMPLATE_ACTION_SIGIGNORE => return set_handlers(unsafe { signals(action) }, libc::SIG_IGN),
        SPAWN_TEMPLATE_ACTION_SETSID => (libc::SYS_setsid, [0; 5]),
        SPAWN_TEMPLATE_ACTION_SETPGID => (libc::SYS_setpgid, [0, arg, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_TCSETPGRP => return make_foreground(fd),
        SPAWN_TEMPLATE_ACTION_SETCTTY => (libc::SYS_ioctl, [fd, libc::TIOCSCTTY as usize, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_UMASK => (libc::SYS_umask, [arg, 0, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_RLIMIT => {
            // SAFETY: the caller answers for the action.
            let rlimit = unsafe { payload::<spawn_template_rlimit>(action) };
            // The two limits follow each other as in struct rlimit64.
            let limits = arg.wrapping_add(offset_of!(spawn_template_rlimit, cur));
            (libc::SYS_prlimit64, [0, rlimit.resource as usize, limits, 0, 0])
        }
        SPAWN_TEMPLATE_ACTION_SCHED => (libc::SYS_sched_setattr, [0, arg, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_RESETIDS => return reset_ids(),
        SPAWN_TEMPLATE_ACTION_SETUID => (libc::SYS_setuid, [arg, 0, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_SETGID => (libc::SYS_setgid, [arg, 0, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_SETGROUPS => {
            // SAFETY: the caller answers for the action.
            let groups = unsafe { payload::<spawn_template_groups>(action) };
            (libc::SYS_setgroups, [groups.count as usize, groups.groups as usize, 0, 0, 0])
        }
        SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS => (libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0]),
        SPAWN_TEMPLATE_ACTION_PDEATHSIG => (libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, arg, 0, 0, 0]),
        // The child was born in it.
        SPAWN_TEMPLATE_ACTION_CGROUP => return Ok(()),
        _ => return Err(libc::EINVAL),
    };
    // SAFETY: these calls change nothing but the process, and only read where the action leads to, for which the
    // caller answers.
    unsafe { call(number, args) }.map(drop)
}

/// `close_range(2)` around what stays open.
fn close_range_around(action: &spawn_template_action, mut keep: [RawFd; 2]) -> Result<(), c_int> {
    // -1 is the highest number.
    let (mut first, last) = (action.fd as u32, action.newfd as u32);
    if action.flags & libc::CLOSE_RANGE_CLOEXEC == 0 {
        keep.sort_unstable();
        for kept in keep {
            let Some(kept) = u32::try_from(kept).ok().filter(|kept| (first..=last).contains(kept)) else { continue };
            if first < kept {
                close_range(first, kept.wrapping_sub(1), action.flags)?;
            }
            if kept == last {
                return Ok(());
            }
            first = kept.wrapping_add(1);
        }
    }
    close_range(first, last, action.flags)
}

pub(super) fn close_range(first: u32, last: u32, flags: u32) -> Result<(), c_int> {
    // SAFETY: plain numbers; the descriptors are the child's.
    unsafe { call(libc::SYS_close_range, [first as usize, last as usize, flags as usize, 0, 0]) }.map(drop)
}

/// Opens a file at the number that the action names.
///
/// # Safety
///
/// The `arg` of the action leads to a `struct spawn_template_open`, and that to a path.
unsafe fn open(action: &spawn_template_action) -> Result<(), c_int> {
    // SAFETY: the caller answers for it.
    let open = unsafe { payload::<spawn_template_open>(action) };
    let how = address(&raw const open.how) as usize;
    let args = [action.fd as usize, open.path as usize, how, size_of::<open_how>(), 0];
    // SAFETY: only reads the path and `how`.
    let fd = match unsafe { call(libc::SYS_openat2, args) } {
        // Emulators do not have it. The older call can do all but restrict how the path is resolved.
        Err(libc::ENOSYS) if open.how.resolve == 0 => {
            let args = [action.fd as usize, open.path as usize, open.how.flags as usize, open.how.mode as usize, 0];
            // SAFETY: only reads the path.
            unsafe { call(libc::SYS_openat, args) }
        }
        result => result,
    }?;
    let target = action.newfd as usize;
    if fd == target {
        return Ok(());
    }
    let flags = open.how.flags & libc::O_CLOEXEC as u64;
    // SAFETY: plain numbers; the descriptors are the child's.
    let result = unsafe { call(libc::SYS_dup3, [fd, target, flags as usize, 0, 0]) };
    // SAFETY: likewise.
    let _ = unsafe { call(libc::SYS_close, [fd, 0, 0, 0, 0]) };
    result.map(drop)
}

/// Makes the process group of the calling process the foreground one of a terminal.
fn make_foreground(terminal: usize) -> Result<(), c_int> {
    // SAFETY: takes nothing but a number.
    let group = unsafe { call(libc::SYS_getpgid, [0; 5]) }? as pid_t;
    let group = address(&raw const group) as usize;
    // SAFETY: reads the local whose address it is given.
    unsafe { call(libc::SYS_ioctl, [terminal, libc::TIOCSPGRP as usize, group, 0, 0]) }.map(drop)
}

/// Sets the effective ids to the real ones.
fn reset_ids() -> Result<(), c_int> {
    let keep = usize::MAX;
    // SAFETY: these four take nothing but numbers.
    let uid = unsafe { call(libc::SYS_getuid, [0; 5]) }?;
    // SAFETY: as above.
    let gid = unsafe { call(libc::SYS_getgid, [0; 5]) }?;
    // SAFETY: as above.
    unsafe { call(libc::SYS_setresgid, [keep, gid, keep, 0, 0]) }?;
    // SAFETY: as above.
    unsafe { call(libc::SYS_setresuid, [keep, uid, keep, 0, 0]) }.map(drop)
}

/// What the `arg` of an action leads to.
///
/// # Safety
///
/// It leads to a `T`, for as long as the action lives.
unsafe fn payload<T>(action: &spawn_template_action) -> &T {
    // SAFETY: the caller answers for it.
    unsafe { &*ptr::with_exposed_provenance::<T>(action.arg as usize) }
}

/// The set of signals that an action names.
///
/// # Safety
///
/// Its `arg` leads to a `struct spawn_template_sigset`, and that to a set.
unsafe fn signals(action: &spawn_template_action) -> u64 {
    // SAFETY: the caller answers for it.
    let set = unsafe { payload::<spawn_template_sigset>(action) };
    // SAFETY: likewise.
    unsafe { ptr::with_exposed_provenance::<u64>(set.sigset as usize).read_unaligned() }
}
