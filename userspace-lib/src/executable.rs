//! An executable on a kernel without templates: the checks that the kernel would make, and whether it has changed.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_long};

use crate::raw::{Failure, Stage};
use crate::{Call, Error};

/// What tells a file, and a state of its contents and attributes, from all others; as in the kernel, where the change
/// time covers what the rest does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Executable {
    device: u64,
    inode: u64,
    size: i64,
    mode: u32,
    owner: (u32, u32),
    modified: (c_long, c_long),
    changed: (c_long, c_long),
}

impl Executable {
    /// Opens the file at this path.
    pub(crate) fn open(path: &CStr, cloexec: bool) -> Result<(OwnedFd, Self), Error> {
        let cloexec = if cloexec { libc::O_CLOEXEC } else { 0 };
        // SAFETY: the path is a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | cloexec) };
        let fd = owned(fd).map_err(failed)?;
        let executable = Self::examine(fd.as_fd()).map_err(failed)?;
        Ok((fd, executable))
    }

    /// Takes an open file, which the caller may close.
    pub(crate) fn from_file(file: BorrowedFd<'_>, cloexec: bool) -> Result<(OwnedFd, Self), Error> {
        let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
        // SAFETY: plain numbers. 3, so that it is not in the way of a child's standard streams.
        let fd = unsafe { libc::fcntl(file.as_raw_fd(), command, 3) };
        let fd = owned(fd).map_err(failed)?;
        let executable = Self::examine(fd.as_fd()).map_err(failed)?;
        Ok((fd, executable))
    }

    /// Whether it is still what it was.
    ///
    /// # Errors
    ///
    /// `ESTALE` if not.
    pub(crate) fn check(&self, fd: BorrowedFd<'_>, path: Option<&CStr>) -> Result<(), Failure> {
        let named = path.is_none_or(|path| Self::of(stat_path(path)) == Some(*self));
        let same = named && Self::of(stat(fd)) == Some(*self);
        if same { Ok(()) } else { Err(Failure::new(Stage::Identity, libc::ESTALE)) }
    }

    /// Whether the descriptor is the one of this file, in whatever state it is.
    pub(crate) fn is_file(&self, fd: BorrowedFd<'_>) -> bool {
        stat(fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode))
    }

    /// Whether this path leads to a file of this device, inode and size.
    pub(crate) fn has(path: &CStr, (major, minor): (u32, u32), inode: u64, size: u64) -> bool {
        stat_path(path).is_ok_and(|stat| {
            let device = libc::makedev(major, minor);
            (stat.st_dev, stat.st_ino) == (device, inode) && u64::try_from(stat.st_size) == Ok(size)
        })
    }

    /// Whether both paths lead to the same file. The `errno` if the first leads to none.
    pub(crate) fn are_same(first: &CStr, second: &CStr) -> Result<bool, c_int> {
        let first = stat_path(first).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        Ok(stat_path(second).is_ok_and(|second| (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)))
    }

    /// Whether this process may execute what the path leads to. The `errno` if not.
    pub(crate) fn access(path: &CStr) -> Result<(), c_int> {
        // SAFETY: a C string and plain numbers. The C library's faccessat() does its own emulation of AT_EACCESS.
        let result =
            unsafe { libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) }
    }

    /// Checks that it can be a template.
    fn examine(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = stat(fd)?;
        let mut mount = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the structure may be written to.
        let result = unsafe { libc::fstatvfs(fd.as_raw_fd(), mount.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zero is a valid value of this structure of integers, and the call has filled it in.
        let noexec = unsafe { mount.assume_init() }.f_flag & libc::ST_NOEXEC != 0;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || noexec {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
        // SAFETY: an empty C string and plain numbers. The C library's faccessat() would not pass AT_EMPTY_PATH on.
        let result = unsafe { libc::syscall(libc::SYS_faccessat2, fd.as_raw_fd(), c"".as_ptr(), libc::X_OK, flags) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if !is_elf(fd)? {
            return Err(io::Error::from_raw_os_error(libc::ENOEXEC));
        }
        Ok(Self::from_stat(&stat))
    }

    fn of(stat: io::Result<libc::stat>) -> Option<Self> {
        stat.ok().as_ref().map(Self::from_stat)
    }

    fn from_stat(stat: &libc::stat) -> Self {
        Executable {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Whether the file begins as an ELF program for x86-64. One that may be executed but not read is taken for one.
fn is_elf(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut header = [0; 64];
    let file = match File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(file) => file,
        Err(_) => return Ok(true),
    };
    match (&file).read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let half = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
    // 64 bits, little endian; ET_EXEC or ET_DYN; EM_X86_64; program headers of the right size.
    Ok(header.starts_with(b"\x7fELF\x02\x01")
        && matches!(half(16), 2 | 3)
        && half(18) == 62
        && half(54) == 56
        && half(56) > 0)
}

fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure may be written to.
    let result = unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) };
    // SAFETY: zero is a valid value of this structure of integers.
    finish(result, unsafe { stat.assume_init() })
}

fn stat_path(path: &CStr) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the path is a C string, and the structure may be written to.
    let result = unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: zero is a valid value of this structure of integers.
    finish(result, unsafe { stat.assume_init() })
}

fn finish(result: c_int, stat: libc::stat) -> io::Result<libc::stat> {
    if result == 0 { Ok(stat) } else { Err(io::Error::last_os_error()) }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call that gave this number has just made the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn failed(error: io::Error) -> Error {
    Error::os(Call::Executable, error)
}
