//! The two system calls, as thin as they can be.
//!
//! Structures and constants are in [`uapi`](crate::uapi). Most programs want [`Template`](crate::Template) and
//! [`Command`](crate::Command) instead.
//!
//! Neither call is made on a kernel that has not identified itself, see [`Kernel`]: its number may be another call there.
//! Both functions fail with `ENOSYS` then.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use libc::pid_t;

use crate::Kernel;
use crate::proof;
use crate::uapi::{spawn_template_create_args, spawn_template_spawn_args};

/// *spawn_template_create* - make a template and return its descriptor.
///
/// `size` is the size in bytes of the structure behind `args`.
///
/// # Errors
///
/// The `errno` of the call, see [`Template::open`](crate::Template::open). `ENOSYS` as well when what it returns is not
/// the descriptor of a template, which is then left alone, and when there is no `/proc` to look that up.
///
/// # Safety
///
/// The kernel only reads, and answers `EFAULT` where it cannot: `args` and the path in it may be any address. `execfd`,
/// if it is not negative, should be a descriptor that the caller may use.
pub unsafe fn spawn_template_create(args: *const spawn_template_create_args, size: usize) -> io::Result<OwnedFd> {
    // What could not be proven to be a template could not be closed either, so /proc has to be there first.
    let kernel = Kernel::get().filter(|_| proof::is_possible()).ok_or_else(missing)?;
    // SAFETY: the kernel checks both arguments; reading is all it does.
    let fd = unsafe { libc::syscall(kernel.create, args, size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // A filter can answer as well, with any number.
    let fd = RawFd::try_from(fd).ok().filter(|&fd| proof::is_template(fd)).ok_or_else(missing)?;
    // SAFETY: the call succeeded with a template, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// *spawn_template_spawn* - start a process from a template and return its process id.
///
/// `size` is the size in bytes of the structure behind `args`. The child's pidfd is stored where `args.pidfd` points
/// and belongs to the caller; with `SPAWN_TEMPLATE_SPAWN_NO_PIDFD` there is none, and `args.pidfd` must be 0.
///
/// # Errors
///
/// The `errno` of the call, see [`Command::spawn`](crate::Command::spawn).
///
/// # Safety
///
/// The kernel may overwrite the `int` at `args.pidfd` and the `args.result_size` bytes at `args.result`; an address where
/// it cannot write is `EFAULT`. All other addresses are only read and may be bad. `template` and the descriptors that
/// actions name should be ones that the caller may use.
pub unsafe fn spawn_template_spawn(
    template: RawFd,
    args: *const spawn_template_spawn_args,
    size: usize,
) -> io::Result<pid_t> {
    let kernel = Kernel::get().ok_or_else(missing)?;
    // SAFETY: the kernel checks every argument, and the caller answers for the two places written to.
    let pid = unsafe { libc::syscall(kernel.spawn, template, args, size) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // A process id fits in an int.
    Ok(pid as pid_t)
}

/// The error of a call that the kernel does not have.
fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSYS)
}
