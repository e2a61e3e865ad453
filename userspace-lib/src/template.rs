//! Templates.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::uapi::{SPAWN_TEMPLATE_CREATE_CLOEXEC, spawn_template_create_args};
use crate::{Call, Error, InvalidInput, Stats, sys};

/// One executable, opened and parsed, ready to be started again and again.
///
/// It is a file descriptor of the kernel. Starting it does not look up the path again, but the kernel still notices
/// when the file or what the path names has changed: [`Command::spawn`](crate::Command::spawn) then fails with
/// `ESTALE`, and the answer is to make a new template.
///
/// A template can be used from many threads at once. Dropping it does not affect children that have been started.
#[derive(Debug)]
pub struct Template {
    fd: OwnedFd,
    /// What the child sees as argument 0 unless the command says otherwise.
    arg0: CString,
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
        let path = stats(fd.as_fd())?.path;
        Ok(Template { fd, arg0: path_to_c(&path)? })
    }

    /// What `/proc/self/fdinfo` tells about the template: which executable it is and how often it was started.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with [`Call::Fdinfo`] when `/proc` cannot be read, [`Error::Reply`] when its text is not
    /// understood.
    pub fn stats(&self) -> Result<Stats, Error> {
        stats(self.fd.as_fd())
    }

    #[cfg(test)]
    pub(crate) fn for_tests(fd: OwnedFd, arg0: &CStr) -> Self {
        Template { fd, arg0: arg0.to_owned() }
    }

    pub(crate) fn arg0(&self) -> &CStr {
        &self.arg0
    }
}

impl AsFd for Template {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Template> for OwnedFd {
    fn from(template: Template) -> Self {
        template.fd
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
}

impl TemplateOptions {
    /// The defaults: the template's descriptor is close-on-exec.
    pub const fn new() -> Self {
        TemplateOptions { close_on_exec: true }
    }

    /// Whether the template's descriptor is closed when this process executes another program; true by default.
    pub const fn close_on_exec(mut self, close: bool) -> Self {
        self.close_on_exec = close;
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
        let fd = self.create(spawn_template_create_args {
            execfd: -1,
            filename: path.as_ptr().expose_provenance() as u64,
            ..Default::default()
        })?;
        Ok(Template { fd, arg0: path })
    }

    /// As [`Template::from_file`].
    ///
    /// # Errors
    ///
    /// As [`Template::from_file`].
    pub fn from_file(&self, file: impl AsFd) -> Result<Template, Error> {
        let file = file.as_fd().as_raw_fd();
        let fd = self.create(spawn_template_create_args { execfd: file, ..Default::default() })?;
        Ok(Template { fd, arg0: path_to_c(Path::new(&format!("/dev/fd/{file}")))? })
    }

    fn create(&self, mut args: spawn_template_create_args) -> Result<OwnedFd, Error> {
        if self.close_on_exec {
            args.flags |= u64::from(SPAWN_TEMPLATE_CREATE_CLOEXEC);
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

fn path_to_c(path: &Path) -> Result<CString, InvalidInput> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| InvalidInput::NulInPath)
}

fn stats(fd: BorrowedFd<'_>) -> Result<Stats, Error> {
    let text =
        fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(|error| Error::os(Call::Fdinfo, error))?;
    Stats::parse(&text)
}
