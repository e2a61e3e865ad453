// SPDX-License-Identifier: GPL-2.0

//! One action: read and checked in the caller, to be carried out in the child.

use crate::{
    groups::Groups,
    held_file::HeldFile,
    plan::Plan,
    uapi::{
        self,
        spawn_template_open,
        spawn_template_rlimit,
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
const UNBLOCKABLE: u64 = 1 << (bindings::SIGKILL - 1) | 1 << (bindings::SIGSTOP - 1);

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
    Fchdir(Source),
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
    Chdir(UserString),
    Setsid,
    Setpgid(bindings::pid_t),
    Tcsetpgrp(Source),
    Setctty(Source),
    Umask(bindings::umode_t),
    Rlimit {
        resource: u32,
        limit: bindings::rlimit,
    },
    Sched(KBox<bindings::sched_attr>),
    ResetIds,
    Setuid(bindings::uid_t),
    Setgid(bindings::gid_t),
    Setgroups(Groups),
    NoNewPrivs,
    /// The signal, or 0.
    Pdeathsig(u8),
    /// The signals that become ignored.
    SigIgnore(u64),
    /// The child is born in the cgroup that the caller has open as this.
    Cgroup(c_int),
}

/// The types of actions that are known, each as a bit of its number. They have no gaps, and 0 is no
/// type.
pub(crate) const TYPES: u64 =
    (2 << bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CGROUP) - 2;

/// One action: what the child does, and what the caller called it by.
pub(crate) struct Action {
    pub(crate) step: Step,
    /// The fields of the same names.
    pub(crate) fd: c_int,
    pub(crate) newfd: c_int,
    pub(crate) flags: u32,
    pub(crate) arg: u64,
    pub(crate) arg_size: u64,
    /// The user address that is in what `arg` points to: of a path, a set, a list.
    pub(crate) inner: u64,
    /// The user address of the action.
    pub(crate) addr: u64,
}

/// Checks `action`, which was read from `addr`, and resolves what it refers to. `plan` holds the
/// actions before it.
pub(crate) fn read(
    action: &bindings::spawn_template_action,
    addr: u64,
    plan: &Plan,
) -> Result<Action> {
    let mut inner = 0;
    Ok(Action {
        step: read_step(action, plan, &mut inner)?,
        fd: action.fd,
        newfd: action.newfd,
        flags: action.flags,
        arg: action.arg,
        arg_size: action.arg_size,
        inner,
        addr,
    })
}

fn read_step(
    action: &bindings::spawn_template_action,
    plan: &Plan,
    inner: &mut u64,
) -> Result<Step> {
    let fields = Fields(action);

    match action.type_ {
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CLOSE => {
            fields.only(&[Field::Fd])?;
            Ok(Step::Close { fd: fields.fd()? })
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_DUP2 => {
            fields.only(&[Field::Fd, Field::Newfd, Field::Flags])?;
            let (fd, newfd) = (fields.fd()?, fields.newfd()?);
            let cloexec = match action.flags {
                0 => false,
                bindings::O_CLOEXEC if fd != newfd => true,
                _ => return Err(EINVAL),
            };
            Ok(Step::Dup {
                source: plan.source(fd),
                newfd,
                cloexec,
            })
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_FCHDIR => {
            fields.only(&[Field::Fd])?;
            Ok(Step::Fchdir(plan.source(fields.fd()?)))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_OPEN => {
            fields.only(&[Field::Fd, Field::Newfd, Field::Arg, Field::ArgSize])?;
            open(action, plan, inner)
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CLOSE_RANGE => {
            fields.only(&[Field::Fd, Field::Newfd, Field::Flags])?;
            let first = fields.fd()?;
            let last = if action.newfd == -1 {
                u32::MAX
            } else {
                fields.newfd()?
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
            fields.only(&[Field::Arg, Field::ArgSize])?;
            Ok(Step::SigMask(sigset(action, inner)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SIGDEFAULT => {
            fields.only(&[Field::Arg, Field::ArgSize])?;
            Ok(Step::SigDefault(sigset(action, inner)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CHDIR => {
            fields.only(&[Field::Arg])?;
            Ok(Step::Chdir(path(action.arg, false)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETSID => {
            fields.only(&[])?;
            Ok(Step::Setsid)
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETPGID => {
            fields.only(&[Field::Arg])?;
            Ok(Step::Setpgid(action.arg.try_into()?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_TCSETPGRP => {
            fields.only(&[Field::Fd])?;
            Ok(Step::Tcsetpgrp(plan.source(fields.fd()?)))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETCTTY => {
            fields.only(&[Field::Fd])?;
            Ok(Step::Setctty(plan.source(fields.fd()?)))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_UMASK => {
            fields.only(&[Field::Arg])?;
            if action.arg > 0o777 {
                return Err(EINVAL);
            }
            Ok(Step::Umask(action.arg as bindings::umode_t))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_RLIMIT => {
            fields.only(&[Field::Arg, Field::ArgSize])?;
            rlimit(action)
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SCHED => {
            fields.only(&[Field::Arg])?;
            let attr = uapi::read_sched_attr(action.arg)?;
            Ok(Step::Sched(KBox::new(attr, GFP_KERNEL_ACCOUNT)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_RESETIDS => {
            fields.only(&[])?;
            Ok(Step::ResetIds)
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETUID => {
            fields.only(&[Field::Arg])?;
            Ok(Step::Setuid(action.arg.try_into()?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETGID => {
            fields.only(&[Field::Arg])?;
            Ok(Step::Setgid(action.arg.try_into()?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SETGROUPS => {
            fields.only(&[Field::Arg, Field::ArgSize])?;
            Ok(Step::Setgroups(Groups::read(action, inner)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS => {
            fields.only(&[])?;
            Ok(Step::NoNewPrivs)
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_PDEATHSIG => {
            fields.only(&[Field::Arg])?;
            if action.arg > u64::from(bindings::_NSIG) {
                return Err(EINVAL);
            }
            Ok(Step::Pdeathsig(action.arg as u8))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_SIGIGNORE => {
            fields.only(&[Field::Arg, Field::ArgSize])?;
            Ok(Step::SigIgnore(sigset(action, inner)?))
        }
        bindings::spawn_template_action_type_SPAWN_TEMPLATE_ACTION_CGROUP => {
            fields.only(&[Field::Fd])?;
            if action.fd < 0 || plan.cgroup.is_some() {
                return Err(EINVAL);
            }
            // SAFETY: May be called with any number.
            to_result(unsafe { bindings::spawn_check_cgroup(action.fd) })?;
            Ok(Step::Cgroup(action.fd))
        }
        _ => Err(EINVAL),
    }
}

/// A field that some actions use.
#[derive(PartialEq)]
enum Field {
    Flags,
    Fd,
    Newfd,
    Arg,
    ArgSize,
}

/// The fields of an action.
struct Fields<'a>(&'a bindings::spawn_template_action);

impl Fields<'_> {
    /// `EINVAL` if a field is set that is none of `used`.
    fn only(&self, used: &[Field]) -> Result {
        let unused = [
            (Field::Flags, self.0.flags == 0),
            (Field::Fd, self.0.fd == 0),
            (Field::Newfd, self.0.newfd == 0),
            (Field::Arg, self.0.arg == 0),
            (Field::ArgSize, self.0.arg_size == 0),
        ];
        if unused
            .iter()
            .all(|(field, is_zero)| *is_zero || used.contains(field))
        {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    fn fd(&self) -> Result<u32> {
        u32::try_from(self.0.fd).map_err(|_| EINVAL)
    }

    fn newfd(&self) -> Result<u32> {
        u32::try_from(self.0.newfd).map_err(|_| EINVAL)
    }
}

/// An OPEN action.
fn open(action: &bindings::spawn_template_action, plan: &Plan, inner: &mut u64) -> Result<Step> {
    let newfd = u32::try_from(action.newfd).map_err(|_| EINVAL)?;
    if action.fd < 0 && action.fd != bindings::AT_FDCWD {
        return Err(EINVAL);
    }
    let least = bindings::SPAWN_TEMPLATE_OPEN_SIZE_VER0;
    let spawn_template_open(open) = uapi::read_arg(action, least)?;
    *inner = open.path;
    let how = open.how;
    let may_be_empty = how.flags & u64::from(bindings::O_EMPTYPATH) != 0;
    let path = path(open.path, may_be_empty)?;
    // SAFETY: `how` is a valid structure.
    to_result(unsafe { bindings::check_open_how(&how) })?;
    let absolute = path.to_bytes().starts_with(b"/")
        && how.resolve & u64::from(bindings::RESOLVE_IN_ROOT) == 0;
    Ok(Step::Open {
        // Like openat2(), do not look at a directory that does not matter.
        base: match u32::try_from(action.fd) {
            Ok(fd) if !absolute => Base::Dir(plan.source(fd)),
            _ => Base::Cwd,
        },
        path,
        how,
        newfd,
    })
}

/// A path; `ENOENT` if it is empty, unless it may be.
fn path(addr: u64, may_be_empty: bool) -> Result<UserString> {
    let path = uapi::read_path(addr)?;
    if path.is_empty() && !may_be_empty {
        return Err(ENOENT);
    }
    Ok(path)
}

/// An RLIMIT action.
fn rlimit(action: &bindings::spawn_template_action) -> Result<Step> {
    let least = bindings::SPAWN_TEMPLATE_RLIMIT_SIZE_VER0;
    let spawn_template_rlimit(args) = uapi::read_arg(action, least)?;
    if args.resource >= u64::from(bindings::RLIM_NLIMITS) || args.cur > args.max {
        return Err(EINVAL);
    }
    Ok(Step::Rlimit {
        resource: args.resource as u32,
        limit: bindings::rlimit {
            rlim_cur: args.cur as usize,
            rlim_max: args.max as usize,
        },
    })
}

/// The signals in the set that `action` refers to, without those that nothing can be done about.
///
/// `inner` is set to where the set itself is.
fn sigset(action: &bindings::spawn_template_action, inner: &mut u64) -> Result<u64> {
    let least = bindings::SPAWN_TEMPLATE_SIGSET_SIZE_VER0;
    let spawn_template_sigset(set) = uapi::read_arg(action, least)?;
    *inner = set.sigset;
    if set.sigsetsize != size_of::<u64>() as u64 {
        return Err(EINVAL);
    }
    let mut reader =
        UserSlice::new(UserPtr::from_addr(set.sigset as usize), size_of::<u64>()).reader();
    let signals: u64 = reader.read()?;

    Ok(signals & !UNBLOCKABLE)
}
