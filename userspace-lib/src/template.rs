//! Templates.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;
use std::sync::Arc;

use crate::executable::Executable;
use crate::fork_exec::{self, Hook, Program};
use crate::proof::{self, Identity};
use crate::raw::{self, Failure, Request, Started, address};
use crate::uapi::{SPAWN_TEMPLATE_CREATE_CLOEXEC, SPAWN_TEMPLATE_CREATE_NO_LEARNING, spawn_template_create_args};
use crate::{Call, Error, InvalidInput, Kernel, Mode, Reason, Stats, Via, sys};

/// One executable, opened and parsed, ready to be started again and again.
///
/// It is a file descriptor of the kernel. Starting it does not look up the path again, but the kernel still notices
/// when the file or what the path names has changed: [`Command::spawn`](crate::Command::spawn) then fails with
/// `ESTALE`, and the answer is to make a new template. (A `Command` that is given a path does that by itself.)
///
/// Where the kernel has no templates it is the executable, open with `O_PATH`, and what it was when it was opened, which
/// is checked just as well; see [`Mode`] for how to get an error instead.
///
/// A template can be used from many threads at once; a clone is the same template. Dropping it does not affect children
/// that have been started.
///
/// The descriptor is looked at each time. If something else has its number by now, because this process closed all
/// descriptors or because the calling thread has a table of its own (`unshare(2)` with `CLONE_FILES`), nothing is started
/// (`EBADF`, `ESTALE`), and the number is not closed when the template is dropped.
#[derive(Debug, Clone)]
pub struct Template {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Number of the template's descriptor, or of the executable's.
    fd: RawFd,
    kind: Kind,
    /// What the child sees as argument 0 unless the command says otherwise.
    arg0: CString,
    /// The executable's path, if the template was made of one.
    path: Option<CString>,
}

/// What the descriptor is.
#[derive(Debug)]
enum Kind {
    /// A template of the kernel.
    Template(Identity),
    /// The executable, where the kernel has no template, and why it has none.
    Executable(Executable, Reason),
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Template(identity) => proof::close(self.fd, *identity),
            Kind::Executable(executable, _) => {
                // SAFETY: the number of a descriptor that was open; it is only looked at.
                let is_ours = executable.is_file(unsafe { BorrowedFd::borrow_raw(self.fd) });
                if is_ours {
                    // SAFETY: still the descriptor that was taken over when this was made.
                    drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
                }
            }
        }
    }
}

impl Template {
    /// *spawn_template_create* - makes a template of the executable at this absolute path.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] when the path is relative or contains a NUL byte, otherwise [`Error::Os`] with
    ///
    /// | errno | reason |
    /// | --- | --- |
    /// | `ENOSYS` | the kernel has no spawn templates, the module is not loaded, or a filter forbids the call |
    /// | `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG` | from the path, as `open(2)` |
    /// | `EACCES` | not a regular file, no execute permission, or mounted `noexec` |
    /// | `ETXTBSY` | somebody has the file open for writing |
    /// | `ENOEXEC` | not an ELF program for x86-64, or its headers are damaged; scripts end here |
    /// | `EMFILE`, `ENFILE`, `ENOMEM` | out of descriptors or memory |
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        TemplateOptions::new().open(path)
    }

    /// *spawn_template_create* - makes a template of an open executable. It may be open with `O_PATH`.
    ///
    /// The template keeps the file itself: the descriptor can be closed afterwards. Argument 0 is `/dev/fd/N` unless
    /// the command says otherwise, as `execveat(2)` names such a program. From a template, `AT_EXECFN` is
    /// `/proc/self/exe`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), without those of the path.
    pub fn from_file(file: impl AsFd) -> Result<Self, Error> {
        TemplateOptions::new().from_file(file)
    }

    /// Takes over the descriptor of a template, one that was inherited or received through a socket.
    ///
    /// # Errors
    ///
    /// As [`stats`](Self::stats); [`Error::Reply`] when the descriptor is not a template.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self, Error> {
        let stats = stats(fd.as_fd())?;
        if !proof::is_template(fd.as_raw_fd()) {
            return Err(Error::Reply("not a spawn template"));
        }
        let kind = Kind::Template(identity(&fd)?);
        Ok(Self::new(fd, kind, path_to_c(&stats.path)?, None))
    }

    fn new(fd: OwnedFd, kind: Kind, arg0: CString, path: Option<CString>) -> Self {
        Template { inner: Arc::new(Inner { fd: fd.into_raw_fd(), kind, arg0, path }) }
    }

    /// How its processes are started.
    pub fn via(&self) -> Via {
        match &self.inner.kind {
            Kind::Template(_) => Via::Template,
            Kind::Executable(_, reason) => Via::ForkExec(*reason),
        }
    }

    /// What `/proc/self/fdinfo` tells about the template: which executable it is and how often it was started.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with [`Call::Fdinfo`] when `/proc` cannot be read, [`Error::Reply`] when its text is not
    /// understood, which is also what happens where the kernel has no templates.
    pub fn stats(&self) -> Result<Stats, Error> {
        stats(self.as_fd())
    }

    /// Starts the executable with vectors and actions in the kernel's own form.
    ///
    /// # Errors
    ///
    /// As `spawn_template_spawn`, with its result structure.
    ///
    /// # Safety
    ///
    /// All pointers in the request and in its actions must lead to what `execve(2)` and the types of the actions say,
    /// until the call returns. Its descriptors should be ones that the caller may use.
    pub unsafe fn spawn_raw(&self, request: &Request<'_>) -> Result<Started, Failure> {
        // SAFETY: the caller answers for the request.
        unsafe { self.start(request, &[], false) }.map(|(started, _)| started)
    }

    /// Starts the executable, and tells which way. With `may_fork` a path is executed by fork and exec where the kernel's
    /// template cannot be used.
    ///
    /// # Safety
    ///
    /// As [`spawn_raw`](Self::spawn_raw).
    pub(crate) unsafe fn start(
        &self,
        request: &Request<'_>,
        hooks: &[Hook],
        may_fork: bool,
    ) -> Result<(Started, Via), Failure> {
        let via = match &self.inner.kind {
            Kind::Template(identity) if hooks.is_empty() => {
                // SAFETY: the caller answers for the request.
                let failure = match unsafe { raw::spawn(self.inner.fd, *identity, request) } {
                    Ok(started) => return Ok((started, Via::Template)),
                    Err(failure) => failure,
                };
                match self.instead(&failure) {
                    Some(reason) if may_fork => Via::ForkExec(reason),
                    _ => return Err(failure),
                }
            }
            Kind::Template(_) => Via::ForkExec(Reason::PreExec),
            Kind::Executable(executable, reason) => {
                executable.check(self.as_fd(), self.inner.path.as_deref())?;
                Via::ForkExec(*reason)
            }
        };
        // SAFETY: the caller answers for the request.
        unsafe { fork_exec::spawn(self.program(), request, hooks) }.map(|started| (started, via))
    }

    /// Why the path may be executed by fork and exec after this failure of the kernel's template; `None` if the failure
    /// counts, or the path is not that of the template's executable any more.
    fn instead(&self, failure: &Failure) -> Option<Reason> {
        let reason = failure.falls_back()?;
        let path = self.inner.path.as_deref()?;
        let stats = self.stats().ok()?;
        Executable::has(path, stats.device, stats.inode, stats.size).then_some(reason)
    }

    /// The identity, if this is a template of the kernel.
    fn identity(&self) -> Option<&Identity> {
        match &self.inner.kind {
            Kind::Template(identity) => Some(identity),
            Kind::Executable(..) => None,
        }
    }

    /// Whether the program has no ELF interpreter, or one that this process may execute.
    pub(crate) fn has_its_interpreter(&self) -> bool {
        let mut buffer = [0; libc::PATH_MAX as usize];
        match proof::interpreter(self.inner.fd, &mut buffer) {
            Ok(Some(name)) => name.to_bytes().first() == Some(&b'/') && Executable::access(name).is_ok(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// What fork and exec execute.
    pub(crate) fn program(&self) -> Program<'_> {
        match &self.inner.path {
            Some(path) => Program::Paths(slice::from_ref(path)),
            None => Program::File(self.as_fd()),
        }
    }

    /// Whether fork and exec can start it: the descriptor of a kernel's template cannot be executed.
    pub(crate) fn can_be_executed(&self) -> bool {
        self.inner.path.is_some() || self.identity().is_none()
    }

    pub(crate) fn arg0(&self) -> &CStr {
        &self.inner.arg0
    }
}

/// The descriptor of the template, or, where the kernel has none, of the executable.
impl AsFd for Template {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as this lives, unless the process closes what is not its own.
        unsafe { BorrowedFd::borrow_raw(self.inner.fd) }
    }
}

/// How to make a [`Template`].
///
/// ```no_run
/// use spawn_template::TemplateOptions;
///
/// // A worker that this process starts in another way may use the template too.
/// let template = TemplateOptions::new().close_on_exec(false).open("/usr/bin/sort")?;
/// # Ok::<(), spawn_template::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TemplateOptions {
    close_on_exec: bool,
    learning: bool,
    mode: Mode,
}

impl TemplateOptions {
    /// The defaults: the template's descriptor is close-on-exec.
    pub const fn new() -> Self {
        TemplateOptions { close_on_exec: true, learning: true, mode: Mode::Auto }
    }

    /// Whether to use the system calls; [`Mode::Auto`] by default.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether the template's descriptor is closed when this process executes another program; true by default.
    pub const fn close_on_exec(mut self, close: bool) -> Self {
        self.close_on_exec = close;
        self
    }

    /// Whether the kernel learns from some processes which pages of its files the program uses, to map them at once for
    /// others; true by default. What they find in these pages is the same, see `spawn_template(7)`. Means nothing where
    /// the kernel has no templates.
    pub const fn learning(mut self, learn: bool) -> Self {
        self.learning = learn;
        self
    }

    /// As [`Template::open`].
    ///
    /// # Errors
    ///
    /// As [`Template::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Template, Error> {
        let path = path.as_ref();
        if !path.is_absolute() {
            return Err(InvalidInput::RelativePath.into());
        }
        let path = path_to_c(path)?;
        self.open_c(&path)
    }

    pub(crate) fn open_c(&self, path: &CStr) -> Result<Template, Error> {
        let args = spawn_template_create_args { execfd: -1, filename: address(path.as_ptr()), ..Default::default() };
        let (fd, kind) = self.make(args, || Executable::open(path, self.close_on_exec))?;
        let path = path.to_owned();
        Ok(Template::new(fd, kind, path.clone(), Some(path)))
    }

    /// As [`Template::from_file`].
    ///
    /// # Errors
    ///
    /// As [`Template::from_file`].
    pub fn from_file(&self, file: impl AsFd) -> Result<Template, Error> {
        let file = file.as_fd();
        let arg0 = path_to_c(Path::new(&format!("/dev/fd/{}", file.as_raw_fd())))?;
        let args = spawn_template_create_args { execfd: file.as_raw_fd(), ..Default::default() };
        let (fd, kind) = self.make(args, || Executable::from_file(file, self.close_on_exec))?;
        Ok(Template::new(fd, kind, arg0, None))
    }

    /// Makes a template in the kernel, or `instead`.
    fn make(
        &self,
        args: spawn_template_create_args,
        instead: impl FnOnce() -> Result<(OwnedFd, Executable), Error>,
    ) -> Result<(OwnedFd, Kind), Error> {
        let mode = self.mode.effective();
        let (reason, failed) = if mode == Mode::ForkExec {
            (Reason::Requested, None)
        } else {
            match self.create(args) {
                Ok((fd, identity)) => return Ok((fd, Kind::Template(identity))),
                Err(error) if mode == Mode::Template || is_sure(&error) => return Err(error),
                Err(error) => (Reason::Unsupported, Some(error)),
            }
        };
        match (instead(), failed) {
            (Ok((fd, executable)), _) => Ok((fd, Kind::Executable(executable, reason))),
            // The kernel's answer was about the file, then.
            (Err(error), Some(failed)) if error.raw_os_error() == failed.raw_os_error() => Err(failed),
            (Err(error), _) => Err(error),
        }
    }

    fn create(&self, mut args: spawn_template_create_args) -> Result<(OwnedFd, Identity), Error> {
        if self.close_on_exec {
            args.flags |= u64::from(SPAWN_TEMPLATE_CREATE_CLOEXEC);
        }
        if !self.learning {
            args.flags |= u64::from(SPAWN_TEMPLATE_CREATE_NO_LEARNING);
        }
        if Kernel::get().is_none_or(|kernel| args.flags & !kernel.create_flags != 0) {
            return Err(Error::os(Call::Create, io::Error::from_raw_os_error(libc::ENOSYS)));
        }
        // SAFETY: the path is a C string and the descriptor is open, both for as long as the call takes.
        let fd = unsafe { sys::spawn_template_create(&args, size_of_val(&args)) };
        let fd = fd.and_then(|fd| above_standard_streams(fd, self.close_on_exec));
        let fd = fd.map_err(|error| Error::os(Call::Create, if cannot_be(&error) { missing() } else { error }))?;
        let identity = identity(&fd)?;
        Ok((fd, identity))
    }
}

impl Default for TemplateOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `spawn_template_create` has no such error for arguments like ours: something else has answered.
fn cannot_be(error: &io::Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(libc::ENOSYS);
    matches!(errno, libc::EINVAL | libc::EBADF | libc::EFAULT | libc::EOPNOTSUPP | libc::E2BIG)
}

/// Whether the error tells what fork and exec would find out as well, or too late.
fn is_sure(error: &Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(libc::ENOSYS);
    matches!(errno, libc::ENOEXEC | libc::ETXTBSY | libc::EMFILE | libc::ENFILE | libc::ENOMEM)
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSYS)
}

/// Moves a descriptor away from the numbers that children inherit.
fn above_standard_streams(fd: OwnedFd, cloexec: bool) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    // SAFETY: plain numbers.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), command, libc::STDERR_FILENO + 1) };
    if moved < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// The identity of a template that was just made.
fn identity(fd: &OwnedFd) -> Result<Identity, Error> {
    Identity::of(fd.as_raw_fd()).map_err(|errno| Error::os(Call::Fdinfo, io::Error::from_raw_os_error(errno)))
}

fn path_to_c(path: &Path) -> Result<CString, InvalidInput> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| InvalidInput::NulInPath)
}

fn stats(fd: BorrowedFd<'_>) -> Result<Stats, Error> {
    let text =
        fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(|error| Error::os(Call::Fdinfo, error))?;
    Stats::parse(&text)
}
