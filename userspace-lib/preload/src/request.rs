//! Attributes and file actions as actions of a template: attributes first, then the file actions in their order.

use std::ptr;
use std::slice;

use libc::c_int;
use spawn_template::uapi::*;

use crate::attributes::{Attributes, SETCGROUP, SETSID, to_sigset};
use crate::file_actions::Step;
use crate::stats::Reason;

/// More actions than attributes can become.
const ATTRIBUTES: usize = 8;

/// How many actions there is room for on the stack, which may be a small one.
const FEW: usize = 32;

/// Signals that the C library uses for its threads, and leaves out of every mask: 32 and 33.
const INTERNAL_SIGNALS: u64 = 0b11 << 31;

/// `SCHED_FLAG_KEEP_POLICY` of `sched_setattr(2)`
const KEEP_POLICY: u64 = 0x08;

/// Whether a file action changes the working directory.
pub(crate) fn changes_directory(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Chdir(_) | Step::Fchdir(_)))
}

/// Whether the actions cannot be done a second time.
pub(crate) fn is_exclusive(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Open(_, open) if open.is_exclusive()))
}

/// Calls `then` with the actions, which are good for that long.
pub(crate) fn with<R>(
    attributes: &Attributes,
    steps: &[Step],
    then: impl FnOnce(&[spawn_template_action]) -> R,
) -> Result<R, Reason> {
    let flag = |flag: c_int| c_int::from(attributes.flags) & flag != 0;
    let sigdefault = to_sigset(attributes.sigdefault);
    let sigmask = to_sigset(attributes.sigmask & !INTERNAL_SIGNALS);
    let size = size_of::<u64>() as u64;
    let sigdefault = spawn_template_sigset { sigset: address(&sigdefault), sigsetsize: size };
    let sigmask = spawn_template_sigset { sigset: address(&sigmask), sigsetsize: size };
    let scheduling = scheduling(attributes)?;

    // An open is two actions.
    let opens = steps.iter().filter(|step| matches!(step, Step::Open(..))).count();
    let most = steps.len() + opens + ATTRIBUTES;
    let mut few = [spawn_template_action::default(); FEW];
    let mut many = None;
    let room = if most <= FEW { &mut few[..] } else { many.insert(Mapping::new(most)?).actions() };
    let mut list = List { room, len: 0 };

    if flag(libc::POSIX_SPAWN_SETSIGDEF) {
        list.add(SPAWN_TEMPLATE_ACTION_SIGDEFAULT, 0, 0, address(&sigdefault))?;
    }
    if let Some(scheduling) = &scheduling {
        list.add(SPAWN_TEMPLATE_ACTION_SCHED, 0, 0, address(scheduling))?;
    }
    if flag(SETSID.into()) {
        list.add(SPAWN_TEMPLATE_ACTION_SETSID, 0, 0, 0)?;
    }
    if flag(libc::POSIX_SPAWN_SETPGROUP) {
        // One below zero becomes too large a number, which is the same error.
        list.add(SPAWN_TEMPLATE_ACTION_SETPGID, 0, 0, i64::from(attributes.pgroup) as u64)?;
    }
    if flag(libc::POSIX_SPAWN_RESETIDS) {
        list.add(SPAWN_TEMPLATE_ACTION_RESETIDS, 0, 0, 0)?;
    }
    if flag(SETCGROUP.into()) {
        list.add(SPAWN_TEMPLATE_ACTION_CGROUP, attributes.cgroup, 0, 0)?;
    }
    if flag(libc::POSIX_SPAWN_SETSIGMASK) {
        list.add(SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, address(&sigmask))?;
    }
    for step in steps {
        match *step {
            Step::Close(fd) => list.add(SPAWN_TEMPLATE_ACTION_CLOSE, fd, 0, 0)?,
            Step::Dup2(fd, newfd) => list.add(SPAWN_TEMPLATE_ACTION_DUP2, fd, newfd, 0)?,
            Step::Open(fd, ref open) => {
                // What had this number is closed before the file is opened; the kernel's action does it afterwards.
                list.add(SPAWN_TEMPLATE_ACTION_CLOSE, fd, 0, 0)?;
                list.add(SPAWN_TEMPLATE_ACTION_OPEN, libc::AT_FDCWD, fd, address(open.kernel()))?;
            }
            Step::Chdir(path) => list.add(SPAWN_TEMPLATE_ACTION_CHDIR, 0, 0, address(path))?,
            Step::Fchdir(fd) => list.add(SPAWN_TEMPLATE_ACTION_FCHDIR, fd, 0, 0)?,
            Step::CloseFrom(fd) => list.add(SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, fd, -1, 0)?,
            Step::Tcsetpgrp(fd) => list.add(SPAWN_TEMPLATE_ACTION_TCSETPGRP, fd, 0, 0)?,
        }
    }
    Ok(then(list.finish()?))
}

/// What `sched_setscheduler(2)` or `sched_setparam(2)` would set.
fn scheduling(attributes: &Attributes) -> Result<Option<libc::sched_attr>, Reason> {
    let flags = c_int::from(attributes.flags);
    let (policy, flags) = if flags & libc::POSIX_SPAWN_SETSCHEDULER != 0 {
        (attributes.policy, 0)
    } else if flags & libc::POSIX_SPAWN_SETSCHEDPARAM != 0 {
        (0, KEEP_POLICY)
    } else {
        return Ok(None);
    };
    // A number below zero becomes too large a one, which is the same error.
    let priority = attributes.priority as u32;
    // Unlike those two calls an action sets the nice value as well, so this is the one that the child is born with.
    let nice = spawn_template::process::nice_of_child().map_err(|_| Reason::Other)?;
    Ok(Some(libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: flags,
        sched_nice: nice,
        sched_priority: priority,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    }))
}

/// The address as the kernel takes it.
pub(crate) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

struct List<'a> {
    room: &'a mut [spawn_template_action],
    len: usize,
}

impl<'a> List<'a> {
    fn add(&mut self, kind: spawn_template_action_type, fd: c_int, newfd: c_int, arg: u64) -> Result<(), Reason> {
        let room = self.room.get_mut(self.len).ok_or(Reason::TooManyActions)?;
        *room = spawn_template_action { type_: kind, flags: 0, fd, newfd, arg, arg_size: 0 };
        self.len += 1;
        Ok(())
    }

    fn finish(self) -> Result<&'a [spawn_template_action], Reason> {
        if self.len > SPAWN_TEMPLATE_MAX_ACTIONS as usize {
            return Err(Reason::TooManyActions);
        }
        self.room.get(..self.len).ok_or(Reason::TooManyActions)
    }
}

/// Room for many actions, without `malloc`: its lock may be held by a thread that a fork has left behind.
struct Mapping {
    start: *mut spawn_template_action,
    len: usize,
}

impl Mapping {
    fn new(actions: usize) -> Result<Self, Reason> {
        // As many as the kernel takes, and attributes.
        let len = actions.min(SPAWN_TEMPLATE_MAX_ACTIONS as usize + ATTRIBUTES);
        let size = len * size_of::<spawn_template_action>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, in no other's place.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED { Err(Reason::Other) } else { Ok(Mapping { start: start.cast(), len }) }
    }

    fn actions(&mut self) -> &mut [spawn_template_action] {
        // SAFETY: the mapping is this large, ours alone, and begins as zeroes, which are actions.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nobody uses any more.
        unsafe { libc::munmap(self.start.cast(), self.len * size_of::<spawn_template_action>()) };
    }
}
