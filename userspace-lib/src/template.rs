//! Templates.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;
use std::sync::Arc;

use crate::executable::Executable;
use crate::fork_exec::{self, Hook, Program};
use crate::raw::{self, Failure, Request, Started, address};
use crate::uapi::{SPAWN_TEMPLATE_CREATE_CLOEXEC, SPAWN_TEMPLATE_CREATE_NO_LEARNING, spawn_template_create_args};
use crate::{Call, Error, InvalidInput, Mode, Reason, Stats, Via, sys};

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
#[derive(Debug, Clone)]
pub struct Template {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The template, or the executable.
    fd: OwnedFd,
    /// What the child sees as argument 0 unless the command says otherwise.
    arg0: CString,
    /// The executable's path, if the template was made of one.
    path: Option<CString>,
    /// What the executable was, if the kernel has no template.
    executable: Option<(Executable, Reason)>,
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
    /// | `ENOSYS` | the kernel has no spawn templates, or the module is not loaded |
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
    /// the command says otherwise, as `execveat(2)` names such a program.
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
        let arg0 = path_to_c(&stats(fd.as_fd())?.path)?;
        Ok(Template { inner: Arc::new(Inner { fd, arg0, path: None, executable: None }) })
    }

    /// How its processes are started.
    pub fn via(&self) -> Via {
        match &self.inner.executable {
            None => Via::Template,
            Some((_, reason)) => Via::ForkExec(*reason),
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
        unsafe { self.start(request, &[]) }.map(|(started, _)| started)
    }

    /// Starts the executable, and tells which way.
    ///
    /// # Safety
    ///
    /// As [`spawn_raw`](Self::spawn_raw).
    pub(crate) unsafe fn start(&self, request: &Request<'_>, hooks: &[Hook]) -> Result<(Started, Via), Failure> {
        let via = match &self.inner.executable {
            None if hooks.is_empty() => {
                // SAFETY: the caller answers for the request.
                return unsafe { raw::spawn(self.as_fd(), request) }.map(|started| (started, Via::Template));
            }
            None => Via::ForkExec(Reason::PreExec),
            Some((executable, reason)) => {
                executable.check(self.as_fd(), self.inner.path.as_deref())?;
                Via::ForkExec(*reason)
            }
        };
        // SAFETY: the caller answers for the request.
        unsafe { fork_exec::spawn(self.program(), request, hooks) }.map(|started| (started, via))
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
        self.inner.path.is_some() || self.inner.executable.is_some()
    }

    /// Whether both are the same template.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn arg0(&self) -> &CStr {
        &self.inner.arg0
    }
}

/// The descriptor of the template, or, where the kernel has none, of the executable.
impl AsFd for Template {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

/// How to make a [`Template`].
///
/// ```no_run
/// use spawn_template::TemplateOptions;
///
/// // A worker that this process starts by other means may use the template too.
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

    /// Whether the kernel learns from the first process which pages of its files the program touches, to map them at
    /// once for later ones; true by default. What they find in these pages is the same, see `spawn_template(7)`. Means
    /// nothing where the kernel has no templates.
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
        let (fd, executable) = self.make(args, || Executable::open(path, self.close_on_exec))?;
        let path = path.to_owned();
        Ok(Template { inner: Arc::new(Inner { fd, arg0: path.clone(), path: Some(path), executable }) })
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
        let (fd, executable) = self.make(args, || Executable::from_file(file, self.close_on_exec))?;
        Ok(Template { inner: Arc::new(Inner { fd, arg0, path: None, executable }) })
    }

    /// Makes a template in the kernel, or `instead`.
    fn make(
        &self,
        args: spawn_template_create_args,
        instead: impl FnOnce() -> Result<(OwnedFd, Executable), Error>,
    ) -> Result<(OwnedFd, Option<(Executable, Reason)>), Error> {
        let mode = self.mode.effective();
        let reason = if mode == Mode::ForkExec {
            Reason::Requested
        } else {
            match self.create(args) {
                Err(error) if mode == Mode::Auto && is_missing(&error) => Reason::Unsupported,
                result => return result.map(|fd| (fd, None)),
            }
        };
        let (fd, executable) = instead()?;
        Ok((fd, Some((executable, reason))))
    }

    fn create(&self, mut args: spawn_template_create_args) -> Result<OwnedFd, Error> {
        if self.close_on_exec {
            args.flags |= u64::from(SPAWN_TEMPLATE_CREATE_CLOEXEC);
        }
        if !self.learning {
            args.flags |= u64::from(SPAWN_TEMPLATE_CREATE_NO_LEARNING);
        }
        // SAFETY: the path is a C string and the descriptor is open, both for as long as the call takes.
        unsafe { sys::spawn_template_create(&args, size_of_val(&args)) }.map_err(|error| Error::os(Call::Create, error))
    }
}

impl Default for TemplateOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the reason is that there is no system call, or that a seccomp filter forbids it: it has no other `EPERM`.
fn is_missing(error: &Error) -> bool {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => true,
        Some(libc::EPERM) => !crate::is_supported(),
        _ => false,
    }
}

fn path_to_c(path: &Path) -> Result<CString, InvalidInput> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| InvalidInput::NulInPath)
}

fn stats(fd: BorrowedFd<'_>) -> Result<Stats, Error> {
    let text =
        fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(|error| Error::os(Call::Fdinfo, error))?;
    Stats::parse(&text)
}
