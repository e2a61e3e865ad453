//! System calls by number: as functions of the C library they would be cancellation points, or change `errno` for the
//! caller.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use libc::{c_int, c_long};

/// The `errno` of an error; `EIO` for one that has none.
pub(crate) fn errno_of(error: &io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Puts `errno` back as it was.
pub(crate) struct SavedErrno(c_int);

impl SavedErrno {
    pub(crate) fn new() -> Self {
        SavedErrno(errno_of(&io::Error::last_os_error()))
    }
}

impl Drop for SavedErrno {
    fn drop(&mut self) {
        // SAFETY: has no requirements.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: this thread's errno, which nobody else uses.
        unsafe { errno.write(self.0) };
    }
}

/// Closes a descriptor that belongs to this library.
pub(crate) fn close(fd: c_int) {
    // SAFETY: a plain number; the caller owns the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// Moves a descriptor that belongs to this library to `least` or above, close-on-exec, if that is possible.
pub(crate) fn move_up(fd: c_int, least: c_int) -> c_int {
    // SAFETY: plain numbers.
    let moved = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, least) };
    if moved < 0 {
        return fd;
    }
    close(fd);
    moved as c_int
}

/// Opens a file, close-on-exec.
pub(crate) fn open(path: &CStr, flags: c_int) -> io::Result<c_int> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the rest are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o666) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as c_int) }
}

/// Writes once.
pub(crate) fn write(fd: c_int, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes may be read.
    finish(unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) })
}

/// The working directory, without the NUL at its end; `None` if it has no path from the root.
pub(crate) fn working_directory(buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: the buffer may be written to, for its length.
    let length = finish(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }).ok()?;
    // The kernel says "(unreachable)" in front of a directory outside of the root.
    if buffer.first() == Some(&b'/') { length.checked_sub(1) } else { None }
}

/// This process.
pub(crate) fn pid() -> u32 {
    // SAFETY: has no arguments.
    unsafe { libc::syscall(libc::SYS_getpid) as u32 }
}

/// Whether the calling thread has a seccomp filter, as far as that can be asked.
pub(crate) fn is_filtered() -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_GET_SECCOMP, 0, 0, 0, 0) != 0 }
}

/// Whether both paths lead to the same file. The `errno` if the first leads to none.
pub(crate) fn are_same(first: &CStr, second: &CStr) -> Result<bool, c_int> {
    let first = stat(first)?;
    Ok(stat(second).is_ok_and(|second| (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)))
}

/// Whether the path leads to a regular file.
pub(crate) fn is_file(path: &CStr) -> bool {
    stat(path).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG)
}

fn stat(path: &CStr) -> Result<libc::stat, c_int> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the path is a C string, and the structure may be written to.
    let result = unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), stat.as_mut_ptr(), 0) };
    finish(result).map_err(|error| errno_of(&error))?;
    // SAFETY: zero is a valid value of this structure of integers.
    Ok(unsafe { stat.assume_init() })
}

/// Whether this process may execute what the path leads to. The `errno` if not.
pub(crate) fn access(path: &CStr) -> Result<(), c_int> {
    // SAFETY: a C string and plain numbers.
    let result =
        unsafe { libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    finish(result).map(drop).map_err(|error| errno_of(&error))
}

fn finish(result: c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
