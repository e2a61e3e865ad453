//! The system calls of the attacks, with errors as `io::Result`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How many bytes an attack reads or writes at a place.
const SIZE: usize = 8;

/// What [`write()`] puts there.
const WRITTEN: [u8; SIZE] = *b"attacked";

/// MADV_COLD: harmless, and refused as everything is that is done to others.
const COLD: i32 = 20;

fn check(result: libc::c_long) -> io::Result<u64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u64) }
}

/// Remote memory, of one attack's size.
fn remote(place: u64) -> libc::iovec {
    libc::iovec { iov_base: place as *mut _, iov_len: SIZE }
}

/// `process_vm_readv` of a few bytes.
pub fn read(pid: i32, place: u64) -> io::Result<u64> {
    let mut bytes = [0u8; SIZE];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SIZE };
    // SAFETY: the local vector is a live array; the kernel checks the other.
    check(unsafe { libc::process_vm_readv(pid, &local, 1, &remote(place), 1, 0) } as libc::c_long)
}

/// `process_vm_writev` of a few bytes.
pub fn write(pid: i32, place: u64) -> io::Result<u64> {
    let local = libc::iovec { iov_base: WRITTEN.as_ptr().cast_mut().cast(), iov_len: SIZE };
    // SAFETY: the local vector is a live array that is only read; the kernel checks the other.
    check(unsafe { libc::process_vm_writev(pid, &local, 1, &remote(place), 1, 0) } as libc::c_long)
}

/// `process_madvise`.
pub fn advise(pidfd: RawFd, place: u64) -> io::Result<u64> {
    let page = libc::iovec { iov_base: (place & !4095) as *mut _, iov_len: 4096 };
    // SAFETY: the vector is a live local; the kernel checks what it describes.
    check(unsafe { libc::syscall(libc::SYS_process_madvise, pidfd, &raw const page, 1, COLD, 0) })
}

/// `move_pages` that only asks for the node of a page: the node, or the error for that page.
pub fn node_of(pid: i32, place: u64) -> io::Result<u64> {
    let (page, mut node) = (place & !4095, -libc::ENOENT);
    let none = std::ptr::null::<i32>();
    // SAFETY: one page and one result, both live locals; the kernel checks the page's address.
    check(unsafe { libc::syscall(libc::SYS_move_pages, pid, 1, &raw const page, none, &raw mut node, 0) })?;
    if node < 0 { Err(io::Error::from_raw_os_error(-node)) } else { Ok(node as u64) }
}

/// `kcmp` of two address spaces: 0 if they are one.
pub fn compare_memory(one: i32, other: i32) -> io::Result<u64> {
    const VM: i32 = 1;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_kcmp, one, other, VM, 0, 0) })
}

/// `pidfd_getfd`.
pub fn take_fd(pidfd: RawFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0) })?;
    // SAFETY: a number fresh from the kernel, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `PTRACE_PEEKDATA` of a stopped tracee.
pub fn peek(pid: i32, place: u64) -> io::Result<()> {
    crate::tracer::word(pid, place).map(drop)
}

/// `PTRACE_POKEDATA` of a stopped tracee.
pub fn poke(pid: i32, place: u64) -> io::Result<()> {
    crate::os::ptrace(libc::PTRACE_POKEDATA, pid, place, u64::from_le_bytes(WRITTEN))
}

/// `pread` of a few bytes.
pub fn read_at(file: &impl AsRawFd, place: u64) -> io::Result<u64> {
    let mut bytes = [0u8; SIZE];
    // SAFETY: the buffer is a live local.
    check(unsafe { libc::pread64(file.as_raw_fd(), bytes.as_mut_ptr().cast(), SIZE, place as i64) } as libc::c_long)
}

/// `pwrite` of a few bytes.
pub fn write_at(file: &impl AsRawFd, place: u64) -> io::Result<u64> {
    // SAFETY: the buffer is a live local.
    check(unsafe { libc::pwrite64(file.as_raw_fd(), WRITTEN.as_ptr().cast(), SIZE, place as i64) } as libc::c_long)
}

/// A page's word in an open pagemap; none at the end of the file.
pub fn page_word(file: &impl AsRawFd, place: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0u8; 8];
    let offset = (place >> 12) * 8;
    // SAFETY: the buffer is a live local.
    let read =
        check(unsafe { libc::pread64(file.as_raw_fd(), bytes.as_mut_ptr().cast(), 8, offset as i64) } as libc::c_long)?;
    Ok((read == 8).then(|| u64::from_le_bytes(bytes)))
}
