//! Starting a template with vectors and actions in the kernel's own form.
//!
//! For callers that have them already, such as an implementation of `posix_spawn`. Everything else wants
//! [`Command`](crate::Command).

use std::ffi::c_char;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, pid_t};

use crate::sys;
use crate::uapi::{
    SPAWN_TEMPLATE_STAGE_ACTION, SPAWN_TEMPLATE_STAGE_ARGUMENTS, SPAWN_TEMPLATE_STAGE_CREATE,
    SPAWN_TEMPLATE_STAGE_EXEC, SPAWN_TEMPLATE_STAGE_IDENTITY, spawn_template_action, spawn_template_result,
    spawn_template_spawn_args,
};

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
    /// The arguments are wrong, cannot be read or are too large, or no pidfd can be had.
    Arguments,
    /// The caller may not use the template (`EACCES`), its seccomp filters forbid exec, or the executable has changed
    /// (`ESTALE`).
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
    pub(crate) fn new(stage: Stage, error: c_int) -> Self {
        Failure { stage: Some(stage), action: None, error }
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

/// *spawn_template_spawn* - starts a process from the template that is open as `template`.
///
/// # Safety
///
/// The kernel only reads what `request` leads to, and answers `EFAULT` where it cannot. The descriptors in the actions
/// should be ones that the caller may use.
pub(crate) unsafe fn spawn(template: BorrowedFd<'_>, request: &Request<'_>) -> Result<Started, Failure> {
    let mut pidfd: c_int = -1;
    let mut result = spawn_template_result { action: -1, ..Default::default() };
    let args = spawn_template_spawn_args {
        flags: request.flags,
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
    let pid = unsafe { sys::spawn_template_spawn(template.as_raw_fd(), &args, size_of_val(&args)) };
    match pid {
        Ok(pid) => {
            // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Started { pid, pidfd })
        }
        Err(error) => Err(Failure {
            stage: Stage::from_number(result.stage),
            action: usize::try_from(result.action).ok(),
            error: error.raw_os_error().unwrap_or(libc::EIO),
        }),
    }
}
