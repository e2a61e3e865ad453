//! What can go wrong.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// Why an operation of this crate failed.
///
/// Its text includes that of the operating system's error, which therefore is not repeated as
/// [`source`](std::error::Error::source).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be expressed to the kernel; nothing was asked of it.
    Input(InvalidInput),
    /// A system call failed.
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
    /// `spawn_template_spawn`
    Spawn,
    /// `waitid` on the child's pidfd
    Wait,
    /// `pidfd_send_signal` to the child
    SendSignal,
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
    /// More than [`SPAWN_TEMPLATE_MAX_ACTIONS`](crate::uapi::SPAWN_TEMPLATE_MAX_ACTIONS) actions.
    TooManyActions,
    /// The action with this index names a negative descriptor.
    NegativeFd(usize),
    /// The action with this index closes a range whose end is below its start.
    EmptyRange(usize),
    /// The action with this index takes descriptor `fd` of the child, where no earlier action placed anything.
    #[non_exhaustive]
    NothingPlaced {
        /// Index of the action.
        action: usize,
        /// The number in the child.
        fd: RawFd,
    },
    /// The action with this index takes the caller's descriptor `fd`, but an earlier action placed something else at
    /// the same number in the child, and the kernel would take that.
    ///
    /// To be safe from it, use a descriptor before its number is a target, or place descriptors at numbers that the caller
    /// does not use.
    #[non_exhaustive]
    Overwritten {
        /// Index of the action.
        action: usize,
        /// The number of the caller's descriptor.
        fd: RawFd,
    },
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
            Error::Os { error, .. } => error.raw_os_error(),
            Error::Input(_) | Error::Reply(_) => None,
        }
    }

    /// Whether the reason is that this kernel has no spawn templates (`ENOSYS`).
    pub fn is_unsupported(&self) -> bool {
        let start = matches!(self, Error::Os { call: Call::Create | Call::Spawn, .. });
        start && self.raw_os_error() == Some(libc::ENOSYS)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input(what) => what.fmt(f),
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
            Error::Os { error, .. } => error,
            Error::Input(what) => io::Error::new(io::ErrorKind::InvalidInput, what),
            Error::Reply(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Create => "spawn_template_create",
            Call::Spawn => "spawn_template_spawn",
            Call::Wait => "waitid",
            Call::SendSignal => "pidfd_send_signal",
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
            InvalidInput::NegativeFd(index) => write!(f, "action {index} names a negative descriptor"),
            InvalidInput::EmptyRange(index) => write!(f, "action {index} closes a range that ends before it starts"),
            InvalidInput::NothingPlaced { action, fd } => {
                write!(f, "action {action} takes descriptor {fd} of the child, where no earlier action placed anything")
            }
            InvalidInput::Overwritten { action, fd } => {
                write!(f, "action {action} takes the caller's descriptor {fd}, which an earlier action replaced")
            }
            InvalidInput::SignalNumber(number) => write!(f, "{number} is not a signal number"),
        }
    }
}

impl std::error::Error for InvalidInput {}
