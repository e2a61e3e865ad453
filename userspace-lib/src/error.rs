//! What can go wrong.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use crate::raw::Stage;
use crate::{Resource, Step};

/// Why an operation of this crate failed.
///
/// Its text includes that of the operating system's error, which therefore is not repeated as
/// [`source`](std::error::Error::source).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be expressed to the kernel; nothing was asked of it.
    Input(InvalidInput),
    /// The process could not be started, and none is left behind.
    #[non_exhaustive]
    Spawn {
        /// What should have been started: the program as the command names it.
        program: OsString,
        /// How far it came; `None` when the system call itself is missing or forbidden.
        stage: Option<Stage>,
        /// Which part of the command is wrong or failed, if it was one.
        step: Option<Step>,
        /// The error; [`io::Error::raw_os_error`] is the `errno`.
        error: io::Error,
    },
    /// Another system call failed.
    #[non_exhaustive]
    Os {
        /// Which call.
        call: Call,
        /// Its error; [`io::Error::raw_os_error`] is the `errno`.
        error: io::Error,
    },
    /// The kernel answered something that the interface does not allow; the text says what.
    Reply(&'static str),
}

/// A system call, or a group of them, that an [`Error`] can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `spawn_template_create`
    Create,
    /// `openat2`, `statx` and the like on the executable, where the kernel has no templates
    Executable,
    /// `pipe2`, for a stream that is piped
    Pipe,
    /// `fcntl` with `F_DUPFD_CLOEXEC`, for a descriptor whose number is wanted in the child for something else
    Duplicate,
    /// `getpriority`, for a scheduling policy without a nice value
    Priority,
    /// Reading from or writing to the child's standard streams
    Streams,
    /// `waitid` on the child's pidfd
    Wait,
    /// `pidfd_send_signal` to the child
    SendSignal,
    /// Watching the child's pidfd in a tokio runtime
    Watch,
    /// Reading `/proc/self/fdinfo` of a template
    Fdinfo,
}

/// What is wrong with a request that this crate refused by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidInput {
    /// A path contains a NUL byte.
    NulInPath,
    /// A path that must be absolute is not.
    RelativePath,
    /// The argument with this index, counted from argument 0, contains a NUL byte.
    NulInArgument(usize),
    /// The name or the value of an environment variable contains a NUL byte.
    NulInEnvironment,
    /// The name of an environment variable is empty or contains `=`.
    EnvironmentName,
    /// More than [`SPAWN_TEMPLATE_MAX_ACTIONS`](crate::uapi::SPAWN_TEMPLATE_MAX_ACTIONS) steps.
    TooManyActions,
    /// This step names a negative descriptor.
    NegativeFd(Step),
    /// This step closes a range whose end is below its start.
    EmptyRange(Step),
    /// Two placements have the same number in the child: [`Command::fd`](crate::Command::fd) twice, or together with a
    /// standard stream.
    FdCollision(RawFd),
    /// This step takes descriptor `fd` of the child, where no earlier one placed anything.
    #[non_exhaustive]
    NothingPlaced {
        /// Which step.
        step: Step,
        /// The number in the child.
        fd: RawFd,
    },
    /// Two cgroups.
    TwoCgroups,
    /// A umask has bits outside `0o777`.
    Umask(u32),
    /// A soft limit above the hard one.
    SoftLimit(Resource),
    /// A process group id below 0.
    ProcessGroup(i32),
    /// A user or group id of `u32::MAX`, which stands for none.
    Id(Step),
    /// [`Command::pre_exec`](crate::Command::pre_exec) with a template that has no path, or together with
    /// [`Mode::Template`](crate::Mode::Template).
    PreExec,
    /// Not a signal number: signals are 1 to 64.
    SignalNumber(i32),
}

impl Error {
    pub(crate) fn os(call: Call, error: io::Error) -> Self {
        Error::Os { call, error }
    }

    /// The `errno` of the system call that failed, if one did.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Spawn { error, .. } | Error::Os { error, .. } => error.raw_os_error(),
            Error::Input(_) | Error::Reply(_) => None,
        }
    }

    /// Whether the reason is that this kernel has no spawn templates (`ENOSYS`).
    pub fn is_unsupported(&self) -> bool {
        let start = matches!(self, Error::Os { call: Call::Create, .. } | Error::Spawn { stage: None, .. });
        start && self.raw_os_error() == Some(libc::ENOSYS)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input(what) => what.fmt(f),
            Error::Spawn { program, .. } if self.is_unsupported() => {
                write!(f, "{}: this kernel has no spawn templates", Path::new(program).display())
            }
            Error::Spawn { program, stage, step, error } => {
                write!(f, "{}: ", Path::new(program).display())?;
                match (step, stage) {
                    (Some(step), _) => write!(f, "{step}: ")?,
                    (None, Some(stage)) => write!(f, "{stage}: ")?,
                    (None, None) => {}
                }
                error.fmt(f)
            }
            Error::Os { call, .. } if self.is_unsupported() => write!(f, "{call}: this kernel has no spawn templates"),
            Error::Os { call, error } => write!(f, "{call}: {error}"),
            Error::Reply(what) => write!(f, "unexpected answer from the kernel: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<InvalidInput> for Error {
    fn from(what: InvalidInput) -> Self {
        Error::Input(what)
    }
}

/// Keeps the `errno` of a failed system call, so that [`io::Error::raw_os_error`] and [`io::Error::kind`] tell the same
/// as for `std::process`.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Spawn { error, .. } | Error::Os { error, .. } => error,
            Error::Input(what) => io::Error::new(io::ErrorKind::InvalidInput, what),
            Error::Reply(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Create => "spawn_template_create",
            Call::Executable => "opening the executable",
            Call::Pipe => "pipe2",
            Call::Duplicate => "fcntl(F_DUPFD_CLOEXEC)",
            Call::Priority => "getpriority",
            Call::Streams => "reading or writing the child's streams",
            Call::Wait => "waitid",
            Call::SendSignal => "pidfd_send_signal",
            Call::Watch => "watching the pidfd",
            Call::Fdinfo => "reading /proc/self/fdinfo",
        })
    }
}

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidInput::NulInPath => write!(f, "the path contains a NUL byte"),
            InvalidInput::RelativePath => write!(f, "the path is not absolute"),
            InvalidInput::NulInArgument(index) => write!(f, "argument {index} contains a NUL byte"),
            InvalidInput::NulInEnvironment => write!(f, "an environment variable contains a NUL byte"),
            InvalidInput::EnvironmentName => write!(f, "the name of an environment variable is empty or contains '='"),
            InvalidInput::TooManyActions => {
                write!(f, "more than {} actions", crate::uapi::SPAWN_TEMPLATE_MAX_ACTIONS)
            }
            InvalidInput::NegativeFd(step) => write!(f, "{step} names a negative descriptor"),
            InvalidInput::EmptyRange(step) => write!(f, "{step} closes a range that ends before it starts"),
            InvalidInput::FdCollision(fd) => write!(f, "two descriptors are placed at {fd}"),
            InvalidInput::NothingPlaced { step, fd } => {
                write!(f, "{step} takes descriptor {fd} of the child, where nothing was placed before")
            }
            InvalidInput::TwoCgroups => write!(f, "more than one cgroup"),
            InvalidInput::Umask(mask) => write!(f, "the umask {mask:#o} has bits outside 0o777"),
            InvalidInput::SoftLimit(resource) => write!(f, "the soft limit of {resource:?} is above the hard one"),
            InvalidInput::ProcessGroup(id) => write!(f, "{id} is not a process group"),
            InvalidInput::Id(step) => write!(f, "{step}: {} is not an id", u32::MAX),
            InvalidInput::PreExec => write!(f, "pre_exec needs fork and exec of a path"),
            InvalidInput::SignalNumber(number) => write!(f, "{number} is not a signal number"),
        }
    }
}

impl std::error::Error for InvalidInput {}
