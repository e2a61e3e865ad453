//! What the child does before it runs the program.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use crate::{InvalidInput, SignalSet};

/// A descriptor that an [`Action`] takes as its source.
///
/// Made from a reference to anything that has a descriptor ([`AsFd`]), from a [`BorrowedFd`], or from a [`ChildFd`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Fd<'a> {
    /// A descriptor of the caller.
    Caller(BorrowedFd<'a>),
    /// A descriptor of the child.
    Child(ChildFd),
}

/// The number of a descriptor in the child: 0, 1 or 2, or one where an earlier action placed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildFd(pub RawFd);

impl Fd<'_> {
    /// The number that the kernel is given.
    pub(crate) fn number(self) -> RawFd {
        match self {
            Fd::Caller(fd) => fd.as_raw_fd(),
            Fd::Child(ChildFd(fd)) => fd,
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
    /// Set the signals that the program starts with blocked. `SIGKILL` and `SIGSTOP` are left out. `sigprocmask(2)`.
    Sigmask(SignalSet),
    /// Give these signals their default action, which matters for those that the caller ignores. `sigaction(2)`.
    Sigdefault(SignalSet),
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
    pub(crate) path: PathBuf,
    pub(crate) flags: u64,
    pub(crate) mode: u64,
    pub(crate) resolve: u64,
}

impl<'a> Open<'a> {
    /// A file to open with these `O_*` flags. `O_CLOEXEC` closes it again when the program starts.
    ///
    /// The path is relative to the working directory that the child has at this point, unless [`at`](Self::at) names
    /// another.
    pub fn with_flags(path: impl AsRef<Path>, flags: i32) -> Self {
        // The flags of open() are the low 32 bits of those of openat2().
        Open { dir: None, path: path.as_ref().to_path_buf(), flags: u64::from(flags as u32), mode: 0, resolve: 0 }
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
        self.mode = u64::from(mode);
        self.flag(libc::O_CREAT, true)
    }

    /// Restricts how the path is resolved: the `RESOLVE_*` flags of `openat2(2)`.
    pub fn resolve(mut self, resolve: u64) -> Self {
        self.resolve = resolve;
        self
    }

    fn flag(mut self, flag: i32, on: bool) -> Self {
        // Only positive O_* constants come here.
        let flag = u64::from(flag as u32);
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
        self
    }
}

/// What the actions so far have done to the numbers of the child's descriptor table.
///
/// The kernel knows numbers only. This tells a descriptor of the caller from one of the child with the same number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    /// Where an action has placed something: what a [`ChildFd`] may name.
    usable: Vec<RawFd>,
    /// Where that is something else than the caller has there: what a descriptor of the caller may not name any more.
    replaced: Vec<RawFd>,
}

impl Placed {
    /// Follows the action with this index, after checking that its source means to the kernel what it means to the
    /// caller.
    pub(crate) fn follow(&mut self, index: usize, action: &Action<'_>) -> Result<(), InvalidInput> {
        match *action {
            Action::Close(fd) => {
                not_negative(index, fd)?;
                self.close(fd, fd);
            }
            Action::Dup2 { source, target, .. } => {
                self.check_source(index, source)?;
                not_negative(index, target)?;
                // What keeps its number is still the same file.
                if source.number() != target {
                    add(&mut self.replaced, target);
                }
                add(&mut self.usable, target);
            }
            Action::Fchdir(dir) => self.check_source(index, dir)?,
            Action::Open { ref open, target } => {
                if let Some(dir) = open.dir {
                    self.check_source(index, dir)?;
                }
                not_negative(index, target)?;
                add(&mut self.replaced, target);
                add(&mut self.usable, target);
            }
            Action::CloseRange { first, last, cloexec } => {
                not_negative(index, first)?;
                let last = last.unwrap_or(RawFd::MAX);
                not_negative(index, last)?;
                if first > last {
                    return Err(InvalidInput::EmptyRange(index));
                }
                if !cloexec {
                    self.close(first, last);
                }
            }
            Action::Sigmask(_) | Action::Sigdefault(_) => {}
        }
        Ok(())
    }

    fn check_source(&self, action: usize, source: Fd<'_>) -> Result<(), InvalidInput> {
        let fd = source.number();
        not_negative(action, fd)?;
        match source {
            Fd::Caller(_) if self.replaced.contains(&fd) => Err(InvalidInput::Overwritten { action, fd }),
            Fd::Child(_) if fd > libc::STDERR_FILENO && !self.usable.contains(&fd) => {
                Err(InvalidInput::NothingPlaced { action, fd })
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self, first: RawFd, last: RawFd) {
        self.usable.retain(|fd| !(first..=last).contains(fd));
        self.replaced.retain(|fd| !(first..=last).contains(fd));
    }
}

fn add(numbers: &mut Vec<RawFd>, fd: RawFd) {
    if !numbers.contains(&fd) {
        numbers.push(fd);
    }
}

fn not_negative(action: usize, fd: RawFd) -> Result<(), InvalidInput> {
    if fd < 0 { Err(InvalidInput::NegativeFd(action)) } else { Ok(()) }
}
