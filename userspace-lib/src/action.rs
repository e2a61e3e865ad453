//! What the child does before it runs the program.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use libc::c_int;

use crate::uapi::{open_how, spawn_template_rlimit};
use crate::{InvalidInput, SignalSet};

/// A descriptor that an [`Action`] takes as its source.
///
/// Made from a reference to anything that has a descriptor ([`AsFd`]), from a [`BorrowedFd`], from something that owns
/// its descriptor (a [`File`](std::fs::File), an [`OwnedFd`], an end of a pipe), or from a [`ChildFd`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fd<'a> {
    /// A descriptor of the caller, borrowed for as long as the command exists.
    Caller(BorrowedFd<'a>),
    /// A descriptor of the caller that the command owns, together with its clones.
    Owned(Arc<OwnedFd>),
    /// A descriptor of the child.
    Child(ChildFd),
}

/// The number of a descriptor in the child: 0, 1 or 2, or one where an earlier action placed something. With
/// [`inherit_fds`](crate::Command::inherit_fds) any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildFd(pub RawFd);

impl Fd<'_> {
    /// The number that the kernel is given.
    pub(crate) fn number(&self) -> RawFd {
        match self {
            Fd::Caller(fd) => fd.as_raw_fd(),
            Fd::Owned(fd) => fd.as_raw_fd(),
            Fd::Child(ChildFd(fd)) => *fd,
        }
    }
}

impl<'a, T: AsFd + ?Sized> From<&'a T> for Fd<'a> {
    fn from(fd: &'a T) -> Self {
        Fd::Caller(fd.as_fd())
    }
}

impl<'a> From<BorrowedFd<'a>> for Fd<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        Fd::Caller(fd)
    }
}

impl From<ChildFd> for Fd<'_> {
    fn from(fd: ChildFd) -> Self {
        Fd::Child(fd)
    }
}

/// Implements the conversion of types that own a descriptor, to [`Fd`] and to [`Stdio`](crate::Stdio).
macro_rules! owned {
    ($($type:ty),* $(,)?) => {
        $(
            impl From<$type> for Fd<'_> {
                fn from(fd: $type) -> Self {
                    Fd::Owned(Arc::new(fd.into()))
                }
            }

            impl From<$type> for crate::Stdio<'_> {
                fn from(fd: $type) -> Self {
                    Fd::from(fd).into()
                }
            }
        )*
    };
}

owned!(
    OwnedFd,
    std::fs::File,
    std::net::TcpStream,
    std::os::unix::net::UnixStream,
    std::process::ChildStdin,
    std::process::ChildStdout,
    std::process::ChildStderr,
);

/// One step that the child takes before it runs the program.
///
/// The steps run in the order in which they were given to [`Command::action`](crate::Command::action). The first that
/// fails ends the spawn with its error. Targets are numbers in the child's own descriptor table; nothing here changes
/// the caller's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Close a descriptor of the child. Closing one that is not open is no error.
    Close(RawFd),
    /// Make `target` of the child a duplicate of `source`, closing what was there. `dup2(2)`, except that a `source`
    /// with the number of `target` loses its close-on-exec flag.
    Dup2 {
        /// What to duplicate.
        source: Fd<'a>,
        /// The number in the child.
        target: RawFd,
        /// Whether the duplicate is closed again when the program starts. Must be false when both numbers are the same
        /// (`EINVAL`).
        cloexec: bool,
    },
    /// Change the working directory to an open directory. `fchdir(2)`.
    Fchdir(Fd<'a>),
    /// Change the working directory. `chdir(2)`.
    Chdir(ActionPath),
    /// Open a file and make it `target` of the child, closing what was there. `openat2(2)`.
    Open {
        /// The file and how to open it.
        open: Open<'a>,
        /// The number in the child.
        target: RawFd,
    },
    /// Close a range of descriptors of the child. `close_range(2)`.
    CloseRange {
        /// The first number.
        first: RawFd,
        /// The last number; `None` is the highest there is.
        last: Option<RawFd>,
        /// Only mark them close-on-exec: actions can still use them, the program does not get them.
        cloexec: bool,
    },
    /// Set the signals that the program starts with blocked. `SIGKILL` and `SIGSTOP` are left out. It takes effect after
    /// the last action: until then every signal is blocked. `sigprocmask(2)`.
    Sigmask(SignalSet),
    /// Give these signals their default action, which matters for those that the caller ignores. `sigaction(2)`.
    Sigdefault(SignalSet),
    /// Ignore these signals. `SIGKILL` and `SIGSTOP` are left out. `sigaction(2)`.
    Sigignore(SignalSet),
    /// Start a session. `setsid(2)`.
    Setsid,
    /// Join the process group with this id, or with 0 lead a new one. `setpgid(2)`.
    Setpgid(c_int),
    /// Make the child's process group the foreground one of this terminal. `tcsetpgrp(3)`.
    Tcsetpgrp(Fd<'a>),
    /// Make this terminal the controlling one of the child, which has to lead a session. `TIOCSCTTY` of
    /// `ioctl_tty(2)`.
    Setctty(Fd<'a>),
    /// Set the file mode creation mask, `0` to `0o777`. `umask(2)`.
    Umask(u32),
    /// Set a resource limit. `setrlimit(2)`.
    Rlimit {
        /// Which.
        resource: Resource,
        /// The soft limit, in the resource's unit; `None` is no limit.
        soft: Option<u64>,
        /// The hard limit likewise. Raising it needs `CAP_SYS_RESOURCE` (`EPERM`).
        hard: Option<u64>,
    },
    /// Set the scheduling policy and its parameters. `sched_setattr(2)`.
    Sched(SchedAttr),
    /// Set the effective user and group id to the real ones.
    ResetIds,
    /// Set the user id: all of them with `CAP_SETUID`, otherwise the effective one. `setuid(2)`.
    Setuid(u32),
    /// Set the group id, likewise. `setgid(2)`.
    Setgid(u32),
    /// Set the supplementary groups. Needs `CAP_SETGID`. `setgroups(2)`.
    Setgroups(Vec<u32>),
    /// Let no exec grant privileges from now on. `PR_SET_NO_NEW_PRIVS(2const)`.
    NoNewPrivs,
    /// Send the child this signal when the thread that started it ends; 0 is none. Setting ids afterwards, and a program
    /// that changes them, clear it. `PR_SET_PDEATHSIG(2const)`.
    Pdeathsig(c_int),
    /// Start the child in the cgroup (version 2) whose directory this is, whatever the place of this action. At most
    /// once.
    Cgroup(Fd<'a>),
}

impl Action<'_> {
    /// [`Action::Chdir`] to this path.
    pub fn chdir(path: impl AsRef<Path>) -> Self {
        Action::Chdir(ActionPath::new(path.as_ref()))
    }
}

/// A path that an [`Action`] carries, in the kernel's form.
#[derive(Debug, Clone)]
pub struct ActionPath(Result<CString, InvalidInput>);

impl ActionPath {
    /// The path. That it contains a NUL byte is reported when the command is started.
    pub fn new(path: &Path) -> Self {
        ActionPath(CString::new(path.as_os_str().as_bytes()).map_err(|_| InvalidInput::NulInPath))
    }

    pub(crate) fn get(&self) -> Result<&CString, InvalidInput> {
        self.0.as_ref().map_err(|mistake| *mistake)
    }
}

/// A file to open in the child, as `openat2(2)` does.
///
/// ```
/// use spawn_template::Open;
///
/// let log = Open::write("/tmp/log").append(true).create(0o644);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Open<'a> {
    pub(crate) dir: Option<Fd<'a>>,
    pub(crate) path: ActionPath,
    pub(crate) how: open_how,
}

impl<'a> Open<'a> {
    /// A file to open with these `O_*` flags. `O_CLOEXEC` closes it again when the program starts.
    ///
    /// The path is relative to the working directory that the child has at this point, unless [`at`](Self::at) names
    /// another.
    pub fn with_flags(path: impl AsRef<Path>, flags: i32) -> Self {
        // The flags of open() are the low 32 bits of those of openat2().
        let how = open_how { flags: u64::from(flags as u32), mode: 0, resolve: 0 };
        Open { dir: None, path: ActionPath::new(path.as_ref()), how }
    }

    /// A file to open for reading.
    pub fn read(path: impl AsRef<Path>) -> Self {
        Self::with_flags(path, libc::O_RDONLY)
    }

    /// A file to open for writing.
    pub fn write(path: impl AsRef<Path>) -> Self {
        Self::with_flags(path, libc::O_WRONLY)
    }

    /// A file to open for reading and writing.
    pub fn read_write(path: impl AsRef<Path>) -> Self {
        Self::with_flags(path, libc::O_RDWR)
    }

    /// Resolves the path relative to this directory.
    pub fn at(mut self, dir: impl Into<Fd<'a>>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Whether every write goes to the end of the file (`O_APPEND`).
    pub fn append(self, append: bool) -> Self {
        self.flag(libc::O_APPEND, append)
    }

    /// Whether the file is cut to length 0 (`O_TRUNC`).
    pub fn truncate(self, truncate: bool) -> Self {
        self.flag(libc::O_TRUNC, truncate)
    }

    /// Creates the file if it does not exist (`O_CREAT`), with these permissions, `0` to `0o7777`, less the umask.
    pub fn create(mut self, mode: u32) -> Self {
        self.how.mode = u64::from(mode);
        self.flag(libc::O_CREAT, true)
    }

    /// Restricts how the path is resolved: the `RESOLVE_*` flags of `openat2(2)`.
    pub fn resolve(mut self, resolve: u64) -> Self {
        self.how.resolve = resolve;
        self
    }

    fn flag(mut self, flag: i32, on: bool) -> Self {
        // Only positive O_* constants come here.
        let flag = u64::from(flag as u32);
        self.how.flags = if on { self.how.flags | flag } else { self.how.flags & !flag };
        self
    }
}

/// A resource that can be limited; see `getrlimit(2)` for the meaning and the unit of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Resource {
    /// Processor time, in seconds.
    Cpu = libc::RLIMIT_CPU,
    /// Size of a file that is written, in bytes.
    Fsize = libc::RLIMIT_FSIZE,
    /// Size of the data segment, in bytes.
    Data = libc::RLIMIT_DATA,
    /// Size of the stack, in bytes. It also limits arguments and environment of the program.
    Stack = libc::RLIMIT_STACK,
    /// Size of a core dump, in bytes.
    Core = libc::RLIMIT_CORE,
    /// Resident set size, in bytes; without effect in Linux.
    Rss = libc::RLIMIT_RSS,
    /// Number of processes of the user.
    Nproc = libc::RLIMIT_NPROC,
    /// The lowest descriptor number that cannot be opened. It counts for the actions that follow.
    Nofile = libc::RLIMIT_NOFILE,
    /// Locked memory, in bytes.
    Memlock = libc::RLIMIT_MEMLOCK,
    /// Address space, in bytes.
    As = libc::RLIMIT_AS,
    /// Number of file locks; without effect in Linux.
    Locks = libc::RLIMIT_LOCKS,
    /// Number of queued signals of the user.
    Sigpending = libc::RLIMIT_SIGPENDING,
    /// Bytes in POSIX message queues of the user.
    Msgqueue = libc::RLIMIT_MSGQUEUE,
    /// 20 minus the lowest nice value that can be set.
    Nice = libc::RLIMIT_NICE,
    /// Highest real-time priority that can be set.
    Rtprio = libc::RLIMIT_RTPRIO,
    /// Processor time of a real-time process without a blocking call, in microseconds.
    Rttime = libc::RLIMIT_RTTIME,
}

impl Resource {
    pub(crate) fn limit(self, soft: Option<u64>, hard: Option<u64>) -> spawn_template_rlimit {
        let or_infinity = |limit: Option<u64>| limit.unwrap_or(libc::RLIM64_INFINITY);
        spawn_template_rlimit { resource: self as u64, cur: or_infinity(soft), max: or_infinity(hard) }
    }
}

/// A scheduling policy with the parameters that belong to it; see `sched(7)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// `SCHED_OTHER`, the ordinary one.
    Other,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO` with a priority of 1 to 99. Needs `CAP_SYS_NICE` or `RLIMIT_RTPRIO`.
    Fifo(u32),
    /// `SCHED_RR`, likewise.
    RoundRobin(u32),
    /// `SCHED_DEADLINE`; all in nanoseconds. Needs `CAP_SYS_NICE`.
    Deadline {
        /// Processor time in each period.
        runtime: u64,
        /// Until when in the period the processor time is given.
        deadline: u64,
        /// Length of the period.
        period: u64,
    },
}

/// `struct sched_attr` of `sched_setattr(2)`, as far as [`Scheduler`] and the nice value need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

impl SchedAttr {
    /// A policy, and the nice value -20 to 19 that goes with `Other` and `Batch`.
    pub const fn new(scheduler: Scheduler, nice: i32) -> Self {
        let mut attr = SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: libc::SCHED_OTHER as u32,
            flags: 0,
            nice,
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
        };
        match scheduler {
            Scheduler::Other => {}
            Scheduler::Batch => attr.policy = libc::SCHED_BATCH as u32,
            Scheduler::Idle => attr.policy = libc::SCHED_IDLE as u32,
            Scheduler::Fifo(priority) => (attr.policy, attr.priority) = (libc::SCHED_FIFO as u32, priority),
            Scheduler::RoundRobin(priority) => (attr.policy, attr.priority) = (libc::SCHED_RR as u32, priority),
            Scheduler::Deadline { runtime, deadline, period } => {
                attr.policy = libc::SCHED_DEADLINE as u32;
                (attr.runtime, attr.deadline, attr.period) = (runtime, deadline, period);
            }
        }
        attr
    }

    /// Only the nice value, -20 to 19; the policy stays that of the caller.
    pub const fn nice(nice: i32) -> Self {
        let mut attr = Self::new(Scheduler::Other, nice);
        attr.flags = libc::SCHED_FLAG_KEEP_POLICY as u64;
        attr
    }
}
