// SPDX-License-Identifier: GPL-2.0

//! What the child will do, checked in the caller.
//!
//! Everything that lies in the caller's memory or descriptor table is fetched here, before the child
//! exists: a bad pointer is an error of the call, and no other thread can change what was asked for.
//! The child gets paths, masks and files, never pointers or descriptors of the caller.

use crate::{
    held_file::HeldFile,
    uapi::{
        self,
        spawn_template_action,
        spawn_template_open,
        spawn_template_sigset, //
    },
    user_string::UserString, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The signals that can neither be blocked nor have another action than the default.
pub(crate) const UNBLOCKABLE: u64 = 1 << (bindings::SIGKILL - 1) | 1 << (bindings::SIGSTOP - 1);

/// Where an action finds the file it works on.
pub(crate) enum Source {
    /// In the child's own table, at this number.
    Child(u32),
    /// It was open in the caller.
    Caller(HeldFile),
    /// Nowhere: the step fails, when its turn comes.
    NotOpen,
}

/// Where an OPEN action starts from.
pub(crate) enum Base {
    /// The working directory.
    Cwd,
    /// A directory.
    Dir(Source),
}

/// One action, ready to be executed.
pub(crate) enum Step {
    Close {
        fd: u32,
    },
    Dup {
        source: Source,
        newfd: u32,
        cloexec: bool,
    },
    Chdir {
        dir: Source,
    },
    Open {
        base: Base,
        path: UserString,
        how: bindings::open_how,
        newfd: u32,
    },
    CloseRange {
        first: u32,
        last: u32,
        flags: u32,
    },
    /// The signals to block.
    SigMask(u64),
    /// The signals whose action becomes the default one.
    SigDefault(u64),
}

/// What `fd` means in the child after some steps.
enum Slot {
    /// A step put something there.
    Placed,
    /// A step closed it.
    Closed,
    /// No step touched it.
    Untouched,
}

/// A descriptor that the child inherits because no action says otherwise.
pub(crate) struct Stdio {
    pub(crate) file: HeldFile,
    pub(crate) cloexec: bool,
}

/// All the child does before it execs.
pub(crate) struct Plan {
    /// The child starts with a copy of the caller's descriptor table.
    pub(crate) inherit: bool,
    /// Without `inherit`: what it starts with as 0, 1 and 2.
    pub(crate) stdio: [Option<Stdio>; 3],
    pub(crate) steps: KVec<Step>,
}

impl Plan {
    /// Reads and checks `len` actions at `addr`.
    ///
    /// `E2BIG` for too many; `EINVAL` for a count without an array, an unknown type or a field that
    /// is wrong or not used; `EFAULT` for memory that cannot be read.
    pub(crate) fn read(inherit: bool, addr: u64, len: u64) -> Result<Self> {
        if len > u64::from(bindings::SPAWN_TEMPLATE_MAX_ACTIONS) {
            return Err(E2BIG);
        }
        // The limit above makes it fit.
        let len = len as usize;
        if addr == 0 && len != 0 {
            return Err(EINVAL);
        }

        let mut plan = Self {
            inherit,
            stdio: if inherit {
                [None, None, None]
            } else {
                [0, 1, 2].map(inherited)
            },
            steps: KVec::with_capacity(len, GFP_KERNEL_ACCOUNT)?,
        };
        let size = len * size_of::<spawn_template_action>();
        let mut reader = UserSlice::new(UserPtr::from_addr(addr as usize), size).reader();
        for _ in 0..len {
            let spawn_template_action(action) = reader.read()?;
            let step = plan.step(&action)?;
            plan.steps.push(step, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(plan)
    }

    /// Checks one action and resolves what it refers to.
    fn step(&self, action: &bindings::spawn_template_action) -> Result<Step> {
        let newfd = || u32::try_from(action.newfd).map_err(|_| EINVAL);
        let unused = |used: bool| if used { Err(EINVAL) } else { Ok(()) };
        let no_flags = || unused(action.flags != 0);
        let no_newfd = || unused(action.newfd != 0);
        let no_arg = || unused(action.arg != 0);

        match action.type_ {
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CLOSE => {
                no_flags()?;
                no_newfd()?;
                no_arg()?;
                Ok(Step::Close {
                    fd: number(action.fd)?,
                })
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_DUP2 => {
                no_arg()?;
                let fd = number(action.fd)?;
                let newfd = newfd()?;
                let cloexec = match action.flags {
                    0 => false,
                    bindings::O_CLOEXEC if fd != newfd => true,
                    _ => return Err(EINVAL),
                };
                Ok(Step::Dup {
                    source: self.source(fd),
                    newfd,
                    cloexec,
                })
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_FCHDIR => {
                no_flags()?;
                no_newfd()?;
                no_arg()?;
                Ok(Step::Chdir {
                    dir: self.source(number(action.fd)?),
                })
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_OPEN => {
                no_flags()?;
                let newfd = newfd()?;
                if action.arg == 0 || (action.fd < 0 && action.fd != bindings::AT_FDCWD) {
                    return Err(EINVAL);
                }
                let spawn_template_open(open) = uapi::read(action.arg)?;
                let path = uapi::read_path(open.path)?;
                if path.is_empty() {
                    return Err(ENOENT);
                }
                // SAFETY: `how` is a valid structure.
                to_result(unsafe { bindings::check_open_how(&open.how) })?;
                let absolute = path.to_bytes().starts_with(b"/")
                    && open.how.resolve & u64::from(bindings::RESOLVE_IN_ROOT) == 0;
                Ok(Step::Open {
                    // Like openat2(), do not look at a directory that does not matter.
                    base: match u32::try_from(action.fd) {
                        Ok(fd) if !absolute => Base::Dir(self.source(fd)),
                        _ => Base::Cwd,
                    },
                    path,
                    how: open.how,
                    newfd,
                })
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CLOSE_RANGE => {
                no_arg()?;
                let first = number(action.fd)?;
                let last = if action.newfd == -1 {
                    u32::MAX
                } else {
                    newfd()?
                };
                let known = bindings::CLOSE_RANGE_UNSHARE | bindings::CLOSE_RANGE_CLOEXEC;
                if first > last || action.flags & !known != 0 {
                    return Err(EINVAL);
                }
                Ok(Step::CloseRange {
                    first,
                    last,
                    flags: action.flags,
                })
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SIGMASK => {
                Ok(Step::SigMask(sigset(action)?))
            }
            bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SIGDEFAULT => {
                Ok(Step::SigDefault(sigset(action)?))
            }
            _ => Err(EINVAL),
        }
    }

    /// Finds out what `fd` will be when the next step is due.
    fn source(&self, fd: u32) -> Source {
        // A copied table answers by itself.
        if self.inherit {
            return Source::Child(fd);
        }
        match self.slot(fd) {
            Slot::Placed => Source::Child(fd),
            Slot::Closed => Source::NotOpen,
            Slot::Untouched if (fd as usize) < self.stdio.len() => Source::Child(fd),
            Slot::Untouched => HeldFile::from_fd(fd).map_or(Source::NotOpen, Source::Caller),
        }
    }

    /// The last word of the steps so far on `fd`.
    fn slot(&self, fd: u32) -> Slot {
        for step in self.steps.iter().rev() {
            match step {
                Step::Dup { newfd, .. } | Step::Open { newfd, .. } if *newfd == fd => {
                    return Slot::Placed;
                }
                Step::Close { fd: closed } if *closed == fd => return Slot::Closed,
                Step::CloseRange { first, last, flags }
                    if (*first..=*last).contains(&fd)
                        && flags & bindings::CLOSE_RANGE_CLOEXEC == 0 =>
                {
                    return Slot::Closed;
                }
                _ => (),
            }
        }
        Slot::Untouched
    }
}

/// A descriptor number in an action.
fn number(fd: i32) -> Result<u32> {
    u32::try_from(fd).map_err(|_| EINVAL)
}

/// What the calling task has open as `fd`, with its close-on-exec flag.
fn inherited(fd: u32) -> Option<Stdio> {
    let file = HeldFile::from_fd(fd).ok()?;
    Some(Stdio {
        file,
        // SAFETY: The calling task has a descriptor table.
        cloexec: unsafe { bindings::get_close_on_exec(fd) },
    })
}

/// The signals an action is about.
fn sigset(action: &bindings::spawn_template_action) -> Result<u64> {
    if action.flags != 0 || action.fd != 0 || action.newfd != 0 || action.arg == 0 {
        return Err(EINVAL);
    }
    let spawn_template_sigset(set) = uapi::read(action.arg)?;
    if set.sigsetsize != size_of::<u64>() as u64 {
        return Err(EINVAL);
    }
    let mut reader =
        UserSlice::new(UserPtr::from_addr(set.sigset as usize), size_of::<u64>()).reader();
    let signals: u64 = reader.read()?;

    Ok(signals & !UNBLOCKABLE)
}
