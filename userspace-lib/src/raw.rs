//! Starting a template with vectors and actions in the kernel's own form.
//!
//! For callers that have them already, such as an implementation of `posix_spawn`. Everything else wants
//! [`Command`](crate::Command).

use std::ffi::c_char;
use std::fmt;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use libc::{c_int, pid_t};

use crate::proof::{self, Identity};
use crate::uapi::{
    SPAWN_TEMPLATE_STAGE_ACTION, SPAWN_TEMPLATE_STAGE_ARGUMENTS, SPAWN_TEMPLATE_STAGE_CREATE,
    SPAWN_TEMPLATE_STAGE_EXEC, SPAWN_TEMPLATE_STAGE_IDENTITY, SPAWN_TEMPLATE_STAGE_NONE, spawn_template_action,
    spawn_template_result, spawn_template_spawn_args,
};
use crate::{Kernel, Reason, sys};

/// What to start a template with: `struct spawn_template_spawn_args` without the results.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `SPAWN_TEMPLATE_SPAWN_*`; without `SPAWN_TEMPLATE_SPAWN_NO_PIDFD`, as [`Started`] has one
    pub flags: u64,
    /// The argument vector, as `execve(2)` takes it.
    pub argv: *const *const c_char,
    /// The environment, as `execve(2)` takes it.
    pub envp: *const *const c_char,
    /// What the child does before it runs the program.
    pub actions: &'a [spawn_template_action],
}

/// A started process.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub pid: pid_t,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// How far a spawn came that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The arguments are wrong, cannot be read or are too large, no pidfd can be had, or the descriptor is not the
    /// template any more (`EBADF`).
    Arguments,
    /// The caller may not use the template (`EACCES`), its seccomp filters forbid what the child would do, or the
    /// executable has changed (`ESTALE`).
    Identity,
    /// The child cannot be made: limits, memory, permission to enter the cgroup.
    Create,
    /// An action failed in the child.
    Action,
    /// The child could not execute the program.
    Exec,
}

/// Why a process could not be started; `struct spawn_template_result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// How far it came; `None` when the system call itself is missing or forbidden.
    pub stage: Option<Stage>,
    /// Index of the action that is wrong or failed.
    pub action: Option<usize>,
    /// The `errno`.
    pub error: c_int,
}

impl Failure {
    /// The kernel does not have the system call, or not what was asked of it.
    pub(crate) const MISSING: Failure = Failure { stage: None, action: None, error: libc::ENOSYS };

    pub(crate) fn new(stage: Stage, error: c_int) -> Self {
        Failure { stage: Some(stage), action: None, error }
    }

    /// Why fork and exec can do better, if they can: something forbids the call, or what the child does by it, and no
    /// process was started.
    pub(crate) fn falls_back(&self) -> Option<Reason> {
        match (self.stage, self.action, self.error) {
            (None, ..) => Some(Reason::Unsupported),
            // Of a template that is not the caller's (any more).
            (Some(Stage::Identity), None, libc::ESTALE | libc::EACCES) => None,
            (Some(Stage::Identity), ..) => Some(Reason::Seccomp),
            (Some(Stage::Arguments), None, libc::EMFILE | libc::ENFILE) => Some(Reason::Descriptors),
            _ => None,
        }
    }

    /// The operating system's error.
    pub fn os_error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.stage, self.action) {
            (Some(stage), Some(action)) => write!(f, "{stage}, action {action}: {}", self.os_error()),
            (Some(stage), None) => write!(f, "{stage}: {}", self.os_error()),
            (None, _) => write!(f, "{}", self.os_error()),
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Arguments => "arguments",
            Stage::Identity => "template",
            Stage::Create => "creating the process",
            Stage::Action => "in the child",
            Stage::Exec => "exec",
        })
    }
}

impl Stage {
    /// The stage with this number in the kernel's interface.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            SPAWN_TEMPLATE_STAGE_ARGUMENTS => Some(Stage::Arguments),
            SPAWN_TEMPLATE_STAGE_IDENTITY => Some(Stage::Identity),
            SPAWN_TEMPLATE_STAGE_CREATE => Some(Stage::Create),
            SPAWN_TEMPLATE_STAGE_ACTION => Some(Stage::Action),
            SPAWN_TEMPLATE_STAGE_EXEC => Some(Stage::Exec),
            _ => None,
        }
    }
}

/// The address as the kernel takes it.
pub(crate) fn address<T: ?Sized>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// *spawn_template_spawn* - starts a process from the template that is open as `template` and is `identity`.
///
/// # Errors
///
/// As the system call. `EBADF` when the descriptor is not that template. Without a stage nothing was done, because the
/// kernel does not have or does not know what it takes, or because a filter answered in its place.
///
/// # Safety
///
/// The kernel only reads what `request` leads to, and answers `EFAULT` where it cannot. The descriptors in the actions
/// should be ones that the caller may use.
pub(crate) unsafe fn spawn(template: RawFd, identity: Identity, request: &Request<'_>) -> Result<Started, Failure> {
    let kernel = Kernel::get().filter(|kernel| kernel.can_spawn(request.flags, request.actions));
    if kernel.is_none() {
        return Err(Failure::MISSING);
    }
    let mut pidfd: c_int = -1;
    let mut result = spawn_template_result { stage: u32::MAX, action: -1, ..Default::default() };
    let args = spawn_template_spawn_args {
        flags: request.flags | proof::CHECK_ID,
        template_id: identity.id(),
        pidfd: address(&raw mut pidfd),
        argv: address(request.argv),
        envp: address(request.envp),
        actions: address(request.actions.as_ptr()),
        actions_len: request.actions.len() as u64,
        result: address(&raw mut result),
        result_size: size_of_val(&result) as u64,
        ..Default::default()
    };
    // SAFETY: `pidfd` and `result` may be written to, and the caller answers for the rest.
    let pid = unsafe { sys::spawn_template_spawn(template, &args, size_of_val(&args)) };
    match pid {
        // A filter can answer with a number as well, but then nothing has been written.
        Ok(pid) if pid > 0 && pidfd >= 0 && result.stage == SPAWN_TEMPLATE_STAGE_NONE => {
            // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Started { pid, pidfd })
        }
        Ok(_) => Err(Failure::MISSING),
        Err(error) => Err(Failure {
            stage: Stage::from_number(result.stage),
            action: usize::try_from(result.action).ok(),
            error: error.raw_os_error().unwrap_or(libc::EIO),
        }),
    }
}
